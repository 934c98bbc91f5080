"""How many schedules of a small program can be run in a second, beside those who do the same.

All explore the order of tasks; we and detangle check for leaks besides. simloom and simloop collect
all garbage in every run, so the size of the process is part of what they cost.
"""

from __future__ import annotations

import asyncio
from functools import partial
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

from muxleak_scenarios.bench.measure import Beside, Comparison, each, in_turns

if TYPE_CHECKING:
    from collections.abc import Callable

    from muxleak_scenarios.bench.measure import BenchPlan

    Program = Callable[[], Any]

PEERS = {"detangle": "0.1.0", "simloom": "0.5.0", "simloop": "0.2.2"}
"""The packages of others, at the releases that were tried."""
SLEEPS = 50
_RUNS = 300
_GOAL, _FAR = 2, 20


class RivalTool(NamedTuple):
    """A way of another's to explore: its package, its search, runs for a round, our goal."""

    package: str
    search: Callable[[Program, int], object]
    runs: int
    goal: float


async def toy() -> None:
    """A producer, a consumer, a queue of 2, 50 sleeps: 157 callbacks on a stock loop."""
    queue: asyncio.Queue[int | None] = asyncio.Queue(2)

    async def producer() -> None:
        for number in range(SLEEPS):
            await asyncio.sleep(0.001)
            await queue.put(number)
        await queue.put(None)

    async def consumer() -> int:
        total = 0
        while (item := await queue.get()) is not None:
            total += item
        return total

    _, total = await asyncio.gather(producer(), consumer())
    if total != sum(range(SLEEPS)):
        raise AssertionError(f"expected {sum(range(SLEEPS))}, got {total}")


def ours(program: Program, runs: int, seed: int = 0, **settings: Any) -> int | None:
    """Search with us; the number of the failing run."""
    sim = import_module("muxleak.search")
    found = sim.find_leaks(
        program, examples=runs, seed=seed, wakeups=True, shrinking=False, **settings
    )
    return None if found is None else int(found.examples)


def detangle(program: Program, runs: int, seed: int = 0, strategy: str = "random") -> int | None:
    """Search with detangle, its leak check on."""
    peer = import_module("detangle")
    try:
        peer.explore(
            program,
            runs=runs,
            seed=seed,
            strategy=strategy,
            check_leaks=True,
            shrink=False,
            database=False,
        )
    except peer.BugFound as found:
        return int(found.report.runs)
    return None


def simloom(program: Program, runs: int) -> None:
    """Search with simloom."""
    import_module("simloom").explore(program, runs=runs)


def simloop(program: Program, runs: int) -> None:
    """Search with simloop."""
    import_module("simloop").explore(program, range(runs))


OTHERS = {
    "detangle, random": RivalTool("detangle", detangle, 150, _GOAL),
    "detangle, auto": RivalTool("detangle", partial(detangle, strategy="auto"), 150, _GOAL),
    "simloop, random": RivalTool("simloop", simloop, 12, _FAR),
    "simloom, random": RivalTool("simloom", simloom, 12, _FAR),
}


def measure(plan: BenchPlan) -> list[Comparison]:
    """Schedules of the toy a second, beside the peers that are installed here."""
    runs = plan.size(_RUNS)
    works = {"ours": _timed(partial(ours, strategies=("uniform",)), runs)}
    missing = [package for package in PEERS if not _installed(package)]
    there = {name: peer for name, peer in OTHERS.items() if peer.package not in missing}
    for name, peer in there.items():
        works[name] = _timed(peer.search, plan.size(peer.runs))
    found = in_turns(works, plan)
    beside = [
        Beside(name, found[name], goal=peer.goal, note=f"release {version(peer.package)}")
        for name, peer in there.items()
    ]
    for package in missing:
        how = f"not installed: pip install {package}=={PEERS[package]}"
        beside.append(Beside(package, note=how))
    return [Comparison("a schedule of a toy program", found["ours"], tuple(beside), unit="/s")]


def _timed(search: Callable[[Program, int], object], runs: int) -> Callable[[], float]:
    spent = each(partial(search, toy, runs), 1)
    return lambda: spent() / runs


def _installed(package: str) -> bool:
    try:
        import_module(package)
    except ImportError:
        return False
    return True
