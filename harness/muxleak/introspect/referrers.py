"""Referrers: who can still wake a blocked task, and who holds an object in a single slot.

Both questions are put to the garbage collector, for one leak of each group that a report shows.
"""

# `who_can_wake` decides if a blocked task can ever run again. It starts at the future that the task
# awaits and climbs, level by level, to the objects that refer to it, since only code that can reach
# the future can complete it. The search ends at a *root*, an object that is alive without being
# referred to by anything that the search can see:
#
#   a variable of a module, a class         code that is called later can use it
#   a local variable of a running function  that function can use it
#   a timer that is set, an executor job, a running thread, an open transport
#   a task that is ready to run
#
# If the search ends without a root, nothing can complete the future, and the task is blocked for
# ever. Rules that make this exact:
#
# - Whoever holds a *task* cannot wake it by that, so the referrers of a task are not climbed. A
#   blocked task that is met on the way is no root; the search goes on from the future which that
#   task awaits. So two tasks that wait for each other are found to be dead.
# - A weak reference is a reference: a stream's protocol holds its reader so and feeds it. The
#   exception are coroutines and futures, which asyncio's own lists hold weakly and never complete.
# - Frames and module objects are passed over. The locals of a running function are in no object
#   that the collector knows, so they are read from the frames of all threads beforehand; a module
#   is recognised by its dictionary.
# - Objects of this package only observe, so they are no holders; the timers and transports of its
#   simulated loops do work like those of asyncio, so they are.
# - A loop written in C, uvloop's, holds futures where the collector does not look. If a future is
#   referred to by nothing but those who wait for it and the loop is no loop of asyncio's, the
#   answer is that it cannot be seen, never that nothing can wake the task.
#
# `held_by_slot` climbs from an object to a module by names and attributes alone. A name or an
# attribute holds one object at a time, so it cannot collect leaks: such an object is a service that
# is meant to stay. A list, set or dictionary can hold any number and ends the path.
#
# Price: each level is one `gc.get_referrers`, which walks the whole heap. So the levels and the
# objects met are bounded, reports ask for the groups they show and for one task of each, and
# `held_by_slot` is not asked about many objects made at one place.

import asyncio
import concurrent.futures
import gc
import sys
import threading
from collections import deque
from collections.abc import Iterator
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
# These may hold any number of objects, or hold them for somebody else.
_CONTAINERS: tuple[type, ...] = (list, tuple, set, frozenset, dict, deque, type)
_CONTAINERS += (CellType, CoroutineType, FunctionType, FrameType, *_FUTURES)
# Weak references to these are asyncio's own lists, which wake nothing.
_AWAITED = (CoroutineType, GeneratorType, AsyncGeneratorType, *_FUTURES)
# These wait for a future, while other referrers may complete it.
_WAITING = (CoroutineType, asyncio.Task)
_ITERATOR = "FutureIter"  # has no public name
_PASSED_OVER = (FrameType, type(sys._getframe), ModuleType)  # noqa: SLF001 - a built-in function's type


