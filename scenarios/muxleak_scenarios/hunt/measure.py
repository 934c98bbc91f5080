"""How much a server has more of after each repetition of a sequence, when it is at rest again."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from muxleak_scenarios.hunt.batch import SETTLE_SECONDS
from muxleak_scenarios.hunt.counters import DESCRIPTORS, tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from muxleak_scenarios.hunt.batch import Driver
    from muxleak_scenarios.hunt.counters import Counts, Snapshot
    from muxleak_scenarios.hunt.destinations import Destinations
    from muxleak_scenarios.hunt.stacks import Stack
    from muxleak_scenarios.sequence.steps import Sequence

COPIES = 3
"""Repetitions that a quick look is made of."""
BATCHES = (4, 4, 8)
"""Repetitions after each of which a certain growth has the same slope."""
QUICK = 0.25
"""Seconds without a change after which a quick look takes the counts as final."""
_POLL = 0.01
_SAMPLES = 1000
"""Looks in a patience, at most."""
_STILL = 0.75
"""Of the looks in a patience, how many see the same when counts stand still. To be looked at moves
a server for a moment: it accepts, answers and closes, and is now and then seen doing so."""
_LIMIT = 20.0
"""Patiences after which counts that never stand still are taken as they are."""


class RepetitionGrowth(NamedTuple):
    """What one repetition of a sequence leaves, whole numbers only, by stack or unit.

    ``held`` is counted while the destinations live, ``kept`` after all of them have gone. ``exact``
    says that every batch grew by the same; ``memory`` is in bytes and rough. ``passing`` was there
    at first and went by itself, ``gone`` is after how many seconds it had.
    """

    held: Counter[Stack]
    kept: Counter[Stack]
    exact: bool = True
    memory: int | None = None
    passing: Counter[Stack] = Counter()  # noqa: RUF012 - never changed
    gone: float = 0

    @property
    def leaks(self) -> bool:
        """Whether anything is left."""
        return bool(self.held or self.kept)

    @property
    def tasks(self) -> tuple[int, int]:
        """Goroutines left: while the destinations live, and after."""
        return tasks(self.held), tasks(self.kept)

    @property
    def descriptors(self) -> tuple[int, int]:
        """Descriptors left: while the destinations live, and after."""
        return self.held[DESCRIPTORS], self.kept[DESCRIPTORS]

    def without(self, other: RepetitionGrowth, times: int) -> RepetitionGrowth:
        """Take away what is explained by something else, so many times."""
        held, kept = self.held.copy(), self.kept.copy()
        for left, known in ((held, other.held), (kept, other.kept)):
            left.subtract({stack: count * times for stack, count in known.items()})
        return self._replace(held=+held, kept=+kept)


def slopes(points: list[tuple[int, Counter[Stack]]]) -> tuple[Counter[Stack], bool]:
    """Return growth per repetition, rounded down, from counts after so many; and if it is exact.

    What does not grow from each point to the next is no leak; what does so unevenly has the slope
    of its least squares.
    """
    found: Counter[Stack] = Counter()
    exact = True
    pairs = list(pairwise(points))
    for stack in {stack for _, counts in points for stack in counts}:
        steps = [(b[0] - a[0], b[1][stack] - a[1][stack]) for a, b in pairs]
        if any(grown < 1 for _, grown in steps):
            continue
        if len({grown / done for done, grown in steps}) == 1 and steps[0][1] % steps[0][0] == 0:
            found[stack] = steps[0][1] // steps[0][0]
            continue
        slope = _least_squares([(done, counts[stack]) for done, counts in points])
        # Half a leak for each repetition is a race that is lost often enough to be repeated.
        if len(points) > 2 and slope >= 0.5:  # noqa: PLR2004 - two points always lie on a line
            exact = False
        # Not `round`, which takes a half to the even number: to none.
        found[stack] = int(slope + 0.5) if len(points) > 2 else int(slope)  # noqa: PLR2004 - the same
    return +found, exact


def _least_squares(points: list[tuple[int, int]]) -> float:
    count = len(points)
    mean_x = sum(x for x, _ in points) / count
    mean_y = sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread


def _split_by_wait(
    quick: Counter[Stack], points: list[tuple[int, Counter[Stack]]], late: Counter[Stack]
) -> tuple[Counter[Stack], Counter[Stack], bool]:
    """Split what a quick look has seen, per repetition, into what is left late and what is gone.

    Also say whether what is left came to whole numbers.
    """
    (_, first), (copies, last) = points[0], points[-1]
    # What is still as it was has its slope; of the rest only the whole is known. If it grew with
    # each batch, what is left of it is a race; if not, what a server keeps for later may be in it.
    moved = {stack for stack in {*last, *late} if late[stack] != last[stack]}
    left = Counter({stack: late[stack] - first[stack] for stack in moved})
    held, exact = _per_repetition(left, copies, nearest=quick)
    held += Counter({stack: count for stack, count in quick.items() if stack not in moved})
    return held, quick - held, exact


def _per_repetition(
    left: Counter[Stack], copies: int, *, nearest: Container[Stack]
) -> tuple[Counter[Stack], bool]:
    """Return what is left for each repetition, and whether that comes to whole numbers.

    It is rounded to the ``nearest``, half of one to one, of these stacks; down of others.
    """
    variant = {stack: copies // 2 if stack in nearest else 0 for stack in left}
    share = {stack: (n + variant[stack]) // copies for stack, n in left.items()}
    exact = all(left[stack] == n * copies for stack, n in share.items() if n > 0)
    return +Counter(share), exact


class Samples:
    """What has been seen lately, and whether it has stood still for so many seconds."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._seen: deque[tuple[float, frozenset[tuple[Stack, int]]]] = deque()
        self._times: Counter[frozenset[tuple[Stack, int]]] = Counter()

    def add(self, at: float, counts: Counter[Stack]) -> None:
        """Take note of a look; forget those from long before."""
        seen = frozenset((+counts).items())
        self._seen.append((at, seen))
        self._times[seen] += 1
        while len(self._seen) > 1 and at - self._seen[1][0] >= self._patience / _STILL:
            _, old = self._seen.popleft()
            self._times[old] -= 1

    @property
    def still(self) -> bool:
        """Whether most looks saw the same as the last, since one did so long ago."""
        at, seen = self._seen[-1]
        first = self._first
        most = self._times[seen] >= _STILL * (len(self._seen) - first)
        return most and at - self._seen[first][0] >= self._patience

    @property
    def since(self) -> float:
        """When it was first seen as it is."""
        return self._seen[self._first][0]

    @property
    def _first(self) -> int:
        _, last = self._seen[-1]
        return next(number for number, (_, seen) in enumerate(self._seen) if seen == last)


