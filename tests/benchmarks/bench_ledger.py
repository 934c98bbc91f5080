"""What counting costs: one check with many tasks alive, and one task created with blame on.

Run it: ``python tests/benchmarks/bench_ledger.py``. Variants are interleaved; medians of CPU time.
Figures of different runs do not compare, ratios do.
"""

# ruff: noqa: T201 - a benchmark prints

import asyncio
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

from harness.kinds import KINDS
from harness.ledger import Ledger

ROUNDS = 15
CREATED = 3_000
BATCH = 100


async def _at_once() -> None:
    pass


async def _suspended() -> None:
    await asyncio.sleep(0)


async def _in_turn() -> None:
    for _ in range(CREATED):
        await asyncio.create_task(_at_once())


async def _in_batches() -> None:
    for _ in range(CREATED // BATCH):
        tasks = [asyncio.create_task(_suspended()) for _ in range(BATCH)]
        for task in tasks:
            await task


def _variants() -> dict[str, Callable[[asyncio.AbstractEventLoop, ExitStack], object]]:
    def ledger(*kinds: str) -> Callable[[asyncio.AbstractEventLoop, ExitStack], object]:
        return lambda loop, stack: stack.enter_context(Ledger(kinds).watching(loop))

    def in_scope(loop: asyncio.AbstractEventLoop, stack: ExitStack) -> None:
        stack.enter_context(stack.enter_context(Ledger(KINDS).watching(loop)).scope("one"))

    return {
        "bare": lambda _loop, _stack: None,
        "ledger of tasks": ledger("task"),
        "ledger of every kind": ledger(*KINDS),
        "the same, in a scope": in_scope,
    }


def created() -> None:
    """Print what one task costs, created, run and finished."""
    shapes = {"awaited one by one": _in_turn, "100 at a time, suspended once": _in_batches}
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(ROUNDS):
        for shape, work in shapes.items():
            for name, prepare in _variants().items():
                with asyncio.Runner() as runner, ExitStack() as stack:
                    prepare(runner.get_loop(), stack)
                    began = time.process_time()
                    runner.run(work())
                    spent = time.process_time() - began
                times.setdefault((shape, name), []).append(spent / CREATED)
    for shape in shapes:
        print(f"one task, {shape}:")
        bare = statistics.median(times[shape, "bare"])
        for name in _variants():
            spent = statistics.median(times[shape, name])
            print(f"  {name:22} {spent * 1e6:6.2f} us  {spent / bare:5.2f}x")


async def _check(live: int) -> None:
    loop = asyncio.get_running_loop()
    with Ledger(KINDS).watching(loop) as ledger:
        background = [asyncio.create_task(_forever()) for _ in range(live)]
        await asyncio.sleep(0)
        scope = ledger.scope("checked")
        assert scope.clean
        ours = _per_call(lambda: scope.clean, 100_000)
        theirs = _per_call(asyncio.all_tasks, max(1, 100_000 // (live + 100)))
        print(f"  {live:7,} {ours * 1e6:9.3f} us {theirs * 1e6:12.2f} us {theirs / ours:12,.0f}x")
        for task in background:
            task.cancel()
        await asyncio.sleep(0)


async def _forever() -> None:
    await asyncio.get_running_loop().create_future()


def _per_call(call: Callable[[], object], times: int) -> float:
    """Median of five, in seconds of CPU."""
    spent = []
    for _ in range(5):
        began = time.process_time()
        for _ in range(times):
            call()
        spent.append((time.process_time() - began) / times)
    return statistics.median(spent)


def check() -> None:
    """Print what one clean check costs, beside one call of `asyncio.all_tasks`."""
    print("one clean check, every kind: live tasks, check, all_tasks(), ratio")
    for live in (0, 100, 10_000, 100_000):
        asyncio.run(_check(live))


if __name__ == "__main__":
    print(f"Python {sys.version.split()[0]}")
    check()
    created()
