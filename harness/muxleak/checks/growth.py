"""Growth: repeat an operation, and report tasks and resources that accumulate.

An object that is created once and kept, such as a cached client, does not grow and is no leak; one
task for each operation is a leak, wherever it is held.
"""

# A single run cannot distinguish a leak from a cache. Repetitions can (`growth_rule`): a count
# grows if it still rises in the second half, in most of the steps or at a steady rate. The slope in
# a report is the rise over the second half, for each of its repetitions.
#
# Counted together are objects of one kind and name made at one place (`key_of`): those of the
# operation's scope, and those made outside every scope since the beginning, for a server that was
# started before creates its tasks there. What was there before is never counted.
#
# Objects that end late would make counts wrong, so each sample is taken from a settled program:
#
# - After a repetition the loop settles until the count is back at that of the last sample, for 20
#   ms at most: a task that ends late must not look like growth, but a leak must not make each
#   repetition wait for the whole budget. After the last repetition the budget is granted, and the
#   last sample is taken anew.
# - Garbage is collected first at half-time and at the end, and after each repetition in between
#   that raised the count: an object in a reference cycle would count until the collector runs by
#   itself, and a failed task or an open client there says nothing until then. If the collection at
#   half-time brought such messages, each later repetition has one. So a leak costs one collection
#   for each repetition of the second half; an operation that leaves nothing costs two, and none if
#   the kinds of `retention` are not wanted.
# - All ledgers of the loop are swept, so that each knows the tasks that have ended by then.
# - Callbacks are counted at half-time and at the end only, because finding them takes a walk
#   through the whole heap. They grow if one future has one more for each repetition in between.
#
# While a measurement is under way, the counters keep weak references to finished tasks
# (`retention`). At the end, leaks that grew are ended as by `no_leaks`.

import asyncio
import dataclasses
import functools
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from muxleak.checks import descriptors, objects
from muxleak.checks.descriptors import OpenedDescriptors
from muxleak.checks.garbage import collect_garbage
from muxleak.checks.growth_rule import FEWEST, grows
from muxleak.checks.ignores import Ignore, remaining, valid_ignores
from muxleak.checks.objects import GrowingContainers
from muxleak.checks.report import LeakReport, Record
from muxleak.checks.retention import (
    GrowthRecord,
    follow_finished,
    on_heap,
    retained,
    unfollow_finished,
)
from muxleak.checks.scope_check import BUDGET, diagnoses
from muxleak.checks.settle import settle
from muxleak.checks.teardown import release
from muxleak.introspect.sites import Site
from muxleak.ledger.counters import sweep_all
from muxleak.ledger.kinds import DEFAULT_KINDS, GROWTH_KINDS, LASTING, NOUNS, valid_kinds
from muxleak.ledger.ledger import shared_ledger

if TYPE_CHECKING:
    from muxleak.ledger.counters import Scope
    from muxleak.ledger.ledger import Ledger


REPETITIONS = 6


@dataclass(frozen=True, slots=True)
class Growth:
    """Objects of one kind and name, made at one place, whose number grows.

    Attributes:
        kind: one of `kinds.KINDS`.
        name: their name in reports.
        site: the creation site, as "file:line in function".
        counts: number alive after each repetition; for callbacks, at half-time and at the end.
        slope: rise of that number per repetition, over the second half.
    """

    kind: str
    name: str
    site: str
    counts: tuple[int, ...]
    slope: float


@dataclass(frozen=True, slots=True)
class GrowthReport:
    """The result of `measure_growth`; falsy if nothing grew.

    Attributes:
        repetitions: number of times the operation ran.
        growing: the growing objects, the most numerous first, then callbacks.
        report: the same with sites, states and diagnosis.
    """

    repetitions: int
    growing: tuple[Growth, ...]
    report: LeakReport

    def __bool__(self) -> bool:
        return bool(self.growing)

    def __str__(self) -> str:
        return str(self.report) if self.growing else "nothing grows"


_PAUSE = 0.02  # seconds that a late task may hold up the next repetition
_CALLBACK_SAMPLES = 2  # at half-time and at the end

Key = tuple[str, Site, str]


def key_of(record: Any) -> Key:
    """Return the key by which records are counted together: kind, site and name."""
    return record.kind, record.site, record.name


