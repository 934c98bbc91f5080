"""Repeats the minimal sequence of a pair against one server over loopback TCP, and counts tasks.

A leak is what grows with every repetition. The count is taken when everything has come to rest,
over the count of the same server before its first connection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from muxleak import LeakReport
from muxleak_scenarios.targets.run import SequenceRun
from muxleak_scenarios.targets.tcp import TcpTarget

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from muxleak_scenarios.sequence.steps import Sequence
    from muxleak_vless import Lifecycle

COUNTS = (1, 10, 100, 1000)


@dataclass(frozen=True, slots=True)
class TaskGrowth:
    """What so many closed connections left: tasks, connections counted as open, and the report."""

    closed: int
    tasks: int
    counted_open: int
    report: LeakReport


def measure(
    minimal: Sequence, lifecycle: Lifecycle, times: int, progress: Callable[[], None] | None = None
) -> TaskGrowth:
    """Repeat ``minimal`` against one server on a loopback port; ``progress`` sees each time.

    A minimal sequence that ends the server's context is followed by a new one: a reload.
    """
    target = TcpTarget(lifecycle)
    try:
        run = SequenceRun(target)
        for _ in range(times):
            run.repeat(minimal)
            if progress is not None:
                progress()
        target.settle_until(target.is_idle)
        records = target.ledger.live()
        return TaskGrowth(times, len(records), target.inbound.active, LeakReport.of(records))
    finally:
        target.dispose()


def grow(
    minimal: Sequence,
    lifecycle: Callable[[], Lifecycle],
    counts: Iterable[int] = COUNTS,
    progress: Callable[[], None] | None = None,
) -> list[TaskGrowth]:
    """Measure for each count, each on a server of its own."""
    return [measure(minimal, lifecycle(), times, progress) for times in counts]