class Meter:
    """Runs batches and waits, watching the counts, until they stand still."""

    def __init__(
        self,
        counter: Counts,
        driver: Driver,
        destinations: Destinations,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._counter = counter
        self._driver = driver
        self._destinations = destinations
        self._clock = clock
        self.quick = QUICK
        self._last: Snapshot | None = None
        self._changed = 0.0
        """When the counts last changed while they were settling."""

    async def grow(
        self, sequence: Sequence, batches: tuple[int, ...] = (COPIES,), patience: float = 0
    ) -> RepetitionGrowth:
        """Repeat a sequence in batches; count before, between, after, and without destinations.

        Raises:
            UnreachableError: if the server takes no connection.
            CounterError: if it cannot be counted any more.
        """
        before = await self.settle(self._last)
        points, memory = [(0, before.counts)], [before.memory]
        now = before
        for copies in batches:
            await self._driver.run(sequence, copies, self._settle_step)
            ended = self._clock()
            now = await self.settle(before)
            points.append((points[-1][0] + copies, now.counts))
            memory.append(now.memory)
        copies = points[-1][0]
        held, exact = slopes(points)
        passing: Counter[Stack] = Counter()
        if patience:
            now = await self.settle(before, patience)
            held, passing, whole = _split_by_wait(held, points, now.counts)
            exact &= whole
        gone = self._changed - ended if passing else 0
        # In its first batch a server makes what it keeps for all that follow.
        start = min(1, len(batches) - 1)
        each = None
        if (first := memory[start]) is not None and now.memory is not None:
            each = (now.memory - first) // (copies - points[start][0])
        self._destinations.leave()
        self._last = after = await self.settle(before, patience)
        left = after.counts - before.counts
        kept, whole = _per_repetition(left, copies, nearest=() if exact else left)
        return RepetitionGrowth(held, kept, exact and whole, each, passing, gone)

    async def left(
        self, sequence: Sequence, copies: int, patience: float
    ) -> tuple[Counter[Stack], Counter[Stack]]:
        """Repeat a sequence in one batch; return all that it changed, also what became less.

        First while the destinations live, then when they have gone.

        Raises:
            UnreachableError: if the server takes no connection.
            CounterError: if it cannot be counted any more.
        """
        before = await self.settle(self._last)
        await self._driver.run(sequence, copies, self._settle_step)
        held = (await self.settle(before, patience)).counts.copy()
        self._destinations.leave()
        self._last = await self.settle(before, patience)
        kept = self._last.counts.copy()
        for changed in (held, kept):
            changed.subtract(before.counts)
        return held, kept

    async def settle(self, before: Snapshot | None = None, patience: float = 0) -> Snapshot:
        """Look until all is as ``before``, or stands still for so many seconds; bounded."""
        patience = patience or self.quick
        samples, begun = Samples(patience), self._clock()
        while True:
            last = await self._counter.read()
            now = self._clock()
            samples.add(now, last.counts)
            as_before = before is not None and last.counts == before.counts
            if as_before or samples.still or now - begun >= patience * _LIMIT:
                self._changed = samples.since
                return last
            self._driver.spending.check()
            await asyncio.sleep(max(_POLL, patience / _SAMPLES))

    async def _settle_step(self) -> None:
        """Wait until two looks see the same and nothing has moved between them; bounded."""
        until = self._clock() + SETTLE_SECONDS
        last, moved = await self._counter.read(), -1
        while moved != self._driver.traffic and self._clock() < until:
            moved = self._driver.traffic
            await asyncio.sleep(_POLL / 10)
            new = await self._counter.read()
            if new.counts != last.counts:
                moved = -1
            last = new
