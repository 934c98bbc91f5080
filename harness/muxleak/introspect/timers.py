"""Armed timers: when each fires, and the tasks and futures that each was set for."""

# `call_later` keeps its function and arguments in the handle, and that says what a timer is for:
#
#   sleep, wait, wait_for (3.11)          the awaited future is an argument
#   asyncio.timeout, wait_for (3.12)      the function is a method of an object with `_task`
#   anyio's cancel scopes                 the same with `_tasks`, a set
#   call_later(5, task.cancel)            the function is a method of the task itself
#
# A loop written in Python lists its timers; those of uvloop are looked up among all objects. A
# handle is armed until it fires or is cancelled: asyncio marks that in `_scheduled`, uvloop not, so
# there the time decides.

import asyncio
import gc
import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from muxleak.introspect.names import FUTURES, attribute, has_method, is_a, module_of, type_name


class ArmedTimers:
    """The armed timers of loops, looked up once for each loop."""

    def __init__(self) -> None:
        self._by_loop: dict[int, dict[int, float]] = {}

    def own(self, task: asyncio.Task[Any]) -> float | None:
        """Return the seconds until the first timer set for a task, or for the future it awaits."""
        loop = task.get_loop()
        known = self._by_loop.get(id(loop))
        if known is None:
            known = self._by_loop[id(loop)] = _subjects(loop)
        times = known.get(id(task)), known.get(id(attribute(task, "_fut_waiter")))
        return min((each for each in times if each is not None), default=None)


def is_timer(thing: Any) -> bool:
    """Return True for a handle of `call_later`, of asyncio or of uvloop."""
    # uvloop's class has the name of asyncio's, and is no subclass of it.
    uvloops = type_name(thing) == "TimerHandle" and module_of(thing).startswith("uvloop")
    return uvloops or is_a(thing, asyncio.TimerHandle)


def due(handle: Any) -> float | None:
    """Return the seconds until a timer fires; None if it has run or is cancelled."""
    loop: Any = attribute(handle, "_loop") or next(
        (each for each in gc.get_referents(handle) if is_a(each, asyncio.AbstractEventLoop)), None
    )
    if loop is None or handle.cancelled() or loop.is_closed() or handle.when() is None:
        return None
    wait: float = handle.when() - loop.time()
    scheduled = attribute(handle, "_scheduled")
    armed = wait > 0 if scheduled is None else scheduled or _is_ready(loop, handle)
    # A sleep for ever is a timer that is due at the end of time.
    return max(wait, 0.0) if armed and wait < math.inf else None


def called(handle: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return the function of a timer, and its arguments."""
    parts = gc.get_referents(handle)  # uvloop shows neither by name
    callback = attribute(handle, "_callback") or next(
        (each for each in parts if callable(each)), None
    )
    args = attribute(handle, "_args")
    if args is None:
        args = next((each for each in parts if type(each) is tuple), ())
    return callback, args


def fires(wait: float) -> str:
    """Return a time as text, "in 5 s", rounded up, so that a moment more or less does not show."""
    if wait <= 0:
        return "now"
    if wait > 1:
        return f"in {math.ceil(round(wait, 3))} s"
    step = 10.0 ** max(math.floor(math.log10(wait)) - 1, -3)
    return f"in {math.ceil(round(wait / step, 3)) * step:.2g} s"


def _is_ready(loop: Any, handle: Any) -> bool:
    """Return True if the loop is about to run a callback."""
    return any(each is handle for each in _callbacks(loop))


def _callbacks(loop: Any) -> Sequence[Any]:
    """Return the callbacks that a loop is about to run; none if it keeps them its own way."""
    found = attribute(loop, "_ready")
    return found if type(found) is deque else ()


def _subjects(loop: asyncio.AbstractEventLoop) -> dict[int, float]:
    """Return the seconds until the first timer of each task and future, by id."""
    found: dict[int, float] = {}
    for handle in _timers(loop):
        wait = due(handle)
        if wait is not None:
            for subject in _subject_of(handle):
                found[id(subject)] = min(wait, found.get(id(subject), wait))
    return found


def _timers(loop: asyncio.AbstractEventLoop) -> list[Any]:
    listed = attribute(loop, "_scheduled")
    if type(listed) is list:
        return [*listed, *filter(is_timer, _callbacks(loop))]
    return [each for each in gc.get_objects() if is_timer(each)]


def _subject_of(handle: Any) -> Iterator[Any]:
    callback, args = called(handle)
    callback = attribute(callback, "func", callback)
    owner = attribute(callback, "__self__")
    candidates = [owner, *args, *(attribute(callback, "args", ()) or ())]
    candidates.append(attribute(owner, "_task"))
    if has_method(owner, "cancel"):
        tasks = attribute(owner, "_tasks", ())
        candidates += tasks if type(tasks) in {set, list} else ()
    return (each for each in candidates if is_a(each, FUTURES))
