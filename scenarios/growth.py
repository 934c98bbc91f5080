"""A pair's witness, repeated against one server over loopback TCP: does the task count grow?

A leak is what grows with every repetition. The count is taken when everything has come to rest,
over the count of the same server before its first connection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness import LeakReport
from scenarios.runner import Run
from scenarios.tcp import TcpWorld

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from scenarios.steps import Sequence
    from vless import Lifecycle

COUNTS = (1, 10, 100, 1000)


@dataclass(frozen=True, slots=True)
class Growth:
    """What so many closed connections left: tasks, connections counted as open, and the report."""

    closed: int
    tasks: int
    counted_open: int
    report: LeakReport


def measure(
    witness: Sequence, lifecycle: Lifecycle, times: int, progress: Callable[[], None] | None = None
) -> Growth:
    """Repeat ``witness`` against one server on a loopback port; ``progress`` sees each time.

    A witness that ends the server's context is followed by a new one: a reload.
    """
    world = TcpWorld(lifecycle)
    try:
        run = Run(world)
        for _ in range(times):
            run.repeat(witness)
            if progress is not None:
                progress()
        world.rest(world.idle)
        records = world.ledger.live()
        return Growth(times, len(records), world.inbound.active, LeakReport.of(records))
    finally:
        world.dispose()


def grow(
    witness: Sequence,
    lifecycle: Callable[[], Lifecycle],
    counts: Iterable[int] = COUNTS,
    progress: Callable[[], None] | None = None,
) -> list[Growth]:
    """Measure for each count, each on a server of its own."""
    return [measure(witness, lifecycle(), times, progress) for times in counts]