class GrowthMeasurement:
    """One measurement of an operation.

    Attributes:
        loop: the running loop.
        ledger: its ledger.
        kinds: the kinds that are counted.
        ignores: `Ignore` values in force.
        repetitions: number of times to run the operation.
        half: number of the repetition after which the second half begins.
        scope: the scope of the operation.
        root: the ledger's root, for what is made outside every scope.
        start: numbers of the last task and resource that existed before.
        series: counts after each repetition.
        heap_counts: counts of callbacks at half-time and at the end, and of transports that no hook
            sees.
        descriptors: those opened since the beginning; None if they are not counted.
        containers: those that gain entries; None if they are not counted.
    """

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
        self.heap_counts: list[Counter[GrowthRecord]] = []
        self.descriptors = OpenedDescriptors(ledger) if descriptors.KIND in kinds else None
        self.containers = GrowingContainers() if objects.KIND in kinds else None

    async def run(self, operation: Callable[[], Awaitable[object]], budget: float) -> None:
        """Repeat an operation, and count after each repetition.

        Args:
            operation: is called and awaited.
            budget: seconds to settle in after the last repetition.
        """
        level, hidden = 0, False
        for number in range(1, self.repetitions + 1):
            with self.scope:
                await operation()
            at_level = functools.partial(self._at_level, level)
            await self._settle(_PAUSE, at_level)
            if number == self.half:
                before = self._total()
                await self._collect()
                hidden = self._total() > before
            elif number > self.half and (hidden or not (at_level() and self._no_failure())):
                await collect_garbage(self._total, self.scope)
            elif number > self.half and self._opened() > self._last(descriptors.KIND):
                await collect_garbage(self._opened, self.scope)
            level = self._total()
            self.series.append(self._sample())
            if number == self.half:
                self.heap_counts.append(self._on_heap())
            self._sample_containers(number)
        await self._settle(budget, self._no_growth)
        await self._collect()
        self.series[-1] = self._sample()
        self.heap_counts.append(self._on_heap())
        if any(each.kind == "transport" for each in self.growing_on_heap()):
            self._leave_out_sockets()
        self._count_entries()

    def _sample_containers(self, number: int) -> None:
        if self.containers is not None and number < self.repetitions:
            self.containers.sample()

    def _count_entries(self) -> None:
        """Add the entries that containers have gained to the two counts of the heap."""
        if self.containers is None:
            return
        self.containers.sample()
        for record, counts in self.containers.grown().items():
            for sample, count in zip(self.heap_counts, counts, strict=True):
                sample[record] = count

    def _leave_out_sockets(self) -> None:
        """Leave out the sockets of transports that no hook sees: those are reported themselves."""
        for sample in self.series:
            for key in [key for key in sample if key[0] == descriptors.KIND and key[2] == "socket"]:
                del sample[key]

    def alive(self) -> list[Any]:
        """Return records of all objects of the operation, and of newer ones outside every scope."""
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
        """Return records of the live objects that grew."""
        growing = self.growing()
        return [each for each in self.alive() if key_of(each) in growing]

    def growing(self) -> dict[Key, tuple[int, ...]]:
        """Return the counts of each key that grew, the highest last count first."""
        keys = {key: None for sample in self.series for key in sample}
        series = {key: tuple(sample[key] for sample in self.series) for key in keys}
        found = {key: counts for key, counts in series.items() if grows(counts)}
        return dict(sorted(found.items(), key=lambda item: -item[1][-1]))

    def report(self) -> LeakReport:
        """Make the report on everything that grew, with its diagnosis."""
        growing, added = self.growing(), self.growing_on_heap()
        members: list[Record] = [each for each in self.alive() if key_of(each) in growing]
        members += [record for record, counts in added.items() for _ in range(counts[-1])]
        kept = retained(self.scope)
        members += [p for p, n in kept.items() if key_of(p) in growing for _ in range(n)]
        opened = self.descriptors.records(self.ignores) if self.descriptors is not None else []
        members += [each for each in opened if key_of(each) in growing]
        counts = growing | {key_of(record): counts for record, counts in added.items()}

        def series(record: Record) -> str:
            values = counts[key_of(record)]
            each = len(values) > _CALLBACK_SAMPLES
            when = "after each repetition" if each else "at half-time and at the end"
            return f"alive {when}: {', '.join(map(str, values))}"

        def notes(records: Sequence[Record]) -> list[list[str]]:
            lines = zip(records, diagnoses(records), strict=True)
            return [[series(record), *diagnosis] for record, diagnosis in lines]

        return LeakReport.of(members, within=self.scope, diagnose=notes)

    def slope(self, counts: tuple[int, ...]) -> float:
        """Return the rise of a count per repetition, over the second half."""
        start = counts[0] if len(counts) == _CALLBACK_SAMPLES else counts[self.half - 1]
        return (counts[-1] - start) / (self.repetitions - self.half)

    async def _settle(self, limit: float, until: Callable[[], bool]) -> None:
        await asyncio.sleep(0)
        await settle(limit=limit, horizon=limit, until=until, patient=False)

    def _at_level(self, level: int) -> bool:
        return self._total() <= level

    def _total(self) -> int:
        return self._count().total()

    def _opened(self) -> int:
        found = self.descriptors.records(self.ignores) if self.descriptors is not None else ()
        return len(found)

    def _last(self, kind: str) -> int:
        """Return the number of objects of a kind in the last sample."""
        return sum(count for key, count in self.series[-1].items() if key[0] == kind)

    def _no_failure(self) -> bool:
        """Return True if no failed task may be garbage."""
        return "error" not in self.kinds or not self.root.counters.unretrieved(self.root)

    async def _collect(self) -> None:
        """Collect garbage before one of the two samples that decide."""
        sweep_all(self.loop)
        if self._total() or not self._no_failure() or self.kinds & {"retained", "callback"}:
            await collect_garbage(self._total, self.scope)

    def _count(self) -> Counter[Key]:
        return Counter(map(key_of, self.alive()))

    def _sample(self) -> Counter[Key]:
        sweep_all(self.loop)
        sample = self._count()
        if "retained" in self.kinds:
            for record, count in retained(self.scope).items():
                if remaining([record], self.kinds, self.ignores):
                    sample[key_of(record)] += count
        if self.descriptors is not None:
            sample.update(map(key_of, self.descriptors.records(self.ignores)))
        return sample

    def _on_heap(self) -> Counter[GrowthRecord]:
        known = (each.thing() for each in self.ledger.everything() if each.kind == "transport")
        return on_heap(self.loop, self.kinds, known)

    def growing_on_heap(self) -> dict[GrowthRecord, tuple[int, ...]]:
        """Return the two counts of callbacks of which one future got one or more per repetition."""
        before, after = self.heap_counts
        least = self.repetitions - self.half
        found = {
            each: (before[each], n)
            for each, n in after.items()
            if each.kind == objects.KIND or n - before[each] >= least
        }
        return {each: found[each] for each in remaining(found, self.kinds, self.ignores)}

    def _no_growth(self) -> bool:
        now = self._count()
        last = self.series[-1]
        return not any(
            grows((*(sample[key] for sample in self.series[:-1]), now[key]))
            for key in last
            if key[0] not in LASTING | GROWTH_KINDS
        )


