"""Creation sites: the few lines of code that led to a task or a resource.

Captured in under a microsecond and interned, because every task of a long run has one; turned into
text only when shown. The text names no absolute path, so it is the same on every machine.
"""

# Capture. Every task that is made while a ledger is installed pays for one walk up the stack, so
# `trace` does as little as it can: it follows `f_back` from `sys._getframe` (the `traceback` module
# costs 20 times as much), decides by one dictionary lookup for each frame what to do with it, and
# appends the code object and the instruction offset to one flat list. It makes no tuple for a
# frame, looks up no line and formats nothing.
#
# Which frames count:
#
#   file of the frame                       effect on the walk
#   ------------------------------------    -----------------------------------------------
#   user code                               kept; the walk ends after `MAX_FRAMES` of them
#   wrapper functions of frameworks         passed over, but kept if no user code follows
#   asyncio, this package, hidden folders   passed over
#   asyncio's events.py and runners.py      the same, but `Handle._run` and `Runner.run` end it
#   an event loop written in Python         ends it (`end_at`, called by the simulated loops)
#
# The walk ends at the loop because the frames below it belong to whoever drives the loop, which is
# not what led to the creation and differs between a test run and a service. uvloop has no frame of
# its own; the runner that drives it has one.
#
# A wrapper function creates something for its caller: anyio's `TaskGroup.start_soon`, tornado's
# `call_at`. With its line, everything that a framework makes would have one site. `WRAPPERS` names
# them by package; for other packages `add_wrappers` does. Only frames of files of these packages
# cost a second look, so that programs without such a framework pay nothing.
#
# Interning. Most tasks end before anybody asks for their site. So `trace` gives raw points, and the
# ledger calls `intern` only for tasks that were alive at a sweep, or that a report names.
# `_interned` is keyed by the `id` of the innermost code object, because code objects hash by value,
# slowly; they compare by identity first, so finding the site among the few of one key is fast. The
# ids are stable because the table holds the code objects. A second table, `_by_line`, makes two
# sites one if their lines are equal: a line is several instructions, and Python 3.11 moves a call
# from one to the next as the code warms up.
#
# Price: neither table ever shrinks. Both are bounded by the places in a program that create
# something, not by how many things are created. Code that a program compiles anew again and again
# would make them grow.

import asyncio
import os
import sys
from functools import lru_cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

from muxleak.introspect.names import namespace

MAX_FRAMES = 4
_FULL = 2 * MAX_FRAMES

_ASYNCIO = str(Path(asyncio.__file__).parent) + os.sep
_PACKAGE = str(Path(__file__).parents[1]) + os.sep
# Bound here, as tools that look for blocking calls on a loop replace it; it reads no disk.
_getcwd = os.getcwd
_HANDLE_RUN = asyncio.Handle._run.__code__  # noqa: SLF001 - it has no public name
_RUNNER_RUN = asyncio.Runner.run.__code__

WRAPPERS: dict[str, frozenset[str]] = {
    "anyio": frozenset("*"),
    "asyncer": frozenset("*"),
    "aiohttp": frozenset({"TimeoutHandle.start", "call_later", "weakref_handle"}),
    "tornado": frozenset(
        {"call_at", "call_later", "add_timeout", "add_callback", "convert_yielded"}
    ),
    "asyncssh": frozenset({"create_task"}),
    "engineio": frozenset({"start_background_task"}),
    "socketio": frozenset({"start_background_task"}),
    "hypercorn": frozenset({"spawn", "spawn_app"}),
    "aiojobs": frozenset({"spawn", "spawn_shielded"}),
    "aiotools": frozenset({"create_task", "create_timer"}),
    "quattro": frozenset({"create_task", "create_background_task"}),
}
"""The functions of each package that create something for their caller; "*" for all of them."""

# The effect of a file's frames on a walk.
_USER, _INTERNAL, _LAST, _PERHAPS_LAST, _WRAPPING = range(5)
_internal = [_ASYNCIO, _PACKAGE]
_ends: set[str] = set()
_by_file: dict[str, int] = {}
_by_code: dict[int, tuple[CodeType, bool]] = {}
_interned: dict[tuple[int, int], list[tuple[list[Any], "Site"]]] = {}
_by_line: dict[tuple[tuple[int, int], ...], "Site"] = {}

