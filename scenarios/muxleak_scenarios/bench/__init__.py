"""What things cost here, beside what they are an alternative to, all measured in one run.

``muxleak bench`` prints it. A row is measured by a function that is imported when it is wanted.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from muxleak_scenarios.bench.measure import BenchPlan, Comparison


class BenchRow(NamedTuple):
    """A row of the table.

    Attributes:
        title: what it is about.
        module: of this package.
        function: of that module: takes a `BenchPlan`, returns comparisons.
        ticks: how often it calls `BenchPlan.tick`; 0: once a round, warming up included.
        apart: whether it is run in a process of its own, on which it leaves its marks.
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
    "task": BenchRow("one task that can be blamed", "ledger", "measure_task"),
    "schedules": BenchRow("the search among schedules", "schedules", apart=True),
    "leaked": BenchRow("sessions leaked by the bug of issue #2421", "leaked", ticks=10, apart=True),
    "cancel": BenchRow("waiters cancelled in any order", "parts", "measure_cancel"),
    "frame": BenchRow("the wire", "parts", "measure_frame"),
}
"""The rows by name, in the order of the table."""


def measure(name: str, plan: BenchPlan) -> list[Comparison]:
    """Measure a row in this process.

    Raises:
        KeyError: there is no such row.
        AssertionError: what was measured did not do what it should.
    """
    row = ROWS[name]
    module = import_module(f"muxleak_scenarios.bench.{row.module}")
    found: list[Comparison] = getattr(module, row.function)(plan)
    return found


def ticks(name: str, plan: BenchPlan) -> int:
    """How often a row will call `BenchPlan.tick`."""
    return ROWS[name].ticks or plan.rounds + 1
