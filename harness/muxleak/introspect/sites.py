"""Creation sites: the few lines of code that led to a task.

Captured in under a microsecond and interned, because every task of a long run has one; turned into
text only when shown. The text names no absolute path, so it is the same on every machine.
"""

import asyncio
import os
import sys
from functools import lru_cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

MAX_FRAMES = 4
_FULL = 2 * MAX_FRAMES

_ASYNCIO = str(Path(asyncio.__file__).parent) + os.sep
_PACKAGE = str(Path(__file__).parents[1]) + os.sep
# The loop's own frame ends the walk: below it stands whoever drives the loop. uvloop has none, but
# the runner that drives it has.
_HANDLE_RUN = asyncio.Handle._run.__code__  # noqa: SLF001 - it has no public name
_RUNNER_RUN = asyncio.Runner.run.__code__

_USER, _INTERNAL, _LAST, _PERHAPS_LAST = range(4)  # what a walk does at a frame of a file
_internal = [_ASYNCIO, _PACKAGE]
_by_file: dict[str, int] = {}
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

    Interned: equal sites are one object, so compare with `is`. Lines are looked up when asked for,
    never when captured.
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
        """What `intern` makes this site of."""
        return [each for point in self._points for each in point]

    def __str__(self) -> str:
        return str(self.frames[0]) if self._points else "unknown"

    def __repr__(self) -> str:
        return f"<Site {self}>"


_NOWHERE = Site(())


def trace(depth: int = 1) -> Points:
    """The raw site of the caller `depth` calls up, without frames of asyncio and of this package.

    Half the price of `capture`: for what will mostly be gone before anybody asks; see `intern`.
    """
    frame: FrameType | None = sys._getframe(depth)  # noqa: SLF001 - traceback costs 20 times as much
    points: Points = []
    by_file = _by_file
    while frame is not None:
        code = frame.f_code
        try:
            part = by_file[code.co_filename]
        except KeyError:
            part = _part(code.co_filename)
        if not part:
            points.append(code)
            points.append(frame.f_lasti)
            if len(points) == _FULL:
                break
        elif part > _INTERNAL and (part == _LAST or code is _HANDLE_RUN or code is _RUNNER_RUN):
            break
        frame = frame.f_back
    return points


def intern(points: Points) -> Site:
    """The one site object for what `trace` gave."""
    if not points:
        return _NOWHERE
    # Code objects hash by value, slowly, but are compared by identity first. Their ids are stable
    # because the sites hold them.
    known = _interned.setdefault((id(points[0]), points[1]), [])
    for other, site in known:
        if other == points:
            return site
    pairs = tuple(zip(points[::2], points[1::2], strict=True))
    # A line is several instructions; 3.11 moves a call from one to the next as it warms up.
    lines = tuple((id(code), _line(code, lasti)) for code, lasti in pairs)
    site = _by_line.setdefault(lines, Site(pairs))
    known.append((points, site))
    return site


def capture(depth: int = 1) -> Site:
    """`intern` of `trace`: the site of the caller `depth` calls up."""
    return intern(trace(depth + 1))


def end_at(filename: str) -> None:
    """End the walk of every site at the frames of a file: an event loop written in Python."""
    _by_file[filename] = _LAST


def hide(folder: str) -> None:
    """Leave the frames of the files below a folder out of every site made from now on."""
    _internal.append(folder.rstrip(os.sep) + os.sep)


def is_internal(filename: str) -> bool:
    """Whether a file belongs to asyncio or to this package, whose frames no site shows."""
    part = _by_file.get(filename)
    return (_part(filename) if part is None else part) != _USER


def _part(filename: str) -> int:
    if filename in (_HANDLE_RUN.co_filename, _RUNNER_RUN.co_filename):
        part = _PERHAPS_LAST
    else:
        part = _INTERNAL if filename.startswith(tuple(_internal)) else _USER
    _by_file[filename] = part
    return part


@lru_cache(maxsize=1024)
def short_path(filename: str) -> str:
    """`filename` relative to the working directory, else to the root of its package."""
    if filename.startswith("<"):
        return filename
    path = Path(filename)
    here = Path.cwd()
    if path.is_relative_to(here) and "site-packages" not in path.parts:
        return path.relative_to(here).as_posix()
    root = path.parent
    while (root / "__init__.py").exists():
        root = root.parent
    return path.relative_to(root).as_posix()


def _line(code: CodeType, lasti: int) -> int:
    for start, end, line in code.co_lines():
        if start <= lasti < end and line is not None:
            return line
    return code.co_firstlineno
