"""Growth of a server for each repetition of a sequence, measured when it is quiescent again."""

# A count means something only when the server is quiescent, and nobody announces that from outside.
# So the server is sampled until its counts stand still.
#
# Counts stand still when, for `patience` seconds, at least three of four samples saw the same
# counts as the last one. Not all of them: a sample moves the server. It accepts the request,
# answers and closes, and is sometimes seen with one goroutine more or fewer. An earlier rule
# forgave one such moment in a patience; a server with two of them never stood still, and its last
# sample was taken as it was, moved or not. Samples older than patience / 0.75 are dropped, so a
# state that was left and reached again begins anew. Two rules bound the price: counts equal to
# those before the repetitions need no wait, since nothing is left; and after `_LIMIT` patiences the
# counts are taken as they are.
#
# Growth is a slope and not a difference. A difference cannot tell a leak from a cache, a pool or a
# worker that starts with the first connection. Two measurements use it:
#
# - Quick: one batch of 3 copies. It looks for candidates and is repeated hundreds of times, so it
#   waits a quarter of a second only. The slope is rounded down: less than one for each copy is no
#   leak.
# - Full: batches of 4, 4 and 8 copies, with a count after each. A stack that does not grow in every
#   batch is no leak. Two sizes of batch tell growth by repetition from growth by batch. If the
#   slope is the same whole number in each batch, the growth is exact. Otherwise it is the slope of
#   the least squares, rounded to the nearest: a race that is lost in half of the repetitions counts
#   as one, and `exact` is False.
#
# After the full batches the counts must stand still for the long patience. The wait separates
# `held` and `kept` from `passing`, the part that the server ends by itself. A count that the wait
# did not change keeps its slope. Of a changed count only the total is known: the rest is divided by
# the copies. It is rounded to the nearest if it grew with each batch, since the rest of a leak is
# then a race; and down if not, since a server may keep a few objects for later use.
#
# Every measurement counts twice, because the answers differ. `held` is counted while the
# destinations are alive. Then all of them close, and `kept` is counted. A goroutine that waits for
# its destination is in the first only, and lasts as long as a peer that the server's owner does not
# control. Both counts are rounded alike, or a leak could seem to grow when the destinations go.
#
# Memory is rough in any case. It is counted from the end of the first batch, in which a server
# creates the objects that it keeps for all later connections.

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
"""Repetitions in a quick measurement."""
BATCHES = (4, 4, 8)
"""Repetitions in each batch of a full measurement."""
QUICK = 0.25
"""Seconds without a change after which a quick measurement takes the counts as final."""
_POLL = 0.01
_SAMPLES = 1000
"""Samples in a patience, at most."""
_STILL = 0.75
"""Share of the samples that must equal the last one when counts stand still."""
_LIMIT = 20.0
"""Patiences after which counts that never stand still are taken as they are."""
_ASK = 0.1
"""Seconds of a sample after which the hunt may end it."""


class RepetitionGrowth(NamedTuple):
    """Growth for one repetition of a sequence, in whole numbers, by stack or unit.

    Attributes:
        held: counted while the destinations are alive.
        kept: counted after all destinations have closed.
        exact: True if every batch grew by the same number.
        memory: bytes, rough; None if the server's memory is not known.
        passing: counted at first, and gone by itself later.
        gone: seconds after which `passing` had gone.
        settled: True if the counts stood still in the end; False if they were taken as they were,
            so that the growth is no more than a guess.
    """

    held: Counter[Stack]
    kept: Counter[Stack]
    exact: bool = True
    memory: int | None = None
    passing: Counter[Stack] = Counter()  # noqa: RUF012 - never changed
    gone: float = 0
    settled: bool = True

    @property
    def leaks(self) -> bool:
        """True if anything is left."""
        return bool(self.held or self.kept)

    @property
    def tasks(self) -> tuple[int, int]:
        """Goroutines left while the destinations are alive, and after they have closed."""
        return tasks(self.held), tasks(self.kept)

    @property
    def descriptors(self) -> tuple[int, int]:
        """Descriptors left while the destinations are alive, and after they have closed."""
        return self.held[DESCRIPTORS], self.kept[DESCRIPTORS]

    def without(self, other: RepetitionGrowth, times: int) -> RepetitionGrowth:
        """Return this growth less a known one.

        Args:
            other: the known growth.
            times: number of times that it occurs in a repetition.
        """
        held, kept = self.held.copy(), self.kept.copy()
        for left, known in ((held, other.held), (kept, other.kept)):
            left.subtract({stack: count * times for stack, count in known.items()})
        return self._replace(held=+held, kept=+kept)