def who_can_wake(task: asyncio.Task[Any]) -> str:
    """Say in one line if anything alive can still wake a blocked task.

    Args:
        task: a task that has not ended.

    Returns:
        The clause for a report, such as "nothing alive can wake it".
    """
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
    """Return the variable or attribute that holds `thing`, such as "app.CLIENT.task".

    The path leads from a module to `thing` by names and attributes only: those hold one object at
    a time, so that objects cannot accumulate there. In a list, set or dict they can, so no path
    leads through one.

    Returns:
        The path; None if there is none.
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
                    # A dict that is nobody's attributes may hold any number.
                    following += [(owner, f".{key}{path}")] if owner is not None else []
                elif _has_slots(holder):
                    following.append((holder, path))
        level = [each for each in following if id(each[0]) not in seen][:MAX_OBJECTS]
        seen.update(id(each[0]) for each in level)
        if not level:
            break
    return None


class _Search:
    """One search, from a future upwards to a root that could complete it.

    Attributes:
        complete: False once a bound of the search was met.
        hidden: True if the loop holds the future where the garbage collector does not look.
        seen: objects met, by id; holding them keeps the ids from being used again.
        modules: names of modules, by the id of their dictionary.
        locals: places of local variables of running functions, by the id of their value.
    """

    def __init__(self) -> None:
        self.complete = True
        self.hidden = False
        self.seen: dict[int, Any] = {}
        self.modules = _modules()
        self.locals = _running_locals()

    def from_future(self, task: asyncio.Task[Any], waiter: Any) -> str | None:
        """Return the root that holds `waiter`, the future that `task` awaits; None if none does."""
        self.seen[id(task)] = task
        level = [waiter]
        for _ in range(MAX_LEVELS):
            for each in level:
                self.seen[id(each)] = each
            for each in level:
                found = self._root(each)
                if found is not None:
                    return found
            if not level:
                return None
            if len(self.seen) > MAX_OBJECTS:
                break
            waits, level = level == [waiter], list(self._above(level))
            if waits and all(map(_waits, level)):
                self.hidden = not isinstance(waiter.get_loop(), asyncio.BaseEventLoop)
        self.complete = False
        return None

    def _above(self, level: list[Any]) -> Iterator[Any]:
        """Yield the referrers of `level`, each once; for a blocked task the future it awaits."""
        # The structures of this search refer to what it searches, too.
        own = {id(level), id(self.seen), id(self.locals), id(self.modules)}
        climbed = [each for each in level if not isinstance(each, asyncio.Task)]
        own.add(id(climbed))
        for each in level:
            if isinstance(each, asyncio.Task):
                waiter = getattr(each, "_fut_waiter", None)
                if waiter is not None and id(waiter) not in self.seen:
                    yield waiter
        weak = [
            holder
            for each in climbed
            if not isinstance(each, _AWAITED)
            for holder in getweakrefs(each)
        ]
        own.add(id(weak))
        for holder in [*weak, *(gc.get_referrers(*climbed) if climbed else ())]:
            if id(holder) in self.seen or id(holder) in own or _observes(holder):
                continue
            # The tuple of arguments of that very call.
            if isinstance(holder, tuple) and [*map(id, holder)] == [*map(id, climbed)]:
                continue
            self.seen[id(holder)] = holder
            if isinstance(holder, _PASSED_OVER):
                continue
            yield holder

    def _root(self, thing: Any) -> str | None:
        """Return `thing` as text if it is a root, else None."""
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
        return _active(thing)


def _waits(holder: Any) -> bool:
    return isinstance(holder, _WAITING) or type(holder).__name__ == _ITERATOR


def _active(thing: Any) -> str | None:
    """Return `thing` as text if it is at work: a timer, a job, a thread or a transport."""
    # uvloop's class has the name of asyncio's, and is no subclass of it.
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
    """Return the name of each module but ours, by the id of its dictionary."""
    return {
        id(vars(module)): name
        for name, module in list(sys.modules.items())
        if not name.startswith("muxleak.") and hasattr(module, "__dict__")
    }


def _running_locals() -> dict[int, str]:
    """Return the places of the local variables of running functions, by the id of their value."""
    found: dict[int, str] = {}
    for start in sys._current_frames().values():  # noqa: SLF001 - documented
        frame: FrameType | None = start
        while frame is not None:
            module = str(frame.f_globals.get("__name__", ""))
            if not module.startswith(("muxleak.", "asyncio")):
                where = code_place(frame.f_code, frame.f_lineno)
                for name, value in frame.f_locals.items():
                    found.setdefault(id(value), f"{name} in {where}")
            frame = frame.f_back
    return found


def _observes(holder: Any) -> bool:
    """Return True for an object of this package that only observes.

    The timers and transports of its loops work.
    """
    works = isinstance(holder, asyncio.Handle | asyncio.BaseTransport)
    return not works and type(holder).__module__.startswith("muxleak.")


def _key_of(holder: dict[Any, Any], held: Any) -> str:
    return next((str(key) for key, value in list(holder.items()) if value is held), "?")


def _owner_of(attributes: dict[Any, Any]) -> Any:
    """Return the object or class whose attributes these are."""
    for holder in gc.get_referrers(attributes):
        if isinstance(holder, type) or getattr(holder, "__dict__", None) is attributes:
            return holder
    return None


def _has_slots(holder: Any) -> bool:
    """Return True for an ordinary object, which holds one object in each attribute."""
    if isinstance(holder, _CONTAINERS) or _observes(holder):
        return False
    return any("__dict__" in vars(base) or "__slots__" in vars(base) for base in type(holder).mro())
