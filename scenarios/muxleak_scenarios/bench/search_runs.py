"""Runs of a small program per second, by our search and by rival tools.

All of them explore the order of tasks; ours and detangle also check for leaks.
"""

# simloom and simloop collect all garbage after every run, so their price grows with the size of the
# process: the row runs in a process of its own, which holds nothing but the tools. For the same
# reason they get fewer runs in a round. `tests/benchmarks/bench_schedules.py` measures both a lean
# and a loaded process.
#
# Each side searches with random order and without shrinking. Our search is timed with one
# scheduler, "uniform", since its default portfolio has no counterpart; detangle is timed with its
# random and its automatic strategy. A rival is imported only if it is installed; otherwise its line
# says how to install it.

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

RIVALS = {"detangle": "0.1.0", "simloom": "0.5.0", "simloop": "0.2.2"}
"""Packages of the rival tools, with the releases that were tried."""
SLEEPS = 50
_RUNS = 300
_GOAL, _FAR = 2, 20


class RivalTool(NamedTuple):
    """A search of a rival tool.

    Attributes:
        package: its distribution on PyPI.
        search: runs a program so many times.
        runs: number of runs in a round.
        goal: for the ratio of its price to ours.
    """

    package: str
    search: Callable[[Program, int], object]
    runs: int
    goal: float


async def toy() -> None:
    """Pass 50 numbers through a queue of 2, with a sleep before each: 157 callbacks in asyncio."""
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
    """Search with `muxleak.search.find_leaks`; return the number of the failing run, or None."""
    search = import_module("muxleak.search")
    found = search.find_leaks(
        program, examples=runs, seed=seed, wakeups=True, shrinking=False, **settings
    )
    return None if found is None else int(found.examples)


def detangle(program: Program, runs: int, seed: int = 0, strategy: str = "random") -> int | None:
    """Search with detangle and its leak check; return the number of the failing run, or None."""
    rival = import_module("detangle")
    try:
        rival.explore(
            program,
            runs=runs,
            seed=seed,
            strategy=strategy,
            check_leaks=True,
            shrink=False,
            database=False,
        )
    except rival.BugFound as found:
        return int(found.report.runs)
    return None


def simloom(program: Program, runs: int) -> None:
    """Search with simloom."""
    import_module("simloom").explore(program, runs=runs)


def simloop(program: Program, runs: int) -> None:
    """Search with simloop, by its seeds."""
    import_module("simloop").explore(program, range(runs))


RIVAL_SEARCHES = {
    "detangle, random": RivalTool("detangle", detangle, 150, _GOAL),
    "detangle, auto": RivalTool("detangle", partial(detangle, strategy="auto"), 150, _GOAL),
    "simloop, random": RivalTool("simloop", simloop, 12, _FAR),
    "simloom, random": RivalTool("simloom", simloom, 12, _FAR),
}


def measure(plan: BenchPlan) -> list[Comparison]:
    """Compare the runs of the toy per second with those of the installed rivals."""
    runs = plan.size(_RUNS)
    works = {"ours": _timed(partial(ours, schedulers=("uniform",)), runs)}
    missing = [package for package in RIVALS if not _installed(package)]
    there = {name: rival for name, rival in RIVAL_SEARCHES.items() if rival.package not in missing}
    for name, rival in there.items():
        works[name] = _timed(rival.search, plan.size(rival.runs))
    found = in_turns(works, plan)
    beside = [
        Beside(name, found[name], goal=rival.goal, note=f"release {version(rival.package)}")
        for name, rival in there.items()
    ]
    for package in missing:
        how = f"not installed: pip install {package}=={RIVALS[package]}"
        beside.append(Beside(package, note=how))
    return [Comparison("a run of a toy program", found["ours"], tuple(beside), unit="/s")]


def _timed(search: Callable[[Program, int], object], runs: int) -> Callable[[], float]:
    spent = each(partial(search, toy, runs), 1)
    return lambda: spent() / runs


def _installed(package: str) -> bool:
    try:
        import_module(package)
    except ImportError:
        return False
    return True
