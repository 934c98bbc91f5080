"""Cost of the ledger: one check beside many live tasks, and one task with attribution.

Run ``python tests/benchmarks/bench_ledger.py``. Variants run in turns; figures are medians of CPU
time. Ratios can be compared between runs, the figures cannot. `muxleak bench check task` is the
short form.
"""

# ruff: noqa: T201 - a benchmark prints

import sys
from functools import partial
from statistics import median

from muxleak_scenarios.bench.ledger import DEBUG, PREPARE, checks, create, in_batches, one_by_one
from muxleak_scenarios.bench.measure import BenchPlan, in_turns

PLAN = BenchPlan(rounds=15)
CREATED = 3_000


def created() -> None:
    """Print what one task costs, created, run and finished."""
    shapes = {
        "awaited one by one": one_by_one,
        "100 at a time, suspended once": in_batches,
    }
    for shape, work in shapes.items():
        works = {
            name: partial(create, prepare, work, CREATED)
            for name, prepare in PREPARE.items()
            if name != DEBUG
        }
        times = {name: median(rounds) for name, rounds in in_turns(works, PLAN).items()}
        print(f"one task, {shape}:")
        for name, spent in times.items():
            print(f"  {name:22} {spent * 1e6:6.2f} us  {spent / times['bare']:5.2f}x")


def check() -> None:
    """Print what one clean check costs, beside one call of `asyncio.all_tasks`."""
    print("one clean check, every kind: live tasks, check, all_tasks(), ratio")
    for live in (0, 100, 10_000, 100_000):
        found = checks(BenchPlan(rounds=5), live)
        theirs = median(found.beside[0].rounds)
        ratio = theirs / found.value
        print(f"  {live:7,} {found.value * 1e6:9.3f} us {theirs * 1e6:12.2f} us {ratio:12,.0f}x")


if __name__ == "__main__":
    print(f"Python {sys.version.split()[0]}")
    check()
    created()
