"""The hunt: random sequences until one leaves more with each repetition, and then the shortest."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from scenarios.hunt.batch import Driver, Spending, UnreachableError
from scenarios.hunt.counters import CounterError
from scenarios.hunt.drawing import draw
from scenarios.hunt.findings import Finding, Known
from scenarios.hunt.measure import BATCHES, Growth, Meter
from scenarios.hunt.shrink import shrink
from scenarios.hunt.target import StartError

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from scenarios.hunt.destinations import Destinations
    from scenarios.hunt.target import Target
    from scenarios.steps import Sequence

SECONDS = 120.0
CONNECTIONS = 100_000
BANDWIDTH = 50e6
PATIENCE = 6.0
_TROUBLES = 3
"""Looks in a row that may fail at a server that lives."""
_EMPTY = 1000
"""Sequences in a row of which nothing is left without what is known."""


_RESERVE = 4
"""Patiences that measuring well takes at most."""


class Limits(NamedTuple):
    """What a hunt may spend: seconds, connections, bytes a second; ``findings`` ends it, too.

    ``patience`` is how many seconds what is left must stay to be called a leak.
    """

    seconds: float = SECONDS
    connections: int = CONNECTIONS
    bandwidth: float = BANDWIDTH
    patience: float = PATIENCE
    findings: int | None = None


class Status(NamedTuple):
    """How far a hunt is; ``shortest`` are the steps of what is being shrunk."""

    doing: str
    seconds: float
    looks: int
    connections: int
    findings: int
    shortest: int | None


@dataclass(slots=True)
class Result:
    """What a hunt came to.

    ``ended`` is "time", "connections", "stopped", "enough", "replayed", "died" or "trouble", which
    ``trouble`` then tells, or "known" if nothing is left to try. ``explained`` are looks that left
    nothing but what is known to be left, and ``unsure`` what was gone when it was waited for.
    """

    findings: list[Finding] = field(default_factory=list)
    ended: str = ""
    trouble: str = ""
    explained: int = 0
    unsure: int = 0
    looks: int = 0
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
        target: Target,
        user: UUID,
        destinations: Destinations,
        *,
        limits: Limits = Limits(),  # noqa: B008 - a value that cannot change
        seed: int = 0,
        known: list[Finding] | None = None,
        progress: Callable[[Status], None] = lambda _: None,
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
        self._best: Finding | None = None
        self._troubles = 0
        self.result = Result()

    async def run(self, replays: list[Sequence] | None = None) -> Result:
        """Search until something ends it; or measure the sequences that are given."""
        result = self.result
        try:
            if replays is None:
                await self._search()
            else:
                for each in replays:
                    await self._follow(each.canonical(), shrunk=True)
                result.ended = "replayed"
        except _End as end:
            result.ended = str(end)
            if self._best is not None:
                result.findings.append(self._best)
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
        """Shrink what leaks, measure it well, and file it."""
        if not shrunk:
            self._doing = "shrinks"
            try:
                sequence, shrunk = await shrink(sequence, self._leaks), True
            except _HurryError:
                sequence = sequence if self._best is None else self._best.sequence
        self._doing = "measures"
        try:
            finding = await self._confirm(sequence, shrunk=shrunk)
        except _DeadError as error:
            finding = self._dead(sequence, error, shrunk=self._target.ours)
        self._best = None
        self._doing = "searches"
        if not finding.died and not finding.growth.leaks:
            self.result.unsure += 1
            # It takes longer than we look: look longer from now on.
            self._meter.quick = min(2 * self._meter.quick, self._limits.patience)
        else:
            died, growth = finding.died, finding.growth
            if not (self._known.has_died(died) if died else self._known.explains(growth)):
                self.result.findings.append(finding)
            self._known.add(finding)
        if finding.died and not self._target.ours:
            raise _End("died")
        if self._target.ours:
            # Without what all those looks have left in it.
            await self._restart()

    async def _confirm(self, sequence: Sequence, *, shrunk: bool) -> Finding:
        patience = self._limits.patience
        growth = await self._grow(sequence, BATCHES, patience)
        log = self._target.log()
        after = self._clock() - self._begun
        return Finding(sequence, growth, shrunk, seconds=patience, log=log, after=after)

    async def _leaks(self, sequence: Sequence) -> bool:
        """Take a quick look at a sequence, unless it is known; remember the shortest that leaks."""
        left = self._limits.seconds - (self._clock() - self._begun)
        if self._best is not None and left < min(
            _RESERVE * self._limits.patience, self._limits.seconds / 2
        ):
            raise _HurryError
        if self._known.shows(sequence):
            return False
        try:
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
            self._best = Finding(sequence, growth, shrunk=False, confirmed=False)
        return not explained

    async def _grow(
        self, sequence: Sequence, batches: tuple[int, ...] = (), patience: float = 0
    ) -> Growth:
        self.result.looks += 1
        self._progress(self._status)
        more = {"batches": batches} if batches else {}
        while True:
            try:
                growth = await self._meter.grow(sequence, patience=patience, **more)
            except (CounterError, UnreachableError, OSError) as error:
                await self._failed(error)
            else:
                self._troubles = 0
                return self._known.unexplained(sequence, growth)

    async def _failed(self, error: Exception) -> None:
        if died := await self._target.died():
            raise _DeadError(died) from None
        self._troubles += 1
        if self._troubles >= _TROUBLES:
            self.result.trouble = str(error)
            raise _End("trouble")

    def _dead(self, sequence: Sequence, error: _DeadError, *, shrunk: bool = False) -> Finding:
        nothing = Growth(Counter(), Counter())
        return Finding(sequence, nothing, shrunk=shrunk, died=str(error), log=self._target.log())

    async def _restart(self) -> None:
        try:
            await self._target.restart()
        except (StartError, CounterError) as error:
            self.result.trouble = f"the server did not come up again: {error}"
            raise _End("trouble") from None

    @property
    def _status(self) -> Status:
        return Status(
            self._doing,
            self._clock() - self._begun,
            self.result.looks,
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
