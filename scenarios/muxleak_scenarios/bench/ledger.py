"""Cost of the ledger: one check beside many live tasks, and one task with attribution."""

# The two figures belong together. A scan of `asyncio.all_tasks` costs nothing while tasks are
# created and time in proportion to all live tasks for each check; the ledger pays a little for each
# task, so that a check costs the same beside 100,000 tasks as beside none.
#
# For attribution the ledger stores the creation site, one frame, for each task. asyncio's debug
# mode, the usual alternative, stores a whole stack and is the baseline; a bare task is the bound.

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from muxleak.ledger.kinds import KINDS
from muxleak.ledger.ledger import Ledger
from muxleak_scenarios.bench.measure import Beside, Comparison, each, in_turns

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from muxleak_scenarios.bench.measure import BenchPlan

    Prepare = Callable[[asyncio.AbstractEventLoop, ExitStack], object]

LIVE = 100_000
"""Live tasks beside the checked scope."""
CREATED = 3_000
"""Tasks created in a round."""
BATCH = 100
_CHECKS = 100_000
_SCANS = 200_000
"""Tasks that a round of `asyncio.all_tasks` goes through."""
DEBUG = "asyncio debug mode"


async def one_by_one(created: int = CREATED) -> None:
    """Create tasks that never suspend, and await each before the next."""
    for _ in range(created):
        await asyncio.create_task(_at_once())


async def in_batches(created: int = CREATED) -> None:
    """Create tasks that suspend once, a batch at a time, and await them."""
    for _ in range(created // BATCH):
        tasks = [asyncio.create_task(_suspended()) for _ in range(BATCH)]
        for task in tasks:
            await task


def _counted(kinds: Iterable[str]) -> Prepare:
    return lambda loop, stack: stack.enter_context(Ledger(kinds).watching(loop))


def _scoped(loop: asyncio.AbstractEventLoop, stack: ExitStack) -> None:
    stack.enter_context(stack.enter_context(Ledger(KINDS).watching(loop)).scope("one"))


PREPARE: dict[str, Prepare] = {
    "bare": lambda _loop, _stack: None,
    "ledger of tasks": _counted(("task",)),
    "ledger of every kind": _counted(KINDS),
    "the same, in a scope": _scoped,
    DEBUG: lambda loop, _stack: loop.set_debug(enabled=True),
}
"""Preparations of a loop, by name, before tasks are created on it."""


def create(prepare: Prepare, work: Callable[[int], Awaitable[Any]], created: int) -> float:
    """Create tasks on a new, prepared loop.

    Args:
        prepare: one of `PREPARE`.
        work: creates so many tasks and awaits them.
        created: number of tasks.

    Returns:
        Seconds of CPU for one task.
    """
    return asyncio.run(_create(prepare, work, created))


@contextmanager
def background(loop: asyncio.AbstractEventLoop, live: int) -> Iterator[Callable[[], bool]]:
    """Keep tasks alive on a loop.

    Args:
        loop: a loop that does not run.
        live: number of tasks.

    Yields:
        A check of an empty scope for every kind of resource; it returns True.
    """
    with Ledger(KINDS).watching(loop) as ledger:
        tasks = [loop.create_task(_forever()) for _ in range(live)]
        loop.run_until_complete(asyncio.sleep(0))
        scope = ledger.scope("checked")
        yield lambda: scope.clean
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))


def checks(plan: BenchPlan, live: int) -> Comparison:
    """Compare a leak check with a scan of `asyncio.all_tasks`.

    Args:
        plan: the extent of the measurement.
        live: number of tasks alive.

    Raises:
        AssertionError: the scope is not clean, or another number of tasks is alive.
    """
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        with background(loop, live) as clean:
            if not clean() or len(asyncio.all_tasks(loop)) != live:
                raise AssertionError(f"expected a clean scope beside {live} tasks")
            # Rounds of about the same length, whatever the number of live tasks.
            scan = partial(_count, loop)
            found = in_turns(
                {
                    "ours": each(clean, _CHECKS),
                    "all_tasks": each(scan, max(1, _SCANS // (live + BATCH))),
                },
                plan,
            )
    # The ratio grows with the number of live tasks, so the goal holds for one number only.
    goal = 100_000 if live == LIVE else None
    beside = Beside("len(asyncio.all_tasks())", found["all_tasks"], goal=goal)
    return Comparison(f"a leak check, {live:,} tasks alive", found["ours"], (beside,))


def measure_check(plan: BenchPlan) -> list[Comparison]:
    """Compare a check in constant time with one that goes through all tasks."""
    return [checks(plan, plan.size(LIVE))]


def measure_task(plan: BenchPlan) -> list[Comparison]:
    """Compare a task with attribution to one in asyncio's debug mode and to a bare one.

    With attribution the task is counted in a scope, with its creation site, while the hooks of
    every kind of resource are installed.
    """
    created = plan.size(CREATED)
    names = ("the same, in a scope", "bare", DEBUG)
    works = {name: partial(create, PREPARE[name], in_batches, created) for name in names}
    ours, bare, debug = in_turns(works, plan).values()
    beside = (
        Beside("asyncio debug mode: its creation stack", debug, goal=25),
        Beside("a bare task: the limit", bare, floor=True, goal=1.35),
    )
    return [Comparison("a task created with attribution, run, ended", ours, beside)]


def _count(loop: asyncio.AbstractEventLoop) -> int:
    return len(asyncio.all_tasks(loop))


async def _create(prepare: Prepare, work: Callable[[int], Awaitable[Any]], created: int) -> float:
    # Inside the coroutine: a runner keeps the context in which it was made, which has no scope.
    with ExitStack() as stack:
        prepare(asyncio.get_running_loop(), stack)
        await asyncio.sleep(0)  # Debug mode takes effect in the next iteration.
        began = time.process_time()
        await work(created)
        return (time.process_time() - began) / created


async def _at_once() -> None:
    pass


async def _suspended() -> None:
    await asyncio.sleep(0)


async def _forever() -> None:
    await asyncio.get_running_loop().create_future()