def slopes(points: list[tuple[int, Counter[Stack]]]) -> tuple[Counter[Stack], bool]:
    """Compute the growth for one repetition.

    Args:
        points: number of repetitions so far, and the counts then; the first with 0 repetitions.

    Returns:
        The growth of each stack that grew from every point to the next, and True if it was the same
        whole number each time. Uneven growth has the slope of its least squares.
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
        # Half a leak for each repetition is a race that is lost often enough to be repeated. Two
        # points always lie on a line, so they say nothing about that, and are rounded down.
        if len(points) > 2 and slope >= 0.5:  # noqa: PLR2004 - two points always lie on a line
            exact = False
        # Not `round`, which rounds a half to the even number and so half a leak to none.
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
    """Split the growth before a wait into the part that stays and the part that has gone.

    Args:
        quick: growth for one repetition before the wait.
        points: the counts that it was computed from.
        late: the counts after the wait.

    Returns:
        The part for one repetition that stays, the part that has gone, and True if the part that
        stays is a whole number for each repetition.
    """
    (_, first), (copies, last) = points[0], points[-1]
    moved = {stack for stack in {*last, *late} if late[stack] != last[stack]}
    left = Counter({stack: late[stack] - first[stack] for stack in moved})
    held, exact = _per_repetition(left, copies, nearest=quick)
    held += Counter({stack: count for stack, count in quick.items() if stack not in moved})
    return held, quick - held, exact


def _per_repetition(
    left: Counter[Stack], copies: int, *, nearest: Container[Stack]
) -> tuple[Counter[Stack], bool]:
    """Divide totals by the number of repetitions.

    Args:
        left: totals by stack.
        copies: number of repetitions.
        nearest: stacks to round to the nearest number, a half up; others are rounded down.

    Returns:
        The share of each repetition, and True if every total was a multiple of ``copies``.
    """
    half = {stack: copies // 2 if stack in nearest else 0 for stack in left}
    share = {stack: (n + half[stack]) // copies for stack, n in left.items()}
    exact = all(left[stack] == n * copies for stack, n in share.items() if n > 0)
    return +Counter(share), exact


class Samples:
    """The latest samples of a server.

    Args:
        patience: seconds for which the counts must stand still.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._seen: deque[tuple[float, frozenset[tuple[Stack, int]]]] = deque()
        self._times: Counter[frozenset[tuple[Stack, int]]] = Counter()

    def add(self, at: float, counts: Counter[Stack]) -> None:
        """Add a sample; drop those that are too old to matter.

        Args:
            at: its time, in seconds.
            counts: its counts.
        """
        seen = frozenset((+counts).items())
        self._seen.append((at, seen))
        self._times[seen] += 1
        while len(self._seen) > 1 and at - self._seen[1][0] >= self._patience / _STILL:
            _, old = self._seen.popleft()
            self._times[old] -= 1

    @property
    def still(self) -> bool:
        """True if three of four samples equal the last, since the first that does, long enough."""
        at, seen = self._seen[-1]
        first = self._first
        most = self._times[seen] >= _STILL * (len(self._seen) - first)
        return most and at - self._seen[first][0] >= self._patience

    @property
    def since(self) -> float:
        """Time of the first sample that equals the last, in seconds."""
        return self._seen[self._first][0]

    @property
    def _first(self) -> int:
        _, last = self._seen[-1]
        return next(number for number, (_, seen) in enumerate(self._seen) if seen == last)


