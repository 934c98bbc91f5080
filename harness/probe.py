"""One measurement of growth: what is counted after each repetition, and what of it grows."""

import asyncio
import functools
import gc
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from harness.check import diagnosis
from harness.ignores import Ignore, remaining
from harness.piles import Pile, callbacks, retained
from harness.report import LeakReport, Record
from harness.settle import settle
from harness.sites import Site
from harness.tally import sweep_all

if TYPE_CHECKING:
    from harness.ledger import Ledger
    from harness.scope import Scope

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
        self.start = self.root.tally.created, self.root.tally.resources_made
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
