"""The open file descriptors of the process, each with the thing that it refers to."""

# Linux lists them in /proc/self/fd, where a link names the thing: "socket:[4711]", "pipe:[4712]",
# "anon_inode:[eventfd]", a path. Reading it never waits for a device. Other systems have no such
# links that could be trusted (macOS has /dev/fd, without names), so every number up to a bound is
# asked for by `fstat`, which gives the type, the device and the inode.
#
# The functions of `os` are bound at import, because tools that look for blocking calls replace
# them; none of these blocks.

import os
import re
import stat
from os import fstat as _fstat
from os import listdir as _listdir
from os import readlink as _readlink

_LISTED = "/proc/self/fd"
_MOST = 4096  # numbers asked for where the system has no list
_ANONYMOUS = re.compile(r"anon_inode:\[?(\w+)\]?")
_TYPES = (
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISFIFO, "pipe"),
    (stat.S_ISREG, "file"),
    (stat.S_ISDIR, "folder"),
    (stat.S_ISCHR, "device"),
)


def open_descriptors() -> dict[int, str]:
    """Return the target of each open descriptor, by its number.

    A target with an inode is another one after the descriptor was closed and opened anew.
    """
    try:
        names = _listdir(_LISTED)  # noqa: PTH208 - a path object is slower, and not bound
    except OSError:
        return _asked_for()
    found = {}
    for name in names:
        try:
            found[int(name)] = _readlink(f"{_LISTED}/{name}")  # noqa: PTH115 - the same
        except OSError:  # closed since; the list's own descriptor always is
            continue
    return found


def count_open() -> int:
    """Return the number of open descriptors, without reading their targets."""
    try:
        return len(_listdir(_LISTED)) - 1  # noqa: PTH208 - as above; the list has one of its own
    except OSError:
        return len(_asked_for())


def type_of(target: str) -> str:
    """Return the type of a target: "socket", "pipe", "eventfd", "file", a device's path.

    Args:
        target: as `open_descriptors` gives it.
    """
    anonymous = _ANONYMOUS.match(target)
    if anonymous:
        return anonymous[1]
    kind, colon, _ = target.partition(":")
    if colon and "/" not in kind:
        return kind
    if target.startswith("/dev/"):
        return target if not target.startswith("/dev/pts/") else "terminal"
    return "memfd" if target.startswith("/memfd:") else "file"


def _asked_for() -> dict[int, str]:
    found = {}
    for number in range(min(_limit(), _MOST)):
        try:
            status = _fstat(number)
        except OSError:
            continue
        kind = next((name for test, name in _TYPES if test(status.st_mode)), "other")
        found[number] = f"{kind}:[{status.st_dev}-{status.st_ino}]"
    return found


def _limit() -> int:
    try:
        return os.sysconf("SC_OPEN_MAX")
    except (AttributeError, OSError, ValueError):  # Windows
        return _MOST
