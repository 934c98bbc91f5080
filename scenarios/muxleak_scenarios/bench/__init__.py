"""Benchmarks: the cost of each part beside the cost of its alternative, measured in one run.

``muxleak bench`` prints the table. Each row names a function, which is imported when the row is
measured.
"""

# Rows are imported late for two reasons. A row that measures Hypothesis or a rival tool must not
# make the other rows wait for its imports. And a larger process is slower wherever garbage is
# collected, so a row should hold no module that it does not use.
#
# The order of the table is the order of measuring. Rows that leave the process slower or larger
# (100,000 tasks, 20,000 leaked sessions) or that depend on its size run in a process of their own
# (`BenchRow.apart`, see `row_process`), so that the order does not change the figures.

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from muxleak_scenarios.bench.measure import BenchPlan, Comparison


class BenchRow(NamedTuple):
    """A row of the table.

    Attributes:
        title: subject of the row, as shown by ``--help``.
        module: name of a module of this package.
        function: name of a function there, which takes a `BenchPlan` and returns comparisons.
        ticks: number of calls of `BenchPlan.tick`; 0 for one in each round, warm-up included.
        apart: True if the row runs in a process of its own.
    """

    title: str
    module: str
    function: str = "measure"
    ticks: int = 0
    apart: bool = False


ROWS = {
    "sequence": BenchRow("one connection sequence, checked for leaks", "sequence"),
    "example": BenchRow("Hypothesis: one of the 35 connections of a script", "examples"),
    "check": BenchRow("one leak check beside many tasks", "ledger", "measure_check", apart=True),
    "task": BenchRow("one task with its creation site", "ledger", "measure_task"),
    "schedules": BenchRow("the search for leaks: runs per second", "search_runs", apart=True),
    "leaked": BenchRow(
        "sessions leaked by the bug of issue #2421", "leaked_sessions", ticks=10, apart=True
    ),
    "cancel": BenchRow("waiters cancelled in any order", "cancelled_waiters"),
    "frame": BenchRow("the wire", "frame_decoding"),
}
"""The rows by name, in the order of the table."""


def measure(name: str, plan: BenchPlan) -> list[Comparison]:
    """Measure a row in this process.

    Args:
        name: a key of `ROWS`.
        plan: the extent of the measurement.

    Raises:
        KeyError: there is no such row.
        AssertionError: the measured code gave a wrong result.
    """
    row = ROWS[name]
    module = import_module(f"muxleak_scenarios.bench.{row.module}")
    found: list[Comparison] = getattr(module, row.function)(plan)
    return found


def ticks(name: str, plan: BenchPlan) -> int:
    """Return the number of times that a row will call `BenchPlan.tick`."""
    return ROWS[name].ticks or plan.rounds + 1
