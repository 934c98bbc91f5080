"""Growth: repeat an operation and report what there is more of after every repetition.

What is made once and kept, such as a cached client, or was there before, such as a service, does
not grow, and so is no leak; one task per operation is, wherever it is held.
"""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from harness.check import BUDGET
from harness.ignores import Ignore, valid_ignores
from harness.kinds import KINDS, NOUNS, valid_kinds
from harness.piles import follow_finished, unfollow_finished
from harness.probe import Probe, key_of
from harness.report import LeakReport
from harness.shared import shared_ledger
from harness.teardown import release

REPETITIONS = 6
_FEWEST = 4


@dataclass(frozen=True, slots=True)
class Growth:
    """One thing that grows.

    Attributes:
        kind: one of `kinds.KINDS`.
        name: what it is called.
        site: where it is made, as "file:line in function".
        counts: how many were alive after each repetition; of callbacks, which are counted at
            half-time and at the end, these two.
        slope: how many more there are per repetition, over the second half.
    """

    kind: str
    name: str
    site: str
    counts: tuple[int, ...]
    slope: float


@dataclass(frozen=True, slots=True)
class GrowthReport:
    """What grew, steepest first; falsy when nothing did.

    Attributes:
        repetitions: how often the operation ran.
        growing: what grew.
        report: the same with sites, states and diagnosis.
    """

    repetitions: int
    growing: tuple[Growth, ...]
    report: LeakReport

    def __bool__(self) -> bool:
        return bool(self.growing)

    def __str__(self) -> str:
        return str(self.report) if self.growing else "nothing grows"


async def measure_growth(
    operation: Callable[[], Awaitable[object]],
    *,
    repetitions: int = REPETITIONS,
    kinds: Iterable[str] = KINDS,
    budget: float = BUDGET,
    ignore: Ignore | Iterable[Ignore] = (),
) -> GrowthReport:
    """Run an operation several times and report what still grows over the second half.

    After each repetition the loop settles; after the last one it gets the whole `budget`, so that
    what ends late is no growth. Counted is what the operation causes and what is caused outside
    every scope, by a server that was there before for instance. What grew is ended afterwards.

    Args:
        operation: is called and awaited; its exceptions pass.
        repetitions: at least 4.
        kinds: of `kinds.KINDS`.
        budget: seconds that settling, and ending what grew, may take.
        ignore: values of `harness.ignores`.

    Raises:
        ValueError: an unknown kind, or too few repetitions.
        TypeError: `ignore` holds something else.
    """
    valid_repetitions(repetitions)
    wanted, ignores = valid_kinds(kinds), valid_ignores(ignore)
    loop = asyncio.get_running_loop()
    with shared_ledger(loop) as ledger:
        probe = Probe(loop, ledger, wanted, ignores, repetitions)
        follow_finished(probe.scope.tally)
        try:
            await probe.run(operation, budget)
            report = _report(probe)
        finally:
            unfollow_finished(probe.scope.tally)
        if not report:
            return report
        notes = await release(probe.grown(), budget)
        leaks = report.report.noting(*notes, *ledger.blind)
        return GrowthReport(repetitions, report.growing, leaks)


def valid_repetitions(repetitions: object) -> None:
    """Refuse a number of repetitions that can show no growth.

    Raises:
        ValueError: it is too small, or no number.
    """
    if isinstance(repetitions, bool) or not isinstance(repetitions, int) or repetitions < _FEWEST:
        raise ValueError(f"expected at least {_FEWEST} repetitions, got {repetitions!r}")


def _report(probe: Probe) -> GrowthReport:
    counts = probe.growing() | {key_of(pile): counts for pile, counts in probe.piled().items()}
    growing = tuple(
        Growth(kind, name, str(site), series, probe.slope(series))
        for (kind, site, name), series in counts.items()
    )
    headline = f"still growing after {probe.repetitions} repetitions: {_slopes(growing)}"
    report = probe.report()
    if growing:
        report = dataclasses.replace(report, headline=headline)
    return GrowthReport(probe.repetitions, growing, report)


def _slopes(growing: Iterable[Growth]) -> str:
    slopes: dict[str, float] = {}
    for each in growing:
        slopes[each.kind] = slopes.get(each.kind, 0) + each.slope
    return ", ".join(f"+{slope:.3g} {NOUNS[kind][slope != 1]}" for kind, slope in slopes.items())
