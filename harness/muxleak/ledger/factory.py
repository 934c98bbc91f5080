"""The task factory that counts."""

import asyncio
from collections.abc import Callable
from typing import Any

from muxleak.introspect.sites import Points, trace
from muxleak.ledger.counters import CURRENT, YOUNG, Counters, Scope, charged, tidy
from muxleak.ledger.task_class import TASK, Note


def counting(counters: Counters, root: Scope, previous: Any) -> Callable[..., Any]:
    """A task factory that counts; a closure, since its every lookup is paid per task."""
    current, young, new_task = CURRENT.get, counters.young, TASK
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
        if previous is None:
            task = new_task(coro, loop=loop, **settings) if settings else new_task(coro, loop=loop)
        else:
            task = previous(loop, coro, **settings)
        if counters.active:
            scope = current() if context is None else context.get(CURRENT)
            # A scope of another ledger says nothing to this one.
            if scope is None or scope.counters is not counters:
                scope = charged(scope, counters) or root
            # One that was made by `asyncio.Task` has been noted already, where that was called.
            if previous is not None and young and young[-1][0] is task:
                young.pop()
            note((task, trace(2), scope))
            if len(young) >= YOUNG:
                tidy(root)
        return task

    return factory


def noting(counters: Counters, root: Scope) -> Note:
    """Take note, as `counting` does, of a task that is made without a factory."""

    def note(task: Any, context: Any, points: Points) -> None:
        if counters.active:
            # Before, so that it stays the last until its maker returns.
            if len(counters.young) >= YOUNG:
                tidy(root)
            scope = CURRENT.get() if context is None else context.get(CURRENT)
            counters.young.append((task, points, charged(scope, counters) or root))

    return note
