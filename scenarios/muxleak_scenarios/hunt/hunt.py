"""The hunt: random sequences until one leaks, then the shortest sequence that leaks the same."""

# Order of work, for one candidate after another:
#
# 1. Draw a random sequence, and leave out of it the steps that would repeat a known finding.
# 2. Measure it quickly. A sequence that leaves nothing, or only a known growth, is done.
# 3. Shrink it. Every shorter sequence is measured quickly; the shortest that leaks is remembered.
# 4. Measure the shortest in full: in batches, with the long wait, on a server without leftovers.
# 5. File it: as a finding if it leaks or kills the server; as passing if the server ends it by
#    itself, but too late for a quick measurement; otherwise wait longer in later quick
#    measurements.
#
# A hunt drives the engine's shrinker, and not its search: a measurement is awaited while the hunt's
# own destinations answer, and the search for the next leak depends on the findings before it.
#
# Known findings are left out of later sequences (`pattern.mask`) for two reasons. A frequent leak
# would be found again by most random sequences, and a rare one beside it would be shrunk away: the
# shrinker keeps any leak, not the one it began with. Two kinds of findings need more than that:
#
# - A leak of every connection cannot be left out, since every sequence opens one. Its growth is
#   subtracted for each connection.
# - A growth can be a sum of known growths that come from sequences of another shape. Such a
#   sequence is not followed. The price: a new leak of the same stacks in the same proportion is
#   missed.
#
# Growth that passes is left out as well, because a quick measurement cannot tell it from a leak. It
# does harm a second time when it ends: in a later measurement the counts sink, and the sinking
# hides a leak of that moment. So the hunt remembers how long such growth lasts. Before it measures
# at a time when older growth may be ending, it restarts the server if that is its own, or waits
# until the counts stand still. If a full measurement shows that growth lasts longer than known
# before, the shrinking before it was not to be trusted and is done again.
#
# A server that dies is a finding, too. If the hunt can start it again, the sequence is shrunk to
# the shortest that kills it, and never to one that only leaks. Another's server cannot be started
# again, so its death ends the hunt. A death while nothing is sent belongs to no sequence.
#
# Time: shrinking ends early when the rest of the time is needed for the full measurement. A replay
# has no time limit, since its time is known: the repetitions and the wait.
#
# Counts that never stand still, as in a server that others use, say nothing. Growth between two
# such samples is no finding, and a hunt with more of them than others has not found "nothing": it
# could not measure (`HuntResult.unmeasured`).
#
# The hunt ends by an exception (`_End`) from any depth. It derives from BaseException, so that no
# handler of the errors of a server can catch it.

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from math import inf
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from muxleak_scenarios.hunt.batch import Driver, Spending, UnreachableError
from muxleak_scenarios.hunt.counters import CounterError
from muxleak_scenarios.hunt.findings import HuntOutcome, Known
from muxleak_scenarios.hunt.measure import BATCHES, Meter, RepetitionGrowth
from muxleak_scenarios.hunt.random_sequences import draw
from muxleak_scenarios.hunt.remote_server import StartError
from muxleak_scenarios.hunt.shrink import shrink

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from muxleak.search.finding import Finding
    from muxleak_scenarios.hunt.destinations import Destinations
    from muxleak_scenarios.hunt.remote_server import RemoteServer
    from muxleak_scenarios.sequence.steps import Sequence

SECONDS = 120.0
CONNECTIONS = 100_000
BANDWIDTH = 50e6
PATIENCE = 6.0
"""Seconds. Longer than sing-box waits for a dial, 5 s."""
_TROUBLES = 3
"""Measurements in a row that may fail while the server is alive."""
_EMPTY = 1000
"""Sequences in a row that are empty without the known findings; then nothing is left to try."""
_RESERVE = 4
"""Waits that a full measurement takes at most."""
_LONGEST_QUICK = 2.5
"""Seconds without a change that a quick measurement waits at most. Growth that takes longer to go
is left out of later sequences instead, like a leak."""


class HuntBudget(NamedTuple):
    """Limits of a hunt.

    Attributes:
        seconds: length of the hunt.
        connections: number of connections.
        bandwidth: bytes a second to the server.
        patience: seconds that growth must stay to be called a leak.
        findings: number of findings that ends the hunt; None for no such limit.
        idle: the server's own limit for idle streams, in seconds; 0 if none is known.
    """

    seconds: float = SECONDS
    connections: int = CONNECTIONS
    bandwidth: float = BANDWIDTH
    patience: float = PATIENCE
    findings: int | None = None
    idle: float = 0.0

    @property
    def wait(self) -> float:
        """Seconds without a change after which growth is taken to stay for ever."""
        # V2Ray checks for idle streams once in each interval, so it ends them after up to two.
        return max(self.patience, 2 * self.idle + 1 if self.idle else 0)


