"""Cost of a cancelled waiter of a context, beside a cancelled waiter of `asyncio.Event`.

The context ends every task of a connection, so its waiters are cancelled all the time, one by one
and in any order.
"""

# The order is random because it decides the price: an event keeps its waiters in a deque and
# searches it from the front for each one that leaves, so a cancellation in the order of arrival is
# cheap and one in random order costs time in proportion to the number of waiters. The context
# removes a waiter by its key, in constant time.

from __future__ import annotations

import asyncio
import time
from functools import partial
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from muxleak_scenarios.bench.measure import Beside, Comparison, in_turns
from muxleak_vless import Context

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from muxleak_scenarios.bench.measure import BenchPlan

WAITERS = 10_000


class ContextWaiter(NamedTuple):
    """An object that tasks can wait on for ever.

    Attributes:
        wait: returns a coroutine that waits on it.
        waiters: returns the number of tasks that wait.
    """

    wait: Callable[[], Coroutine[None, None, object]]
    waiters: Callable[[], int]


def on_context() -> ContextWaiter:
    """Return a new context of the server to wait on."""
    context = Context.background().child("bench")
    return ContextWaiter(context.wait, lambda: len(context._registered))  # noqa: SLF001 - only its owner counts


def on_event() -> ContextWaiter:
    """Return a new event of asyncio to wait on, the usual object to share."""
    event = asyncio.Event()
    return ContextWaiter(event.wait, lambda: len(event._waiters))  # noqa: SLF001 - the same


def cancel(make: Callable[[], ContextWaiter], waiters: int) -> float:
    """Cancel waiters in random order.

    Args:
        make: returns the object to wait on.
        waiters: number of tasks that wait on it.

    Returns:
        Seconds of CPU for one waiter.

    Raises:
        AssertionError: a task does not wait, or a cancelled one is still registered.
    """
    return asyncio.run(_cancel(make, waiters))


async def _cancel(make: Callable[[], ContextWaiter], waiters: int) -> float:
    waiting = make()
    tasks = [asyncio.ensure_future(waiting.wait()) for _ in range(waiters)]
    await asyncio.sleep(0)
    if waiting.waiters() != waiters:
        raise AssertionError(f"expected {waiters} waiters, got {waiting.waiters()}")
    # The same order in each round and for both sides.
    Random(0).shuffle(tasks)  # noqa: S311 - an order, no secret
    began = time.process_time()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    spent = time.process_time() - began
    # A side that forgot to remove its waiters would be fast, and wrong.
    if waiting.waiters() or not all(task.cancelled() for task in tasks):
        raise AssertionError(f"expected no waiter, got {waiting.waiters()}")
    return spent / waiters


def measure(plan: BenchPlan) -> list[Comparison]:
    """Compare a cancelled waiter of a context with one of `asyncio.Event`."""
    waiters = plan.size(WAITERS)
    works = {each.__name__: partial(cancel, each, waiters) for each in (on_context, on_event)}
    ours, theirs = in_turns(works, plan).values()
    note = "it grows with their number: each is looked for among all"
    # The goal holds for the full number only, since the ratio depends on it.
    beside = Beside("asyncio.Event", theirs, goal=5 if waiters == WAITERS else None, note=note)
    title = f"a context's waiter cancelled, of {waiters:,}"
    return [Comparison(title, ours, (beside,))]
