"""Referrers: who can still wake a blocked task, and who holds an object in a single slot.

Both questions are put to the garbage collector, for all objects of a report together.
"""

# `wakers` decides for each of some blocked tasks if it can ever run again. It starts at the future
# that the task awaits and climbs, level by level, to the objects that refer to it, since only code
# that can reach the future can complete it. The search ends at a *root*, an object that is alive
# without being referred to by anything that the search can see:
#
#   a timer that is armed, an executor job, a running thread, an open transport
#   a descriptor that the loop watches, a task that is ready to run, the loop itself
#   a variable of a module, a class         code that is called later can use it
#   a local variable of a running function  that function can use it
#   code in C that holds it unseen          (see `heap`)
#
# If the search ends without a root, nothing can complete the future, and the task is blocked for
# ever. Rules that make this exact:
#
# - A timer may end a task by cancelling it (`asyncio.timeout`, anyio's scopes, from Python 3.12 on
#   `wait_for`), so the referrers of the task are climbed, too; there only an armed timer is a root.
#   Other holders of a task could cancel it as well; so can everybody, by `asyncio.all_tasks()`, so
#   that this is no news. The task that runs the search is not climbed: it is the one that reports.
# - A blocked task that is met on the way is no root; the search goes on from the future which that
#   task awaits, and from its timers. So two tasks that wait for each other are found to be dead.
# - A timer is *its own* if it was set for the awaited future (`sleep`, `wait`) or for the task
#   (`timeout`). Those are found from the list of armed timers, before the heap is walked at all:
#   the commonest leak, a sleep, costs no walk.
# - A weak reference is a reference: a stream's protocol holds its reader so and feeds it. The
#   exception are coroutines and futures, which asyncio's own lists hold weakly and never complete.
# - Frames and module objects are passed over. The locals of a running function are in no object
#   that the collector knows, so they are read from the frames of all threads beforehand; a module
#   is recognised by its dictionary.
# - Objects of this package only observe, so they are no holders; the timers and transports of its
#   simulated loops do work like those of asyncio, so they are.
#
# `held_by_slots` climbs from objects to modules by names and attributes alone. A name or an
# attribute holds one object at a time, so it cannot collect leaks: such an object is a service that
# is meant to stay. A list, set or dictionary can hold any number and ends the path.
#
# Price: one walk of the heap for each level, for all tasks together. The levels and the objects met
# are bounded, and reports ask for one task of each group that they show.

import asyncio
import concurrent.futures
import gc
import selectors
import signal
import sys
import threading
from collections import deque
from collections.abc import Sequence
from types import (
    AsyncGeneratorType,
    BuiltinFunctionType,
    CellType,
    CoroutineType,
    FrameType,
    FunctionType,
    GeneratorType,
    MethodType,
    ModuleType,
)
from typing import Any, NamedTuple

from muxleak.introspect.heap import Heap
from muxleak.introspect.names import (
    FUTURES,
    TASKS,
    attribute,
    class_name,
    has_method,
    is_a,
    module_of,
    namespace,
    text_of,
    type_name,
)
from muxleak.introspect.timers import ArmedTimers, called, due, fires, is_timer
from muxleak.introspect.waiting import callable_name, code_place, links, name_of, scrub

MAX_LEVELS = 16
MAX_OBJECTS = 4_000

_DECIDES = "; budget= decides"
_UNSEEN = "code in C holds what it waits for"

_FUTURES = (*FUTURES, concurrent.futures.Future)
# These may hold any number of objects, or hold them for somebody else.
_CONTAINERS: tuple[type, ...] = (list, tuple, set, frozenset, dict, deque, type)
_CONTAINERS += (CellType, CoroutineType, FunctionType, FrameType, *_FUTURES)
# Weak references to these are asyncio's own lists, which wake nothing.
_AWAITED = (CoroutineType, GeneratorType, AsyncGeneratorType, *_FUTURES)
# The interpreter holds these while they run, where the collector does not look.
_RUNNABLE: tuple[type, ...] = (
    FunctionType,
    MethodType,
    BuiltinFunctionType,
    FrameType,
    CellType,
    type,
)
_RUNNABLE += (CoroutineType, GeneratorType, AsyncGeneratorType, *TASKS)


