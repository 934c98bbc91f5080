"""The hunt: random sequences until one leaves more with each repetition, and then the shortest."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field, replace
from math import inf
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from muxleak_scenarios.hunt.batch import Driver, Spending, UnreachableError
from muxleak_scenarios.hunt.counters import CounterError
from muxleak_scenarios.hunt.findings import HuntFinding, Known
from muxleak_scenarios.hunt.measure import BATCHES, Meter, RepetitionGrowth
from muxleak_scenarios.hunt.random_sequences import draw
from muxleak_scenarios.hunt.remote_server import StartError
from muxleak_scenarios.hunt.shrink import shrink

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from muxleak_scenarios.hunt.destinations import Destinations
    from muxleak_scenarios.hunt.remote_server import RemoteServer
    from muxleak_scenarios.sequence.steps import Sequence

SECONDS = 120.0
CONNECTIONS = 100_000
BANDWIDTH = 50e6
PATIENCE = 6.0
"""Longer than the dial limit of sing-box, 5 s."""
_TROUBLES = 3
"""Looks in a row that may fail at a server that lives."""
_EMPTY = 1000
"""Sequences in a row of which nothing is left without what is known."""
_RESERVE = 4
"""Waits that measuring well takes at most."""
_LONGEST_LOOK = 2.5
"""Seconds without a change that a quick look waits at most. What takes longer to go is kept out of
later sequences instead, as what leaks is."""


class HuntBudget(NamedTuple):
    """What a hunt may spend: seconds, connections, bytes a second; ``findings`` ends it, too.

    ``patience`` is how many seconds what is left must stay to be called a leak, ``idle`` the
    server's own limit for what is idle, 0 if it is not known to have one.
    """

    seconds: float = SECONDS
    connections: int = CONNECTIONS
    bandwidth: float = BANDWIDTH
    patience: float = PATIENCE
    findings: int | None = None
    idle: float = 0.0

    @property
    def wait(self) -> float:
        """Seconds without a change after which what is left is taken to stay for ever."""
        # Who looks for the idle once in each interval (V2Ray) ends them after up to two.
        return max(self.patience, 2 * self.idle + 1 if self.idle else 0)


class HuntProgress(NamedTuple):
    """How far a hunt is; ``shortest`` are the steps of what is being shrunk."""

    doing: str
    seconds: float
    measurements: int
    connections: int
    findings: int
    shortest: int | None


@dataclass(slots=True)
class HuntResult:
    """What a hunt came to.

    Attributes:
        findings: what leaks, or kills the server.
        passing: what looks like a leak until the server ends it by itself.
        suspicion: what was being shrunk or measured at the end, and may be either.
        ended: "time", "connections", "stopped", "enough", "replayed", "died", "trouble", or "known"
            if nothing is left to try.
        trouble: which.
        explained: looks that left nothing but what is known to be left.
        unsure: suspicions that were gone so soon that it took but a longer look.
        measurements: sequences that were repeated.
        connections: that were made.
        sent: bytes.
        seconds: that it took.
    """

    findings: list[HuntFinding] = field(default_factory=list)
    passing: list[HuntFinding] = field(default_factory=list)
    suspicion: HuntFinding | None = None
    ended: str = ""
    trouble: str = ""
    explained: int = 0
    unsure: int = 0
    measurements: int = 0
    connections: int = 0
    sent: int = 0
    seconds: float = 0


class _End(BaseException):
    """Ends a hunt from wherever it is; no `Exception`, which a server's doings might be."""


class _HurryError(Exception):
    """The time that is left is needed to measure what there is."""


class _DeadError(Exception):
    """The server has died of the sequence."""


