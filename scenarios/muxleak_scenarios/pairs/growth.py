"""A pair's witness, repeated against one server over loopback TCP: does the task count grow?

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
    witness: Sequence, lifecycle: Lifecycle, times: int, progress: Callable[[], None] | None = None
) -> TaskGrowth:
    """Repeat ``witness`` against one server on a loopback port; ``progress`` sees each time.

    A witness that ends the server's context is followed by a new one: a reload.
    """
    world = TcpTarget(lifecycle)
    try:
        run = SequenceRun(world)
        for _ in range(times):
            run.repeat(witness)
            if progress is not None:
                progress()
        world.rest(world.idle)
        records = world.ledger.live()
        return TaskGrowth(times, len(records), world.inbound.active, LeakReport.of(records))
    finally:
        world.dispose()


def grow(
    witness: Sequence,
    lifecycle: Callable[[], Lifecycle],
    counts: Iterable[int] = COUNTS,
    progress: Callable[[], None] | None = None,
) -> list[TaskGrowth]:
    """Measure for each count, each on a server of its own."""
    return [measure(witness, lifecycle(), times, progress) for times in counts]
