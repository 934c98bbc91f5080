"""Repeats a sequence against one server over loopback TCP, and counts the tasks that stay."""

# A task that stays once may be a cache; a leak grows with every repetition. So the same sequence
# runs 1, 10, 100 and 1000 times, each number on a server of its own, and the tasks are counted when
# that server has settled. A server without connections has no task, so the count begins at 0. No
# property is checked in between: this is the size of a known leak, not a search.

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
    """The state of a server after a number of repetitions.

    Attributes:
        closed: the repetitions.
        tasks: live tasks.
        counted_open: connections that the server counts as open; negative if it cleaned up twice.
        report: on the live tasks.
    """

    closed: int
    tasks: int
    counted_open: int
    report: LeakReport


def measure(
    minimal: Sequence, lifecycle: Lifecycle, times: int, progress: Callable[[], None] | None = None
) -> TaskGrowth:
    """Repeat a sequence against one server on a loopback port.

    Args:
        minimal: the sequence. If it ends the server's context, the server gets a new one after each
            repetition, as in a reload.
        lifecycle: the life cycle of the server.
        times: the repetitions.
        progress: called after each.
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
    """Measure each number of repetitions, each on a server of its own."""
    return [measure(minimal, lifecycle(), times, progress) for times in counts]