class HuntProgress(NamedTuple):
    """Progress of a hunt.

    Attributes:
        doing: "searches", "shrinks" or "measures".
        seconds: time since its beginning.
        measurements: number of sequences that were repeated.
        connections: number of connections made.
        findings: number of findings.
        shortest: steps of the shortest candidate; None while there is none.
    """

    doing: str
    seconds: float
    measurements: int
    connections: int
    findings: int
    shortest: int | None


@dataclass(slots=True)
class HuntResult:
    """Result of a hunt.

    Attributes:
        findings: sequences that leak or kill the server.
        passing: sequences whose growth the server ends by itself, but late.
        suspicion: the candidate that was shrunk or measured when the hunt ended.
        ended: "time", "connections", "stopped", "enough", "replayed", "died", "trouble", or "known"
            if nothing is left to try.
        trouble: the error behind "trouble".
        explained: number of measurements with a known growth and no other.
        unsure: number of candidates whose growth went soon, in a slightly longer wait.
        measurements: number of sequences that were repeated.
        completed: number of those whose growth was measured.
        unsettled: number of those whose counts never stood still, so that they say nothing.
        connections: number of connections made.
        sent: bytes sent.
        seconds: length of the hunt.
    """

    findings: list[Finding[HuntOutcome]] = field(default_factory=list)
    passing: list[HuntOutcome] = field(default_factory=list)
    suspicion: HuntOutcome | None = None
    ended: str = ""
    trouble: str = ""
    explained: int = 0
    unsure: int = 0
    measurements: int = 0
    completed: int = 0
    unsettled: int = 0
    connections: int = 0
    sent: int = 0
    seconds: float = 0

    @property
    def unmeasured(self) -> bool:
        """True if the hunt found nothing because it could not measure.

        That is so if at most half of its measurements came to an end with counts that stood still.
        """
        ran_out = self.ended in {"time", "connections", "replayed"}
        return ran_out and not self.findings and 2 * self.unsettled >= self.completed


class _End(BaseException):
    """Ends the hunt from any depth; its text is `HuntResult.ended`."""


class _HurryError(Exception):
    """The rest of the time is needed to measure the candidate."""


class _DeadError(Exception):
    """The server died while the sequence was repeated."""


