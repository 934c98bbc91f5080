"""Who holds a thing, and whether anything alive can still wake a task.

Asked only of leaks, for one of each group: the garbage collector is asked who refers to what, level
by level, and the search stops at what is alive in itself (a module, a running frame, a timer, an
open transport, a job, a task that can run) or at its bounds. A blocked task is not alive in itself:
whoever could wake *it* is looked for instead.
"""

import asyncio
import concurrent.futures
import gc
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from types import (
    AsyncGeneratorType,
    CellType,
    CoroutineType,
    FrameType,
    FunctionType,
    GeneratorType,
    ModuleType,
)
from typing import Any
from weakref import getweakrefs

from muxleak.introspect.waiting import code_place, name_of, scrub

MAX_LEVELS = 10
MAX_OBJECTS = 4_000

_FUTURES = (asyncio.Future, concurrent.futures.Future)
# What may hold any number of things, or holds them for somebody else.
_PILES: tuple[type, ...] = (list, tuple, set, frozenset, dict, deque, type)
_PILES += (CellType, CoroutineType, FunctionType, FrameType, *_FUTURES)
# Held weakly by asyncio's own lists, which wake nothing.
_AWAITED = (CoroutineType, GeneratorType, AsyncGeneratorType, *_FUTURES)
# What waits for a future, as against what may complete it.
_WAITING = (CoroutineType, asyncio.Task)
_ITERATOR = "FutureIter"  # has no public name
_PASSED_OVER = (FrameType, type(sys._getframe), ModuleType)  # noqa: SLF001 - a built-in function's type


def who_can_wake(task: asyncio.Task[Any]) -> str:
    """Whether anything alive can still wake a blocked task, in one line."""
    waiter = getattr(task, "_fut_waiter", None)
    if waiter is None:
        return "it is ready to run"
    search = _Search()
    found = search.from_future(task, waiter)
    if found is not None:
        return f"could still be woken by {found}"
    if search.hidden:
        return f"who could wake it cannot be seen on {type(waiter.get_loop()).__module__}"
    return "nothing alive can wake it" if search.complete else "who could wake it is not known"


def held_by_slot(thing: Any) -> str | None:
    """The module's name or attribute that alone holds `thing`, such as "app.CLIENT.task".

    A slot holds one thing at a time, so it cannot pile up; a list, set or dict of things can, and
    does not count. None if there is no such slot.
    """
    modules = _modules()
    level, seen = [(thing, "")], {id(thing)}
    for _ in range(MAX_LEVELS):
        following: list[tuple[Any, str]] = []
        for held, path in level:
            for holder in gc.get_referrers(held):
                if isinstance(holder, dict):
                    if id(holder) in modules:
                        return f"{modules[id(holder)]}.{_key_of(holder, held)}{path}"
                    key, owner = _key_of(holder, held), _owner_of(holder)
                    # A dict that nobody has as attributes may hold any number.
                    following += [(owner, f".{key}{path}")] if owner is not None else []
                elif _has_slots(holder):
                    following.append((holder, path))
        level = [each for each in following if id(each[0]) not in seen][:MAX_OBJECTS]
        seen.update(id(each[0]) for each in level)
        if not level:
            break
    return None


