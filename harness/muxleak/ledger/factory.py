"""The task factory that counts, and its counterpart for tasks that are made without a factory."""

# `counting` runs for every task of a loop, so it is the hottest code of the ledger. It is a closure
# over local names, because an attribute of an object would be looked up for every task. It calls
# the constructor without keyword arguments if there are none, appends one tuple, and leaves all
# else to the sweep (see `counters`).
#
# A factory that was installed before makes the task. It may do so by `asyncio.Task`, whose stand-in
# has noted the task by then (`task_class`), with a site inside that factory. So the new task is
# compared with the last entry, and such an entry is replaced by one with the site of the caller of
# `create_task`. This holds because `noting` sweeps *before* it appends: its entry is still the last
# one when the factory returns.
#
# The scope is that of the context which the task will run in: the one given by ``context=``, else
# the current one.

import asyncio
from collections.abc import Callable
from typing import Any
from weakref import ref

from muxleak.introspect.foreign import Held
from muxleak.introspect.names import type_name
from muxleak.introspect.sites import Points, trace
from muxleak.introspect.waiting import coroutine_of
from muxleak.ledger.counters import CURRENT, YOUNG, Begun, Counters, Scope, charged, compact
from muxleak.ledger.task_class import STAND_IN, TASK, Note


def counting(  # noqa: C901 - a function for each step would cost a call for each task
    counters: Counters, root: Scope, previous: Any, *, holds: bool = False
) -> Callable[..., Any]:
    """Make a task factory that counts.

    Args:
        counters: those of the ledger.
        root: the scope that is charged outside all others.
        previous: the factory that makes the tasks; None for `asyncio.Task`.
        holds: hold the tasks until their end; see `counters`.

    Returns:
        A factory for `loop.set_task_factory`.
    """
    current, young, tasks = CURRENT.get, counters.young, asyncio.tasks
    refer: Any = Held if holds else ref
    note = young.append

    def factory(
        loop: asyncio.AbstractEventLoop,
        coro: Any,
        *,
        context: Any = None,
        name: Any = None,
        eager_start: Any = None,
        **settings: Any,
    ) -> Any:
        # uvloop passes all of them always; 3.11's Task and 3.13.0's eager factory refuse some.
        if context is not None:
            settings["context"] = context
        if name is not None:
            settings["name"] = name
        if eager_start is not None:
            settings["eager_start"] = eager_start
        # Another tool may have put a class there, of which a loop makes its tasks then.
        kind: Any = TASK if tasks.Task is STAND_IN else tasks.Task
        if previous is None:
            task = kind(coro, loop=loop, **settings) if settings else kind(coro, loop=loop)
        else:
            task = previous(loop, coro, **settings)
        if counters.active:
            scope = current() if context is None else context.get(CURRENT)
            if scope is None or scope.counters is not counters:
                scope = charged(scope, counters) or root
            # One made by the stand-in, or by a subclass of it, is noted already.
            if (previous is not None or kind is not TASK) and young and young[-1][0]() is task:
                young.pop()
            try:
                note((refer(task), trace(2) or Begun(coro), scope, id(task)))
            except TypeError:
                counters.hide("task", f"{type_name(task)}, which allow no weak reference")
            if len(young) >= YOUNG:
                compact(root)
        return task

    return factory


def is_counting(factory: Any) -> bool:
    """Return True if `counting` has made a task factory, for whatever ledger."""
    return getattr(factory, "__code__", None) is _COUNTING


def without(factory: Any, counters: Counters) -> Any:
    """Return the factory that makes the tasks of one that counts for these counters.

    Args:
        factory: a task factory, or None.
        counters: those of the ledger.

    Returns:
        The factory itself if it does not count for them.
    """
    while is_counting(factory):
        cells = dict(zip(_COUNTING.co_freevars, factory.__closure__, strict=True))
        if cells["counters"].cell_contents is not counters:
            break
        factory = cells["previous"].cell_contents
    return factory


_COUNTING = next(
    each for each in counting.__code__.co_consts if getattr(each, "co_name", "") == "factory"
)


def noting(counters: Counters, root: Scope, *, holds: bool = False) -> Note:
    """Make a function that counts a task made without a factory, as `counting` does.

    Args:
        counters: those of the ledger.
        root: the scope that is charged outside all others.
        holds: hold the tasks until their end, on every loop.

    Returns:
        A function for `task_class.install`.
    """

    def note(task: Any, context: Any, points: Points) -> None:
        if counters.active:
            # Before the entry is appended, so that `counting` finds it as the last one.
            if len(counters.young) >= YOUNG:
                compact(root)
            scope = CURRENT.get() if context is None else context.get(CURRENT)
            scope = charged(scope, counters) or root
            try:
                points = points or Begun(coroutine_of(task))
                held = holds or getattr(task.get_loop(), "is_virtual", False)
                refer: Any = Held if held else ref
                counters.young.append((refer(task), points, scope, id(task)))
            except Exception as error:  # noqa: BLE001 - a subclass may answer with anything
                counters.hide("task", f"{type_name(task)}, which raise {type_name(error)}")

    return note
