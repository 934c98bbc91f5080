"""Growth: repeat an operation and report what there is more of after every repetition.

What is made once and kept, such as a cached client, or was there before, such as a service, does
not grow, and so is no leak; one task per operation is, wherever it is held.
"""

import asyncio
import dataclasses
import functools
import gc
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from muxleak.checks.ignores import Ignore, remaining, valid_ignores
from muxleak.checks.report import LeakReport, Record
from muxleak.checks.retention import Pile, callbacks, follow_finished, retained, unfollow_finished
from muxleak.checks.scope_check import BUDGET, diagnosis
from muxleak.checks.settle import settle
from muxleak.checks.teardown import release
from muxleak.introspect.sites import Site
from muxleak.ledger.counters import sweep_all
from muxleak.ledger.kinds import KINDS, NOUNS, valid_kinds
from muxleak.ledger.ledger import shared_ledger

if TYPE_CHECKING:
    from muxleak.ledger.counters import Scope
    from muxleak.ledger.ledger import Ledger


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


# How long what is late may hold up the next repetition; at the end the whole budget is granted.
_PAUSE = 0.02
_LOOKS = 2  # at callbacks on futures: each goes through the whole heap

Key = tuple[str, Site, str]


def key_of(record: Any) -> Key:
    """What is counted together: things of one kind and name, made at one place."""
    return record.kind, record.site, record.name


class Probe:
    """One measurement: its scope, and a series of counts for whatever was seen."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        ledger: "Ledger",
        kinds: frozenset[str],
        ignores: Sequence[Ignore],
        repetitions: int,
    ) -> None:
        self.loop, self.ledger, self.kinds, self.ignores = loop, ledger, kinds, ignores
        self.repetitions, self.half = repetitions, repetitions // 2
        self.scope: Scope = ledger.scope("operation")
        self.root = ledger.root
        self.root.prune()
        self.start = self.root.counters.created, self.root.counters.resources_made
        self.series: list[Counter[Key]] = []
        self.piles: list[Counter[Pile]] = []

    async def run(self, operation: Callable[[], Awaitable[object]], budget: float) -> None:
        """Repeat, and count after each repetition."""
        for number in range(1, self.repetitions + 1):
            level = self.series[-1].total() if self.series else 0
            with self.scope:
                await operation()
            await self._settle(_PAUSE, functools.partial(self._at_level, level))
            self.series.append(self._sample(collect=number == self.half))
            if number == self.half:
                self.piles.append(self._callbacks())
        await self._settle(budget, self._no_growth)
        self.series[-1] = self._sample(collect=True)
        self.piles.append(self._callbacks())

    def alive(self) -> list[Any]:
        """What is alive of the operation and outside every scope, since the beginning."""
        tasks, resources = self.start
        found: list[Any] = self.scope.everything()
        found += self.root.newer(tasks, resources)
        own = asyncio.current_task()
        return [
            each
            for each in remaining(found, self.kinds, self.ignores)
            if each.kind != "task" or each.task is not own
        ]

    def grown(self) -> list[Any]:
        """The live things that grew."""
        growing = self.growing()
        return [each for each in self.alive() if key_of(each) in growing]

    def growing(self) -> dict[Key, tuple[int, ...]]:
        """What is counted and grew, with its counts, steepest first."""
        keys = {key: None for sample in self.series for key in sample}
        series = {key: tuple(sample[key] for sample in self.series) for key in keys}
        found = {key: counts for key, counts in series.items() if self._grows(counts)}
        return dict(sorted(found.items(), key=lambda item: -item[1][-1]))

    def report(self) -> LeakReport:
        """What grew, with its diagnosis."""
        growing, piled = self.growing(), self.piled()
        members: list[Record] = [each for each in self.alive() if key_of(each) in growing]
        members += [pile for pile, counts in piled.items() for _ in range(counts[-1])]
        kept = retained(self.scope)
        members += [p for p, n in kept.items() if key_of(p) in growing for _ in range(n)]
        counts = growing | {key_of(pile): counts for pile, counts in piled.items()}

        def notes(record: Record) -> list[str]:
            series = counts[key_of(record)]
            when = (
                "after each repetition" if len(series) > _LOOKS else "at half-time and at the end"
            )
            return [f"alive {when}: {', '.join(map(str, series))}", *diagnosis(record)]

        return LeakReport.of(members, within=self.scope, diagnose=notes)

    def slope(self, counts: tuple[int, ...]) -> float:
        """How much a count rises per repetition, over the second half."""
        start = counts[0] if len(counts) == _LOOKS else counts[self.half - 1]
        return (counts[-1] - start) / (self.repetitions - self.half)

    async def _settle(self, limit: float, until: Callable[[], bool]) -> None:
        await asyncio.sleep(0)
        await settle(limit=limit, horizon=limit, until=until, patient=False)

    def _at_level(self, level: int) -> bool:
        return self._count().total() <= level

    def _count(self) -> Counter[Key]:
        return Counter(map(key_of, self.alive()))

    def _sample(self, *, collect: bool) -> Counter[Key]:
        # Another ledger, such as the plugin's, keeps a finished task until its own next look.
        sweep_all(self.loop)
        sample = self._count()
        if collect and self.kinds & {"retained", "callback"}:
            # Garbage is no leak; what grows is judged by these two moments.
            gc.collect()
            sweep_all(self.loop)
            sample = self._count()
        if "retained" in self.kinds:
            for pile, count in retained(self.scope).items():
                sample[key_of(pile)] += count if remaining([pile], self.kinds, self.ignores) else 0
        return sample

    def _callbacks(self) -> Counter[Pile]:
        return callbacks(self.loop) if "callback" in self.kinds else Counter()

    def piled(self) -> dict[Pile, tuple[int, ...]]:
        """Callbacks that grew, on one future, by one or more per repetition of the second half."""
        before, after = self.piles
        least = self.repetitions - self.half
        found = {pile: (before[pile], n) for pile, n in after.items() if n - before[pile] >= least}
        return {p: found[p] for p in found if remaining([p], self.kinds, self.ignores)}

    def _no_growth(self) -> bool:
        now = self._count()
        last = self.series[-1]
        return not any(
            self._grows((*(sample[key] for sample in self.series[:-1]), now[key]))
            for key in last
            if key[0] != "retained"
        )

    def _grows(self, counts: tuple[int, ...]) -> bool:
        """Whether there are more at the end than at half-time, and more after most repetitions."""
        late = counts[self.half - 1 :]
        rises = sum(after > before for before, after in itertools.pairwise(late))
        return late[-1] > late[0] and 2 * rises > len(late) - 1


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
        ignore: values of `muxleak.checks.ignores`.

    Raises:
        ValueError: an unknown kind, or too few repetitions.
        TypeError: `ignore` holds something else.
    """
    valid_repetitions(repetitions)
    wanted, ignores = valid_kinds(kinds), valid_ignores(ignore)
    loop = asyncio.get_running_loop()
    with shared_ledger(loop) as ledger:
        probe = Probe(loop, ledger, wanted, ignores, repetitions)
        follow_finished(probe.scope.counters)
        try:
            await probe.run(operation, budget)
            report = _report(probe)
        finally:
            unfollow_finished(probe.scope.counters)
        if not report:
            return report
        notes = await release(probe.grown(), budget)
        leaks = report.report.noting(*notes, *ledger.unseen)
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