class _Search:
    """One search upwards from a future to anything alive that could complete it."""

    def __init__(self) -> None:
        self.complete = True
        self.hidden = False
        self.seen: dict[int, Any] = {}
        self.modules = _modules()
        self.locals = _running_locals()

    def from_future(self, task: asyncio.Task[Any], waiter: Any) -> str | None:
        """What is alive and holds `waiter`, as text."""
        self.seen[id(task)] = task
        level = [waiter]
        for _ in range(MAX_LEVELS):
            for each in level:
                self.seen[id(each)] = each
            for each in level:
                found = self._alive(each)
                if found is not None:
                    return found
            if not level:
                return None
            if len(self.seen) > MAX_OBJECTS:
                break
            waits, level = level == [waiter], list(self._above(level))
            if waits and all(map(_waits, level)):
                # A loop in C holds futures where the collector does not look.
                self.hidden = not isinstance(waiter.get_loop(), asyncio.BaseEventLoop)
        self.complete = False
        return None

    def _above(self, level: list[Any]) -> Iterator[Any]:
        """What refers to anything of `level`, once each; for a blocked task what it waits for."""
        own = {id(level), id(self.seen), id(self.locals), id(self.modules)}
        # Nobody wakes a task by holding the task.
        climbed = [each for each in level if not isinstance(each, asyncio.Task)]
        own.add(id(climbed))
        for each in level:
            if isinstance(each, asyncio.Task):
                waiter = getattr(each, "_fut_waiter", None)
                if waiter is not None and id(waiter) not in self.seen:
                    yield waiter
        # Who holds a thing weakly can use it as well: so does a stream's protocol its reader.
        weak = [
            holder
            for each in climbed
            if not isinstance(each, _AWAITED)
            for holder in getweakrefs(each)
        ]
        own.add(id(weak))
        for holder in [*weak, *(gc.get_referrers(*climbed) if climbed else ())]:
            if id(holder) in self.seen or id(holder) in own or _ours(holder):
                continue
            # The very arguments of that call.
            if isinstance(holder, tuple) and [*map(id, holder)] == [*map(id, climbed)]:
                continue
            self.seen[id(holder)] = holder
            if isinstance(holder, _PASSED_OVER):
                continue
            yield holder

    def _alive(self, thing: Any) -> str | None:
        """`thing` as text if it is alive in itself, else None."""
        if id(thing) in self.locals:
            return self.locals[id(thing)]
        if isinstance(thing, dict) and id(thing) in self.modules:
            held = next((key for key, value in thing.items() if id(value) in self.seen), "?")
            return f"{self.modules[id(thing)]}.{held}"
        if isinstance(thing, asyncio.Task):
            runs = not thing.done() and getattr(thing, "_fut_waiter", None) is None
            return f"task {name_of(thing)}" if runs else None
        if isinstance(thing, type):
            return f"class {thing.__qualname__}"
        return _in_itself(thing)


def _waits(holder: Any) -> bool:
    return isinstance(holder, _WAITING) or type(holder).__name__ == _ITERATOR


def _in_itself(thing: Any) -> str | None:
    # uvloop's is named as asyncio's, and no subclass of it.
    if isinstance(thing, asyncio.TimerHandle) or type(thing).__name__ == "TimerHandle":
        return None if thing.cancelled() else "a timer that is set"
    if isinstance(thing, concurrent.futures.Future):
        return None if thing.done() else "an executor job"
    if isinstance(thing, threading.Thread):
        return f"thread {thing.name}" if thing.is_alive() else None
    if hasattr(type(thing), "get_extra_info") and hasattr(type(thing), "get_protocol"):
        open_ = thing.get_protocol() is not None
        peer = thing.get_extra_info("peername")
        return scrub(f"an open {type(thing).__name__} to {peer}") if open_ else None
    return None


def _modules() -> dict[int, str]:
    """The name of each module by the id of its dict."""
    return {
        id(vars(module)): name
        for name, module in list(sys.modules.items())
        if not name.startswith("muxleak.") and hasattr(module, "__dict__")
    }


def _running_locals() -> dict[int, str]:
    """What running functions hold in local variables, by id: those are in no object's reach."""
    found: dict[int, str] = {}
    for start in sys._current_frames().values():  # noqa: SLF001 - the documented way
        frame: FrameType | None = start
        while frame is not None:
            module = str(frame.f_globals.get("__name__", ""))
            if not module.startswith(("muxleak.", "asyncio")):
                where = code_place(frame.f_code, frame.f_lineno)
                for name, value in frame.f_locals.items():
                    found.setdefault(id(value), f"{name} in {where}")
            frame = frame.f_back
    return found


def _ours(holder: Any) -> bool:
    """Whether it only watches: what is ours, but for the timers and transports of our loops."""
    works = isinstance(holder, asyncio.Handle | asyncio.BaseTransport)
    return not works and type(holder).__module__.startswith("muxleak.")


def _key_of(holder: dict[Any, Any], held: Any) -> str:
    return next((str(key) for key, value in list(holder.items()) if value is held), "?")


def _owner_of(attributes: dict[Any, Any]) -> Any:
    """The object or class whose attributes these are."""
    for holder in gc.get_referrers(attributes):
        if isinstance(holder, type) or getattr(holder, "__dict__", None) is attributes:
            return holder
    return None


def _has_slots(holder: Any) -> bool:
    """Whether it is an ordinary object, which holds one thing in each attribute."""
    if isinstance(holder, _PILES) or _ours(holder):
        return False
    return any("__dict__" in vars(base) or "__slots__" in vars(base) for base in type(holder).mro())


def callbacks_of(future: Any) -> list[Any]:
    """The callbacks of a future that are not the wake-up of a task, which is counted as itself."""
    pairs: Iterable[Any] = getattr(future, "_callbacks", None) or ()
    callbacks = (pair[0] if isinstance(pair, tuple) else pair for pair in pairs)
    return [
        each for each in callbacks if not isinstance(getattr(each, "__self__", None), asyncio.Task)
    ]