class _Root(NamedTuple):
    """An object that is alive by itself, as text; the lowest rank is named first.

    Attributes:
        rank: of the kind of root: timers first, since they say when.
        text: the clause after "could still be woken by".
    """

    rank: int
    text: str


class _Way(NamedTuple):
    """The way from a task to an object that a search has met.

    Attributes:
        cancels: True if it began at a task, not at a future: only a timer counts then.
        through: " through task X" if it leads through another task.
    """

    cancels: bool
    through: str = ""


def who_can_wake(task: asyncio.Task[Any]) -> str:
    """Say in one line if anything alive can still wake a blocked task; see `wakers`."""
    return wakers([task])[0]


def wakers(tasks: Sequence[asyncio.Task[Any]]) -> list[str]:
    """Say for each of some tasks in one line if anything alive can still wake it.

    Args:
        tasks: tasks that have not ended.

    Returns:
        A clause for a report for each, such as "nothing alive can wake it".
    """
    if not tasks:
        return []
    heap = Heap(lambda thing: not is_a(thing, _AWAITED))
    alive = _Alive()
    searches = [_Search(task, heap, alive) for task in tasks]
    for _ in range(MAX_LEVELS):
        open_ = [each for each in searches if each.level]
        if not open_:
            break
        heap.find(name for each in open_ for name, _ in each.level)
        for each in open_:
            each.climb()
    return [each.answer() for each in searches]


def held_by_slot(thing: Any) -> str | None:
    """Return the variable or attribute that holds `thing`; see `held_by_slots`."""
    return held_by_slots([thing])[0]


def held_by_slots(things: Sequence[Any]) -> list[str | None]:
    """Return for each object the variable or attribute that holds it, such as "app.CLIENT.task".

    The path leads from a module to the object by names and attributes only: those hold one object
    at a time, so that objects cannot accumulate there. In a list, set or dict they can, so no path
    leads through one.

    Returns:
        The path of each; None if there is none.
    """
    if not things:
        return []  # a clean check asks so
    heap, modules = Heap(), modules_by_dict()
    found: list[str | None] = [None] * len(things)
    levels = [[(heap.keep(thing), "")] for thing in things]
    seen = [{id(thing)} for thing in things]
    for _ in range(MAX_LEVELS):
        heap.find(name for level in levels for name, _ in level)
        for index, level in enumerate(levels):
            above: list[tuple[int, str]] = []
            for name, path in level:
                found[index] = found[index] or _slots_above(heap, modules, name, path, above)
            levels[index] = []
            if found[index] is None:
                levels[index] = [each for each in above if each[0] not in seen[index]]
                seen[index].update(name for name, _ in above)
            if len(seen[index]) > MAX_OBJECTS:
                levels[index] = []
        if not any(levels):
            break
    return found


def _slots_above(
    heap: Heap, modules: dict[int, str], name: int, path: str, above: list[tuple[int, str]]
) -> str | None:
    """Return the path if a module holds the object; else list its holders in `above`."""
    held = heap.thing(name)
    attributes = type(held) is dict
    for holder in heap.holders(name):
        thing = heap.thing(holder)
        if attributes:
            # A dict that is nobody's attributes may hold any number.
            if is_a(thing, type) or attribute(thing, "__dict__") is held:
                above.append((holder, path))
        elif type(thing) is dict:
            text = f".{_key_of(thing, held)}{path}"
            if holder in modules:
                return f"{modules[holder]}{text}"
            above.append((holder, text))
        elif _has_slots(thing):
            above.append((holder, path))
    return None


