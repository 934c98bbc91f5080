"""Notes where a program reads the real clock, which stands still in the simulation."""

# A simulated hour takes a millisecond. So a program that compares readings of `time.monotonic()`
# never sees an age, and what it ends by age stays: it looks like a leak. The calls cannot be
# refused, since logging, caches and dates of headers make them too, and they cannot be replaced,
# since a module may have imported the function by name.
#
# They are seen by a profile function, whoever holds the function, because the interpreter reports
# each call of a function in C with its caller. That makes a run slow, so only runs that are traced
# are watched: the last one of a search. Callers in the standard library and in this package say
# nothing about the program, nor do callbacks of the collector (Hypothesis has one), which run in
# the middle of any function. Calls from C are not reported. Where a profiler runs already, nothing
# is watched.

from __future__ import annotations

import gc
import sys
import time
from contextlib import contextmanager
from datetime import date
from typing import TYPE_CHECKING, Any

from muxleak.checks.report import LeakError
from muxleak.introspect.sites import is_internal
from muxleak.introspect.waiting import code_place, is_stdlib

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType, FrameType

_NAMES = ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns")
_CLOCKS = {id(getattr(time, name)): f"time.{name}()" for name in _NAMES}
_DATES = frozenset({"now", "today", "utcnow"})
_MOST = 3  # places that a report names


@contextmanager
def watched(*, watching: bool = True) -> Iterator[dict[str, None]]:
    """Note the places that read the real clock, for the length of a block.

    Args:
        watching: False to note nothing.

    Yields:
        The places as "time.monotonic() in function (file:line)", in the order of their first call.
    """
    places: dict[str, None] = {}
    if not watching or sys.getprofile() is not None:
        yield places
        return

    of_collector = {getattr(each, "__code__", None) for each in gc.callbacks}

    def see(frame: FrameType, event: str, called: Any) -> None:
        if event != "c_call":
            return
        clock = _CLOCKS.get(id(called)) or _date(called)
        filename = frame.f_code.co_filename
        if not clock or is_internal(filename) or is_stdlib(filename):
            return
        if of_collector.isdisjoint(_codes(frame)):
            places[f"{clock} in {code_place(frame.f_code, frame.f_lineno)}"] = None

    sys.setprofile(see)
    try:
        yield places
    finally:
        sys.setprofile(None)


def _codes(frame: FrameType | None) -> Iterator[CodeType]:
    """Yield the code of a frame, and of all its callers."""
    while frame is not None:
        yield frame.f_code
        frame = frame.f_back


def _date(called: Any) -> str:
    if getattr(called, "__name__", "") not in _DATES:
        return ""
    kind = getattr(called, "__self__", None)
    named = isinstance(kind, type) and issubclass(kind, date)
    return f"{kind.__name__}.{called.__name__}()" if named and isinstance(kind, type) else ""


def noting(error: BaseException | None, places: dict[str, None]) -> BaseException | None:
    """Return the error of a run; a leak names the places that have read the real clock.

    Args:
        error: the error of the run.
        places: of `watched`.
    """
    if not places or not isinstance(error, LeakError):
        return error
    shown = list(places)[:_MOST]
    note = (
        f"the real clock, which stands still in the simulation, was read by {'; '.join(shown)}: an "
        "object that ends by such an age is no leak; let the program read loop.time()"
    )
    return LeakError(error.report.noting(note)).with_traceback(error.__traceback__)