class Meter:
    """Runs batches of a sequence and computes the growth.

    Args:
        counter: counts the server under test.
        driver: repeats a sequence.
        destinations: the listeners that close for the second count.
        clock: returns seconds.

    Attributes:
        quick: seconds without a change that a quick measurement waits for.
    """

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
        self._settled = True
        """False once counts were taken as they were in this measurement."""
        self._changed = 0.0
        """Time at which the counts last changed before they stood still."""

    async def grow(
        self, sequence: Sequence, batches: tuple[int, ...] = (COPIES,), patience: float = 0
    ) -> RepetitionGrowth:
        """Repeat a sequence in batches and compute its growth.

        Args:
            sequence: the sequence.
            batches: number of copies in each batch.
            patience: seconds without a change to wait for; 0 for a quick measurement.

        Raises:
            UnreachableError: the server accepts no connection.
            CounterError: the server cannot be counted any more.
        """
        self._settled = True
        # After the last measurement the server was as `_last`; if it still is, this needs no wait.
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
        # From the end of the first batch on; a quick measurement has no other batch.
        start = min(1, len(batches) - 1)
        each = None
        if (first := memory[start]) is not None and now.memory is not None:
            each = (now.memory - first) // (copies - points[start][0])
        self._destinations.leave()
        self._last = after = await self.settle(before, patience)
        left = after.counts - before.counts
        kept, whole = _per_repetition(left, copies, nearest=() if exact else left)
        return RepetitionGrowth(held, kept, exact and whole, each, passing, gone, self._settled)

    async def left(
        self, sequence: Sequence, copies: int, patience: float
    ) -> tuple[Counter[Stack], Counter[Stack]]:
        """Repeat a sequence in one batch and return the change of every count, also below zero.

        Args:
            sequence: the sequence.
            copies: number of copies.
            patience: seconds without a change to wait for.

        Returns:
            The change while the destinations are alive, and the change after they have closed.

        Raises:
            UnreachableError: the server accepts no connection.
            CounterError: the server cannot be counted any more.
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
        """Sample the server until its counts are as before, or stand still.

        Args:
            before: the counts at which the wait ends at once.
            patience: seconds without a change; 0 for those of a quick measurement.

        Returns:
            The last sample; after `_LIMIT` patiences also one that still changes.

        Raises:
            CounterError: the server cannot be counted any more.
        """
        patience = patience or self.quick
        samples, begun = Samples(patience), self._clock()
        while True:
            last = await self._sample()
            now = self._clock()
            samples.add(now, last.counts)
            as_before = before is not None and last.counts == before.counts
            still = as_before or samples.still
            if still or now - begun >= patience * _LIMIT:
                self._settled &= still
                self._changed = samples.since
                return last
            self._driver.spending.check()
            await asyncio.sleep(max(_POLL, patience / _SAMPLES))

    async def _sample(self) -> Snapshot:
        """Take a sample, unless the hunt ends meanwhile: a large profile takes seconds."""
        reading = asyncio.ensure_future(self._counter.read())
        try:
            while not (await asyncio.wait([reading], timeout=_ASK))[0]:
                self._driver.spending.check()
            return reading.result()
        finally:
            if not reading.done():
                reading.cancel()
                await asyncio.wait([reading])

    async def _settle_step(self) -> None:
        """Wait between two steps: until two samples are equal and no byte came between them.

        Bounded by `SETTLE_SECONDS`.
        """
        until = self._clock() + SETTLE_SECONDS
        last, moved = await self._sample(), -1
        while moved != self._driver.traffic and self._clock() < until:
            moved = self._driver.traffic
            # Shorter than between other samples, since this wait comes with every step.
            await asyncio.sleep(_POLL / 10)
            new = await self._sample()
            if new.counts != last.counts:
                moved = -1
            last = new