class _Alive:
    """Facts that all searches of one report share.

    Attributes:
        modules: names of modules, by the id of their dictionary.
        locals: places of local variables of running functions, by the id of their value.
        timers: armed timers, by loop.
        current: the task that runs the search; None outside a task.
    """

    def __init__(self) -> None:
        self.modules = modules_by_dict()
        self.locals = running_locals()
        self.timers = ArmedTimers()
        # Called outside a loop, too, where `current_task` would raise.
        loop = asyncio._get_running_loop()  # noqa: SLF001 - documented for loop implementations
        self.current = asyncio.current_task(loop) if loop is not None else None


class _Search:
    """One search, from a task upwards to a root that could wake it.

    Attributes:
        level: objects met whose referrers are not known yet.
    """

    def __init__(self, task: asyncio.Task[Any], heap: Heap, alive: _Alive) -> None:
        self.level: list[tuple[int, _Way]] = []
        self._heap, self._alive = heap, alive
        self._seen: set[tuple[int, bool]] = set()
        self._found: list[_Root] = []
        self._cut = self._hidden = False
        waiter = attribute(task, "_fut_waiter")
        self._ready = waiter is None
        self._own = alive.timers.own(task)
        if not self._ready and self._own is None:
            self._pass(task, _Way(cancels=False))
            if self._found:
                self.level.clear()

    def climb(self) -> None:
        """Go on from each object of the level to its referrers, which the heap knows now."""
        level, self.level = self.level, []
        for name, way in level:
            if not way.cancels and self._heap.is_hidden(name):
                self._hidden |= not is_a(self._heap.thing(name), _RUNNABLE)
            for holder in map(self._heap.thing, self._heap.holders(name)):
                if not (_observes(holder) or _passed_over(holder)):
                    self._meet(holder, way)
        if self._found:
            self.level.clear()
        elif len(self._seen) > MAX_OBJECTS:
            self.level.clear()
            self._cut = True

    def answer(self) -> str:
        """Return the clause for the report."""
        if self._ready:
            return "it is ready to run"
        if self._own is not None:
            return f"its timer fires {fires(self._own)}{_DECIDES}"
        if self._found:
            return f"could still be woken by {min(self._found).text}"
        if self._hidden:
            hides = "gc.freeze hides its holders" if gc.get_freeze_count() else _UNSEEN
            return f"who could wake it cannot be seen: {hides}"
        if self._cut or self.level:
            return "who could wake it is not known"
        return "nothing alive can wake it"

    def _meet(self, thing: Any, way: _Way) -> None:
        """Note a root, or an object whose referrers are to be looked at."""
        if {(id(thing), False), (id(thing), way.cancels)} & self._seen:
            return
        name = self._heap.keep(thing)
        self._seen.add((name, way.cancels))
        # A finished task only holds its result, as any object might.
        if is_a(thing, TASKS) and not thing.done():
            self._meet_task(thing, way)
            return
        root = self._root(thing, way)
        if root is not None:
            self._found.append(root)
        elif not (is_timer(thing) or (way.cancels and self._ends(thing))):
            # A timer that is not armed calls nothing, whoever holds it.
            self.level.append((name, way))

    def _meet_task(self, task: Any, way: _Way) -> None:
        """Go on from another task to the object that it waits for, and to its timers."""
        if task is self._alive.current and way.cancels:
            return
        own = self._alive.timers.own(task)
        if own is not None:
            text = f"task {name_of(task)}, whose timer fires {fires(own)}{_DECIDES}"
            self._found.append(_Root(0, text))
        elif attribute(task, "_fut_waiter") is not None:
            self._pass(task, _Way(way.cancels, f" through task {name_of(task)}"))
        elif not way.cancels:
            self._found.append(_Root(2, f"task {name_of(task)}, which is ready to run"))

    def _pass(self, task: Any, way: _Way) -> None:
        """Go on from a blocked task: to its awaited future, and by its referrers to timers."""
        name = self._heap.keep(task)
        self._seen.add((name, True))
        # The coroutines in which it is suspended lead to the task only, at the price of two levels.
        self._seen.update((id(link), False) for _, link in links(task))
        self.level.append((name, _Way(cancels=True, through=way.through)))
        self._meet(task._fut_waiter, way)  # noqa: SLF001 - there is no public way to ask

    def _ends(self, thing: Any) -> bool:
        """Return True for objects that lead to everything, such as modules and running code."""
        runs = is_a(thing, CoroutineType) and thing.cr_running
        everything = (type, asyncio.AbstractEventLoop)
        return runs or id(thing) in self._alive.modules or is_a(thing, everything)

    def _root(self, thing: Any, way: _Way) -> _Root | None:
        """Return `thing` as a root if it is one."""
        if is_timer(thing):
            wait = due(thing)
            text = f"a timer of {callable_name(called(thing)[0])}"
            if wait is None:
                return None
            return _Root(0, f"{text} {fires(wait)}{way.through}{_DECIDES}")
        root = None if way.cancels else _active(thing) or self._variable(thing)
        return root and _Root(root.rank, root.text + way.through)

    def _variable(self, thing: Any) -> _Root | None:
        """Return `thing` as a root if it is a local variable, a module or a class."""
        local = self._alive.locals.get(id(thing))
        if local is not None:
            return _Root(4, local)
        module = self._alive.modules.get(id(thing))
        if module is not None:
            keys = (key for key, value in list(thing.items()) if (id(value), False) in self._seen)
            return _Root(5, f"{module}.{next(keys, '?')}")
        return _Root(6, f"class {class_name(thing)}") if is_a(thing, type) else None