class Hunt:
    """A hunt against one server that has been started.

    The drawn sequences depend on the seed alone; the course of the hunt also depends on the server.

    Args:
        target: the server under test.
        user: the id of a user that it accepts.
        destinations: the listeners that the server dials; entered already.
        limits: the limits.
        seed: of the random sequences.
        known: earlier findings, which are not reported again.
        progress: called before each measurement.
        found: called with the result so far whenever it has one more finding, or passing growth.
        stopped: returns True to end the hunt.
        clock: returns seconds.
    """

    def __init__(
        self,
        target: RemoteServer,
        user: UUID,
        destinations: Destinations,
        *,
        limits: HuntBudget = HuntBudget(),  # noqa: B008 - a value that cannot change
        seed: int = 0,
        known: list[HuntOutcome] | None = None,
        progress: Callable[[HuntProgress], None] = lambda _: None,
        found: Callable[[HuntResult], object] = lambda _: None,
        stopped: Callable[[], bool] = bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._target = target
        self._limits = limits
        self._random = Random(seed)  # noqa: S311 - a reproducible search, no secret
        self._known = Known(known or [])
        self._progress = progress
        self._found = found
        self._stopped = stopped
        self._clock = clock
        self._begun = clock()
        self._spending = Spending(limits.bandwidth, self._check, clock)
        driver = Driver(target.address, user, destinations, self._spending)
        self._meter = Meter(target, driver, destinations, clock)
        self._doing = "searches"
        self._best: HuntOutcome | None = None
        self._troubles = 0
        self._lasting = 0.0
        """Longest time in seconds that passing growth has lasted so far."""
        self._clean_until = inf
        """Time at which growth of earlier measurements may begin to go; never if they left none."""
        self.result = HuntResult()

    async def run(self, replays: list[Sequence] | None = None) -> HuntResult:
        """Search until a limit is reached, or measure the given sequences.

        Args:
            replays: sequences to measure in place of a search.
        """
        result = self.result
        try:
            if replays is None:
                await self._search()
            else:
                self._limits = self._limits._replace(seconds=inf)
                for each in replays:
                    await self._follow(each.canonical(), shrunk=True)
                result.ended = "replayed"
        except _End as end:
            result.ended, best = str(end), self._best
            if best is None or not best.died:
                result.suspicion = best
            elif result.ended == "died" or not self._known.has_died(best.died):
                self._file(best)
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
        """Shrink a candidate, measure it in full, and file it.

        Args:
            sequence: a sequence that leaks in a quick measurement, or one to replay.
            shrunk: True to measure it as it is.
        """
        given = shrunk
        if not shrunk:
            sequence, shrunk = await self._shrink(sequence)
        finding = await self._measure(sequence, shrunk=shrunk)
        if not given and finding.gone > max(self._lasting, _LONGEST_QUICK):
            # Growth of other measurements went while it was shrunk, and hid that of shorter ones.
            self._lasting = finding.gone
            shorter, shrunk = await self._shrink(sequence)
            if shorter != sequence:
                finding = await self._measure(shorter, shrunk=shrunk)
        best, self._best = self._best, None
        self._doing = "searches"
        if finding.died or (finding.growth.leaks and finding.growth.settled):
            died, growth = finding.died, finding.growth
            if not (self._known.has_died(died) if died else self._known.explains(growth)):
                self._file(finding)
            self._known.add(finding)
        elif finding.gone > (0 if given else _LONGEST_QUICK):
            self._pass(finding, best)
        elif not given:
            self.result.unsure += 1
            # It goes a little later than a quick measurement waits, so later ones wait longer.
            longer = max(2 * self._meter.quick, 1.25 * finding.gone)
            self._meter.quick = min(longer, _LONGEST_QUICK, self._limits.wait)
        if finding.died and not self._target.ours:
            raise _End("died")
        if self._target.ours:
            # Nothing that these measurements left may go on during the next ones.
            await self._restart()

    def _file(self, outcome: HuntOutcome) -> None:
        """Add a finding to the result."""
        server = "{}:{}".format(*self._target.address)
        measurements, connections = self.result.measurements, self._spending.connections
        self.result.findings.append(outcome.finding(server, measurements, connections))
        self._found(self.result)

    def _pass(self, finding: HuntOutcome, best: HuntOutcome | None) -> None:
        """File passing growth, and keep it out of later sequences."""
        self._lasting = max(self._lasting, finding.gone)
        passing = replace(finding, growth=finding.growth._replace(held=finding.growth.passing))
        self.result.passing.append(passing)
        self._found(self.result)
        # Later quick measurements are compared with the growth that a quick measurement saw.
        self._known.add(passing if best is None else replace(passing, growth=best.growth))

    async def _shrink(self, sequence: Sequence) -> tuple[Sequence, bool]:
        """Return the shortest sequence that still leaks, and True if the time was enough."""
        self._doing = "shrinks"
        try:
            return await shrink(sequence, self._leaks), True
        except _HurryError:
            return (sequence if self._best is None else self._best.sequence), False

    async def _measure(self, sequence: Sequence, *, shrunk: bool) -> HuntOutcome:
        """Measure a sequence in full, on a server without leftovers of earlier measurements."""
        self._doing = "measures"
        try:
            if self._clean_until < inf:
                await self._refresh(self._limits.wait)
            growth = await self._grow(sequence, BATCHES, self._limits.wait)
        except _DeadError as error:
            return self._dead(sequence, error, shrunk=shrunk and self._target.ours)
        return HuntOutcome(
            sequence=sequence,
            growth=growth,
            shrunk=shrunk,
            seconds=self._limits.wait,
            log=self._target.log(),
            after=self._clock() - self._begun,
            gone=0 if growth.leaks else growth.gone,
        )

    async def _leaks(self, sequence: Sequence) -> bool:
        """Measure a sequence quickly, unless it contains a known finding.

        The last sequence that leaked is remembered; while shrinking, it is the shortest.

        Returns:
            True if it leaks something that is not known, or kills the server.
        """
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
        if (self._best is not None and self._best.died) or not growth.settled:
            # Shrinking a death must not end with a mere leak.
            return False
        explained = self._known.explains(growth)
        self.result.explained += growth.leaks and explained
        if not explained:
            self._best = HuntOutcome(
                sequence=sequence, growth=growth, shrunk=False, confirmed=False
            )
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
                self.result.completed += 1
                self.result.unsettled += not growth.settled
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

    def _dead(self, sequence: Sequence, error: _DeadError, *, shrunk: bool = False) -> HuntOutcome:
        return HuntOutcome(
            sequence=sequence, shrunk=shrunk, died=str(error), log=self._target.log()
        )

    async def _refresh(self, seconds: float) -> None:
        """Make sure that no older growth goes during the next measurements.

        Args:
            seconds: time without a change to wait for, if the server cannot be restarted.
        """
        if self._target.ours:
            await self._restart()
            return
        try:
            await self._meter.settle(patience=seconds)
        except (CounterError, OSError) as error:
            if died := await self._target.died():
                # Nothing is sent during this wait, so the death belongs to no sequence.
                self.result.trouble = f"the server died between two measurements: it {died}"
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
        """End the hunt if it is stopped or has reached a limit."""
        if self._stopped():
            raise _End("stopped")
        if self._clock() - self._begun >= self._limits.seconds:
            raise _End("time")
        if self._spending.connections >= self._limits.connections:
            raise _End("connections")