class Hunt:
    """One hunt of one server that has been started. Deterministic for a seed, but for the world."""

    def __init__(
        self,
        target: RemoteServer,
        user: UUID,
        destinations: Destinations,
        *,
        limits: HuntBudget = HuntBudget(),  # noqa: B008 - a value that cannot change
        seed: int = 0,
        known: list[HuntFinding] | None = None,
        progress: Callable[[HuntProgress], None] = lambda _: None,
        stopped: Callable[[], bool] = bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._target = target
        self._limits = limits
        self._random = Random(seed)  # noqa: S311 - a reproducible search, no secret
        self._known = Known(known or [])
        self._progress = progress
        self._stopped = stopped
        self._clock = clock
        self._begun = clock()
        self._spending = Spending(limits.bandwidth, self._check, clock)
        driver = Driver(target.address, user, destinations, self._spending)
        self._meter = Meter(target, driver, destinations, clock)
        self._doing = "searches"
        self._best: HuntFinding | None = None
        self._troubles = 0
        self._lasting = 0.0
        """How long it takes at most until what goes by itself is gone, as far as is known."""
        self._clean_until = inf
        """When what looks have left may begin to go by itself; never, if they have left nothing."""
        self.result = HuntResult()

    async def run(self, replays: list[Sequence] | None = None) -> HuntResult:
        """Search until something ends it; or measure the sequences that are given."""
        result = self.result
        try:
            if replays is None:
                await self._search()
            else:
                # How long that takes is known: as long as what is left has to be waited for.
                self._limits = self._limits._replace(seconds=inf)
                for each in replays:
                    await self._follow(each.canonical(), shrunk=True)
                result.ended = "replayed"
        except _End as end:
            result.ended, best = str(end), self._best
            if best is None or not best.died:
                result.suspicion = best
            elif result.ended == "died" or not self._known.has_died(best.died):
                result.findings.append(best)
        result.connections = self._spending.connections
        result.sent = self._spending.sent
        result.seconds = self._clock() - self._begun
        return result

    async def _search(self) -> None:
        empty = 0
        while True:
            self._check()
            sequence = self._known.mask(draw(self._random))
            empty = 0 if sequence else empty + 1
            if empty > _EMPTY:
                raise _End("known")
            if sequence and await self._leaks(sequence):
                await self._follow(sequence)
                if len(self.result.findings) == self._limits.findings:
                    raise _End("enough")

    async def _follow(self, sequence: Sequence, *, shrunk: bool = False) -> None:
        """Shrink what leaks, measure it well, and file it; what is given as shrunk is so."""
        given = shrunk
        if not shrunk:
            sequence, shrunk = await self._shrink(sequence)
        finding = await self._measure(sequence, shrunk=shrunk)
        if not given and finding.gone > max(self._lasting, _LONGEST_LOOK):
            # What other looks had left went while it was shrunk, and hid what the shorter ones do.
            self._lasting = finding.gone
            shorter, shrunk = await self._shrink(sequence)
            if shorter != sequence:
                finding = await self._measure(shorter, shrunk=shrunk)
        best, self._best = self._best, None
        self._doing = "searches"
        if finding.died or finding.growth.leaks:
            died, growth = finding.died, finding.growth
            if not (self._known.has_died(died) if died else self._known.explains(growth)):
                self.result.findings.append(finding)
            self._known.add(finding)
        elif finding.gone > (0 if given else _LONGEST_LOOK):
            self._pass(finding, best)
        elif not given:
            self.result.unsure += 1
            # It takes longer than we look: look longer from now on.
            longer = max(2 * self._meter.quick, 1.25 * finding.gone)
            self._meter.quick = min(longer, _LONGEST_LOOK, self._limits.wait)
        if finding.died and not self._target.ours:
            raise _End("died")
        if self._target.ours:
            # Without what all those looks have left in it.
            await self._restart()

    def _pass(self, finding: HuntFinding, best: HuntFinding | None) -> None:
        """File what goes by itself, with what it leaves until then."""
        self._lasting = max(self._lasting, finding.gone)
        passing = replace(finding, growth=finding.growth._replace(held=finding.growth.passing))
        self.result.passing.append(passing)
        # Quick looks are held against what a quick look has seen.
        self._known.add(passing if best is None else replace(passing, growth=best.growth))

    async def _shrink(self, sequence: Sequence) -> tuple[Sequence, bool]:
        """Return the shortest that still leaks, and whether there was the time to be sure."""
        self._doing = "shrinks"
        try:
            return await shrink(sequence, self._leaks), True
        except _HurryError:
            return (sequence if self._best is None else self._best.sequence), False

    async def _measure(self, sequence: Sequence, *, shrunk: bool) -> HuntFinding:
        """Repeat a sequence in batches, on a server at rest, and wait for what goes by itself."""
        self._doing = "measures"
        try:
            if self._clean_until < inf:
                await self._refresh(self._limits.wait)
            growth = await self._grow(sequence, BATCHES, self._limits.wait)
        except _DeadError as error:
            return self._dead(sequence, error, shrunk=shrunk and self._target.ours)
        return HuntFinding(
            sequence,
            growth,
            shrunk,
            seconds=self._limits.wait,
            log=self._target.log(),
            after=self._clock() - self._begun,
            gone=0 if growth.leaks else growth.gone,
        )

    async def _leaks(self, sequence: Sequence) -> bool:
        """Take a quick look at a sequence, unless it is known; remember the shortest that leaks."""
        left = self._limits.seconds - (self._clock() - self._begun)
        if self._best is not None and left < min(
            _RESERVE * self._limits.wait, self._limits.seconds / 2
        ):
            raise _HurryError
        if self._known.shows(sequence):
            return False
        try:
            if self._lasting > 0 and self._clock() > self._clean_until:
                await self._refresh(self._lasting)
            growth = await self._grow(sequence)
        except _DeadError as error:
            self._best = self._dead(sequence, error)
            if not self._target.ours:
                raise _End("died") from None
            await self._restart()
            return True
        if self._best is not None and self._best.died:
            # A server that dies is shrunk to one that dies, not to one that leaks.
            return False
        explained = self._known.explains(growth)
        self.result.explained += growth.leaks and explained
        if not explained:
            self._best = HuntFinding(sequence, growth, shrunk=False, confirmed=False)
        return not explained

    async def _grow(
        self, sequence: Sequence, batches: tuple[int, ...] = (), patience: float = 0
    ) -> RepetitionGrowth:
        self.result.measurements += 1
        self._progress(self._status)
        more = {"batches": batches} if batches else {}
        while True:
            try:
                growth = await self._meter.grow(sequence, patience=patience, **more)
            except (CounterError, UnreachableError, OSError) as error:
                await self._failed(error)
            else:
                self._troubles = 0
                if growth.leaks:
                    until = self._clock() + self._lasting / 2
                    self._clean_until = min(self._clean_until, until)
                return self._known.unexplained(sequence, growth)

    async def _failed(self, error: Exception) -> None:
        if died := await self._target.died():
            raise _DeadError(died) from None
        self._troubles += 1
        if self._troubles >= _TROUBLES:
            self.result.trouble = str(error)
            raise _End("trouble")

    def _dead(self, sequence: Sequence, error: _DeadError, *, shrunk: bool = False) -> HuntFinding:
        nothing = RepetitionGrowth(Counter(), Counter())
        return HuntFinding(
            sequence, nothing, shrunk=shrunk, died=str(error), log=self._target.log()
        )

    async def _refresh(self, seconds: float) -> None:
        """See that nothing goes by itself during the next looks, which takes so long at most."""
        if self._target.ours:
            await self._restart()
            return
        try:
            await self._meter.settle(patience=seconds)
        except (CounterError, OSError) as error:
            if died := await self._target.died():
                # Of nothing that this look has sent.
                self.result.trouble = f"the server died between two looks: it {died}"
                raise _End("trouble") from None
            await self._failed(error)
        else:
            self._clean_until = inf

    async def _restart(self) -> None:
        self._clean_until = inf
        try:
            await self._target.restart(self._check)
        except (StartError, CounterError) as error:
            self.result.trouble = f"the server did not come up again: {error}"
            raise _End("trouble") from None

    @property
    def _status(self) -> HuntProgress:
        return HuntProgress(
            self._doing,
            self._clock() - self._begun,
            self.result.measurements,
            self._spending.connections,
            len(self.result.findings),
            None if self._best is None else len(self._best.sequence),
        )

    def _check(self) -> None:
        """End the hunt if it has spent what it may."""
        if self._stopped():
            raise _End("stopped")
        if self._clock() - self._begun >= self._limits.seconds:
            raise _End("time")
        if self._spending.connections >= self._limits.connections:
            raise _End("connections")