def _active(thing: Any) -> _Root | None:
    """Return `thing` as a root if it is at work: a job, a thread, a transport, a descriptor."""
    found = None
    if type_name(thing) == "_WorkItem" and module_of(thing).startswith("concurrent."):
        found = _Root(1, "an executor job")
    elif is_a(thing, threading.Thread) and threading.Thread.is_alive(thing):
        found = _Root(1, f"thread {text_of(thing, 'name')}")
    elif has_method(thing, "get_extra_info") and has_method(thing, "get_protocol"):
        found = _transport(thing)
    elif is_a(thing, selectors.SelectorKey):
        found = _Root(3, "a descriptor that the loop watches")
    elif type_name(thing) == "_localdummy":
        found = _Root(4, "a variable of a thread")
    elif is_a(thing, asyncio.AbstractEventLoop) and not attribute(thing, "_closed"):
        found = _Root(6, "a callback of the loop")
    return found


def _transport(thing: Any) -> _Root | None:
    """Return a transport as a root, unless its connection has ended."""
    try:
        if thing.get_protocol() is None:
            return None
        peer = thing.get_extra_info("peername")
        return _Root(2, scrub(f"an open {type_name(thing)}" + (f" to {peer}" if peer else "")))
    except Exception:  # noqa: BLE001 - asyncio's TLS transports raise once they are closed
        return None


def modules_by_dict() -> dict[int, str]:
    """Return the name of each module but ours, by the id of its dictionary."""
    return {
        id(namespace(module)): name
        for name, module in list(sys.modules.items())
        if not name.startswith("muxleak.")
    }


def running_locals() -> dict[int, str]:
    """Return the places of the local variables of running functions, by the id of their value."""
    found = {id(signal.getsignal(each)): f"the handler of {each.name}" for each in signal.Signals}
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
    works = is_a(holder, (asyncio.Handle, asyncio.BaseTransport))
    return not works and module_of(holder).startswith("muxleak.")


def _passed_over(holder: Any) -> bool:
    """Return True for frames, modules, and the functions of modules written in C."""
    if is_a(holder, BuiltinFunctionType):
        # `task.cancel` is one, too, and holds its task.
        return is_a(holder.__self__, ModuleType)
    return is_a(holder, (FrameType, ModuleType))


def _key_of(holder: dict[Any, Any], held: Any) -> str:
    return next((str(key) for key, value in list(holder.items()) if value is held), "?")


def _has_slots(holder: Any) -> bool:
    """Return True for an ordinary object, which holds one object in each attribute."""
    if is_a(holder, _CONTAINERS) or _observes(holder):
        return False
    return has_method(holder, "__dict__") or has_method(holder, "__slots__")