async def measure_growth(
    operation: Callable[[], Awaitable[object]],
    *,
    repetitions: int = REPETITIONS,
    kinds: Iterable[str] = DEFAULT_KINDS,
    budget: float = BUDGET,
    ignore: Ignore | Iterable[Ignore] = (),
) -> GrowthReport:
    """Run an operation several times, and report objects whose number grows over the second half.

    After each repetition the loop settles; after the last one it gets the whole `budget`, so that
    tasks that end late do not count. Tasks and resources of the operation are counted, and those
    made outside every scope, by a server that was started before for instance. Leaks are ended
    afterwards.

    Args:
        operation: is called and awaited; its exceptions pass.
        repetitions: number of times; at least 4.
        kinds: of `kinds.KINDS`.
        budget: seconds to settle in after the last repetition; also for each round of ending leaks.
        ignore: values of `muxleak.checks.ignores`.

    Returns:
        The report; falsy if nothing grew.

    Raises:
        ValueError: an unknown kind, or too few repetitions.
        TypeError: `ignore` holds something else.
    """
    valid_repetitions(repetitions)
    wanted, ignores = valid_kinds(kinds), valid_ignores(ignore)
    loop = asyncio.get_running_loop()
    with shared_ledger(loop) as ledger:
        measurement = GrowthMeasurement(loop, ledger, wanted, ignores, repetitions)
        follow_finished(measurement.scope.counters)
        try:
            await measurement.run(operation, budget)
            report = _report(measurement)
        finally:
            unfollow_finished(measurement.scope.counters)
        if not report:
            return report
        notes = await release(measurement.grown(), budget)
        leaks = report.report.noting(*notes, *ledger.unseen)
        return GrowthReport(repetitions, report.growing, leaks)


def valid_repetitions(repetitions: object) -> None:
    """Check that a number of repetitions can show growth.

    Raises:
        ValueError: it is too small, or no integer.
    """
    if isinstance(repetitions, bool) or not isinstance(repetitions, int) or repetitions < FEWEST:
        raise ValueError(f"expected at least {FEWEST} repetitions, got {repetitions!r}")


def _report(measurement: GrowthMeasurement) -> GrowthReport:
    added = measurement.growing_on_heap()
    counts = measurement.growing() | {key_of(each): series for each, series in added.items()}
    growing = tuple(
        Growth(kind, name, str(site), series, measurement.slope(series))
        for (kind, site, name), series in counts.items()
    )
    headline = f"still growing after {measurement.repetitions} repetitions: {_slopes(growing)}"
    report = measurement.report()
    if growing:
        report = dataclasses.replace(report, headline=headline)
    return GrowthReport(measurement.repetitions, growing, report)


def _slopes(growing: Iterable[Growth]) -> str:
    slopes: dict[str, float] = {}
    for each in growing:
        slopes[each.kind] = slopes.get(each.kind, 0) + each.slope
    return ", ".join(f"+{slope:.3g} {NOUNS[kind][slope != 1]}" for kind, slope in slopes.items())