Points = list[Any]  # code object, instruction, code object, instruction...; innermost first


class SiteFrame(NamedTuple):
    """One line of one function; `filename` is as the code object has it."""

    filename: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{short_path(self.filename)}:{self.line} in {self.function}"


class Site:
    """The few frames that led to a creation, innermost first.

    Interned: equal sites are one object, so compare them with `is`. Lines are looked up when they
    are read, never when the site is captured.
    """

    __slots__ = ("_points",)

    def __init__(self, points: tuple[tuple[CodeType, int], ...]) -> None:
        self._points = points

    @property
    def frames(self) -> tuple[SiteFrame, ...]:
        """At most `MAX_FRAMES` frames, innermost first."""
        return tuple(
            SiteFrame(code.co_filename, _line(code, lasti), code.co_qualname)
            for code, lasti in self._points
        )

    @property
    def innermost(self) -> tuple[CodeType, int] | None:
        """Code and instruction of the first frame, if there is one."""
        return self._points[0] if self._points else None

    @property
    def points(self) -> Points:
        """The raw site, from which `intern` gives this object."""
        return [each for point in self._points for each in point]

    def __str__(self) -> str:
        return str(self.frames[0]) if self._points else "unknown"

    def __repr__(self) -> str:
        return f"<Site {self}>"


_NOWHERE = Site(())


def trace(depth: int = 1) -> Points:
    """Return the raw site of the caller `depth` calls up.

    It has no frames of asyncio and of this package. It costs half of `capture`, so it is the one
    for things that mostly end before their site is read; see `intern`.

    Args:
        depth: 1 for the caller of this function.

    Returns:
        At most `MAX_FRAMES` pairs, flattened: code object, instruction offset, code object, ...;
        innermost frame first.
    """
    frame: FrameType | None = sys._getframe(depth)  # noqa: SLF001 - traceback costs 20 times as much
    points: Points = []
    passed: Points | None = None
    by_file = _by_file
    while frame is not None:
        code = frame.f_code
        try:
            part = by_file[code.co_filename]
        except KeyError:
            part = _part(code.co_filename)
        if not part:
            points += (code, frame.f_lasti)
            if len(points) == _FULL:
                break
        elif part > _INTERNAL:
            if part == _WRAPPING:
                if passed is None:
                    passed = []
                (passed if _wraps(code) else points).extend((code, frame.f_lasti))
                if len(points) == _FULL:
                    break
            elif part == _LAST or code is _HANDLE_RUN or code is _RUNNER_RUN:
                break
        frame = frame.f_back
    return points or (passed[:_FULL] if passed else points)


def intern(points: Points) -> Site:
    """Return the one `Site` for a raw site of `trace`."""
    if not points:
        return _NOWHERE
    known = _interned.setdefault((id(points[0]), points[1]), [])
    for other, site in known:
        if other == points:
            return site
    pairs = tuple(zip(points[::2], points[1::2], strict=True))
    lines = tuple((id(code), _line(code, lasti)) for code, lasti in pairs)
    site = _by_line.setdefault(lines, Site(pairs))
    known.append((points, site))
    return site


def capture(depth: int = 1) -> Site:
    """Return the site of the caller `depth` calls up: `intern` of `trace`."""
    return intern(trace(depth + 1))


def caller(depth: int = 1) -> Site:
    """Return the innermost line outside the standard library, `depth` calls up or further.

    Args:
        depth: 1 for the caller of this function.

    Returns:
        A site of one frame; `capture` if the standard library alone is on the stack.
    """
    frame: FrameType | None = sys._getframe(depth)  # noqa: SLF001 - as in `trace`
    while frame is not None and frame.f_code.co_filename not in _ends:
        name = frame.f_code.co_filename
        library = name.startswith(f"{_LIBRARY}{os.sep}") and "site-packages" not in name
        if not library and not is_internal(name):
            return intern([frame.f_code, frame.f_lasti])
        frame = frame.f_back
    return capture(depth + 1)


def end_at(filename: str) -> None:
    """End the walk of every site at the frames of a file.

    Args:
        filename: the ``__file__`` of an event loop written in Python.
    """
    _ends.add(filename)
    _by_file[filename] = _LAST


def hide(folder: str) -> None:
    """Leave the frames of files below a folder out of every site made from now on.

    Args:
        folder: an absolute path, as code objects have it.
    """
    _internal.append(folder.rstrip(os.sep) + os.sep)


def add_wrappers(package: str, *functions: str) -> None:
    """Leave wrapper functions out of every site made from now on; show their callers instead.

    A wrapper creates tasks, timers or other resources for its caller, as `TaskGroup.start_soon`
    does. It is shown after all if no other code follows.

    Args:
        package: an import name, such as "mycompany.tasks".
        *functions: names of the functions, with or without their class; "*" for all of the
            package.

    Raises:
        TypeError: no function is given.
    """
    if not functions:
        raise TypeError('expected names of functions, or "*" for all of the package, got none')
    WRAPPERS[package] = WRAPPERS.get(package, frozenset()) | frozenset(functions)
    _by_file.clear()
    _by_code.clear()


def is_internal(filename: str) -> bool:
    """Return True if a file belongs to asyncio or to this package, whose frames no site shows."""
    part = _by_file.get(filename)
    return (_part(filename) if part is None else part) not in {_USER, _WRAPPING}


def _part(filename: str) -> int:
    if filename in _ends:
        part = _LAST
    elif filename in (_HANDLE_RUN.co_filename, _RUNNER_RUN.co_filename):
        part = _PERHAPS_LAST
    elif filename.startswith(tuple(_internal)):
        part = _INTERNAL
    else:
        part = _WRAPPING if _package_of(filename) is not None else _USER
    _by_file[filename] = part
    return part


def _package_of(filename: str) -> str | None:
    """Return the package with wrapper functions that a file belongs to, if it does to any."""
    for package in WRAPPERS:
        file = namespace(sys.modules.get(package)).get("__file__")
        if isinstance(file, str):
            # A package has a folder, a single module only its file.
            folder = file.removesuffix("__init__.py")
            if filename == file or (folder != file and filename.startswith(folder)):
                return package
    return None


def _wraps(code: CodeType) -> bool:
    """Return True for a wrapper function; asked about frames of `_WRAPPING` files only."""
    known = _by_code.get(id(code))
    if known is None:
        names = WRAPPERS.get(_package_of(code.co_filename) or "", frozenset())
        # The entry holds the code, so that its id is not used again.
        known = _by_code[id(code)] = code, bool({"*", code.co_name, code.co_qualname} & names)
    return known[1]


@lru_cache(maxsize=1024)
def short_path(filename: str) -> str:
    """Return `filename` relative to the working directory, else to the root of its package."""
    if filename.startswith("<"):
        return filename
    path, here = Path(filename), _folder()
    # Python itself may be installed below the working directory, too.
    installed = "site-packages" in path.parts or path.is_relative_to(_LIBRARY)
    if path.is_relative_to(here) and not installed:
        return path.relative_to(here).as_posix()
    # A report may be made while a loop runs, so packages are looked up among the loaded modules.
    files = {namespace(module).get("__file__") for module in list(sys.modules.values())}
    root = path.parent
    while str(root / "__init__.py") in files:
        root = root.parent
    return path.relative_to(root).as_posix()


def _folder() -> str:
    """Return the working directory; that of the start if it is gone or must not be asked for."""
    try:
        return _getcwd()
    except Exception:  # noqa: BLE001 - tools that forbid blocking calls raise errors of their own
        return _start


def _line(code: CodeType, lasti: int) -> int:
    for start, end, line in code.co_lines():
        if start <= lasti < end and line is not None:
            return line
    return code.co_firstlineno


_LIBRARY = Path(asyncio.__file__).parent.parent
_start = ""
_start = _folder()
