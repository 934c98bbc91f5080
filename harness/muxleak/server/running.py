"""Runs connection sequences at a server that already runs, and judges it by its counts."""

# The server is in another thread, process or container. So nothing says which object belongs to
# which connection, and counts are all there is. They are noisy: a task may be between two states, a
# log file may be opened, a service may start with the first connection. Growth decides:
#
#   1. A sequence is performed, and all its connections are closed. Each count must come back, at
#      one moment within the grace, to its level before. Then the sequence is clean. Moments
#      suffice, because a leak never comes back.
#   2. Otherwise the same sequence is repeated, 4, 4 and 8 times. Each batch must raise a count,
#      compared by the lowest of several samples. So a service that starts once is no leak.
#   3. After a last wait of the grace, a count is a leak if it is still higher by at least one for
#      every two repetitions: a leak may need a race that is not lost each time.
#
# The level before a sequence is the lowest that was ever seen since the last growth. It is not
# measured anew, so a clean sequence costs one sample.
#
# The objects of a connection can be checked after the end of a sequence only, since those of open
# connections cannot be told apart. A shutdown and the cancellation of a handler need a hand inside
# the server.
#
# The shrinker takes a shorter grace and fewer repetitions for its hundreds of runs. Its last run,
# and every run of the search, has all. An object that needs longer than the short grace can
# therefore lead the shrinker to a sequence that is clean; then the first sequence is reported as it
# was.

from __future__ import annotations

import asyncio
import copy
import os
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from muxleak.checks.report import LeakError, LeakGroup, LeakReport
from muxleak.checks.settle import settle
from muxleak.ledger.kinds import NOUNS
from muxleak.server.connection import GeneratedConnection
from muxleak.server.counts import CountError
from muxleak.server.given import GivenServer, Running
from muxleak.server.real import reset_connection
from muxleak.server.sequence import EventSequence, ReportedErrors
from muxleak.server.subject import Performance, ServerSettings, ServerSubject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from muxleak.search.subject import Outcome
    from muxleak.server.counts import CountedKey, Counting, Counts
    from muxleak.server.events import ClientEvent
    from muxleak.server.given import Address
    from muxleak.sim.choices import Choices

IMPOSSIBLE = frozenset({"shutdown", "cancel"})
"""Events that need a hand inside the server."""
BATCHES: tuple[int, ...] = (4, 4, 8)
"""Repetitions in each batch by which growth is measured."""
_FEW = (1, 2)  # the same while a sequence is shrunk
_STEADY = 0.05  # seconds over which the lowest count is taken
_POLL = 0.002  # seconds between two samples
_QUICK = 0.1  # seconds of the grace while a sequence is shrunk
_SETTLED = 0.05  # seconds that may pass between two events, at most
_SOON = 0.01  # seconds within which timers of the clients are waited for


class ServerEndedError(ConnectionError):
    """A server that was running accepts no connections any more."""


class RunningServer(Running):
    """A server that somebody else starts and stops.

    Args:
        given: the server.
        address: where it listens.
    """

    def __init__(self, given: GivenServer, address: Address) -> None:
        super().__init__(given)
        self.address = address

    async def start(self) -> None:
        """Do nothing: it runs."""

    def stop(self) -> None:
        """Do nothing: it runs on."""


class RunningServerSubject(ServerSubject):
    """A server that already runs, under generated connections.

    Args:
        given: the server.
        settings: the settings of the sequences.
        address: where it listens.
        counting: the way to count it.

    Attributes:
        quick: True for the runs of the shrinker, with a shorter grace and fewer repetitions.
    """

    is_real = True
    target = "tcp"

    def __init__(
        self, given: GivenServer, settings: ServerSettings, address: Address, counting: Counting
    ) -> None:
        super().__init__(given, settings)
        self._address, self._counting = address, counting
        self._level: Counts | None = None
        self._ended = ""
        self.quick = False

    def narrowed(self, first: Outcome) -> RunningServerSubject:
        """Return the subject for the runs of the shrinker, which are shorter."""
        del first
        found = copy.copy(self)
        found.quick = True
        return found

    def perform(self, choices: Choices, *, traced: bool) -> Performance:
        """Run one sequence, and repeat it if something has grown."""
        steps: list[str] = []
        grace, batches = self.settings.grace, BATCHES
        if self.quick and not traced:
            grace, batches = min(grace, _QUICK), _FEW
        try:
            with asyncio.Runner() as runner:
                runner.run(self._measure(choices, steps, grace, batches))
        except (KeyboardInterrupt, SystemExit, CountError):
            raise
        except BaseException as error:  # noqa: BLE001 - the outcome of the sequence
            return Performance(error, tuple(steps))
        return Performance(None, tuple(steps))

    async def _measure(
        self, choices: Choices, steps: list[str], grace: float, batches: tuple[int, ...]
    ) -> None:
        """Perform a sequence, and apply the rule at the top of this module.

        Raises:
            LeakError: counts grow with each repetition.
            ServerEndedError: the server has ended.
            CountError: it could not be reached or counted before the sequence began.
        """
        if self._ended:
            raise CountError(self._ended)
        events = list(self.settings.plan.draw(choices))
        if self._level is None:
            await self._reach()
            self._level = await self._lowest(_STEADY)
        level = self._level
        try:
            await self._sequence(events, steps)
            low = await self._lowest(grace, enough=lambda low: not low - level)
            if not low - level:
                self._level = level & low
                return
            await self._repeat(events, low, grace, batches)
        except CountError as error:
            self._ended = str(error)
            raise ServerEndedError(f"the server has ended in this sequence: {error}") from None

    async def _repeat(
        self,
        events: Sequence[ClientEvent],
        start: Counts,
        grace: float,
        batches: tuple[int, ...],
    ) -> None:
        """Repeat a sequence after which counts have grown, and raise if they go on to grow."""
        points = [start]
        for times in batches:
            for _ in range(times):
                await self._sequence(events, [])
            points.append(await self._lowest(_STEADY))
        rising = {
            key
            for key in points[-1]
            if all(after[key] > before[key] for before, after in pairwise(points))
        }
        half = sum(batches) / 2

        def leaked(counts: Counts) -> dict[CountedKey, int]:
            return {key: counts[key] for key in rising if counts[key] - start[key] >= half}

        self._level = points[-1]
        if rising:
            self._level = await self._lowest(grace, enough=lambda low: not leaked(low))
        if found := leaked(self._level):
            raise LeakError(await self._report(start, found, sum(batches)))

    async def _report(self, start: Counts, found: dict[CountedKey, int], times: int) -> LeakReport:
        groups = []
        slopes: Counter[str] = Counter()
        for key, count in found.items():
            group = await self._counting.describe(key)
            group = group or LeakGroup(0, key.name, key.site, (), "has ended", (), kind=key.kind)
            note = f"{start[key]} before, {count} after {times} repetitions"
            groups.append(replace(group, count=count - start[key], notes=(note,)))
            slopes[key.kind] += count - start[key]
        groups.sort(key=lambda group: (-group.count, group.kind != "task", group.name, group.site))
        grown = (f"+{n / times:.3g} {NOUNS[kind][n != times]}" for kind, n in slopes.items())
        return LeakReport(
            tuple(groups),
            sum(found.values()),
            sum(start[key] for key in found),
            headline=f"grows with each of {times} repetitions: {', '.join(grown)}",
        )

    async def _lowest(
        self, seconds: float, enough: Callable[[Counts], object] = lambda _: False
    ) -> Counts:
        """Return the lowest of each count over a time, which ends as soon as it is enough."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        low = await self._counting.read()
        while not enough(low) and loop.time() < until:
            await asyncio.sleep(_POLL)
            low &= await self._counting.read()
        return low

    async def _reach(self) -> None:
        """Connect once.

        Raises:
            CountError: nothing listens there.
        """
        try:
            _, writer = await asyncio.open_connection(*self._address)
        except OSError as error:
            raise _unreachable(self._address, error) from None
        writer.close()

    async def _sequence(self, events: Iterable[ClientEvent], steps: list[str]) -> None:
        settings = self.settings
        errors = ReportedErrors(settings.allowed)
        asyncio.get_running_loop().set_exception_handler(errors)
        target = RunningServerTarget(self._counting, steps)
        running = RunningServer(self.given, self._address)
        sequence = EventSequence(target, running, settings.plan, settings.client, errors)
        self.note(running, sequence)
        try:
            await sequence.run(events)
        finally:
            await target.end_clients()


class RunningServerTarget:
    """A server that already runs, for `EventSequence`.

    Args:
        counting: the way to count the server.
        steps: receives the events in words.

    Attributes:
        grace: not used: the counts are judged after the sequence.
    """

    def __init__(self, counting: Counting, steps: list[str]) -> None:
        self._counting, self._steps, self.grace = counting, steps, 0.0
        self._clients: list[GeneratedConnection] = []

    async def connect(self, address: Address, title: str) -> GeneratedConnection | None:
        """Connect a client.

        Raises:
            CountError: nothing listens there any more.
        """
        connection = GeneratedConnection(title)
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: connection, *address)
        except OSError as error:
            raise _unreachable(address, error) from None
        self._clients.append(connection)
        return connection

    def is_over(self, connection: GeneratedConnection) -> bool:
        """Return True if the client has closed, or has seen that the server has closed."""
        return connection.ended

    def reset(self, connection: GeneratedConnection) -> None:
        """Close at once, without a farewell."""
        reset_connection(connection)

    def stall(self, connection: GeneratedConnection) -> None:
        """Stop reading."""
        connection.transport.pause_reading()

    def resume(self, connection: GeneratedConnection) -> None:
        """Read again."""
        connection.transport.resume_reading()

    def handler(self, connection: GeneratedConnection) -> None:
        """Return None: it is out of reach."""

    def left(self, connection: GeneratedConnection) -> list[Any]:
        """Return nothing: the counts are judged after the sequence."""
        del connection
        return []

    def everything(self) -> list[Any]:
        """Return nothing: the counts are judged after the sequence."""
        return []

    def retrieve_failures(self) -> list[BaseException]:
        """Return nothing: its tasks are out of reach."""
        return []

    def step(self, text: str) -> int:
        """Announce an event."""
        self._steps.append(text)
        return len(self._steps) - 1

    def repeat(self) -> None:
        """Do nothing: the system decides again."""

    def go_on(self, step: int) -> None:
        """Forget the last events."""
        del self._steps[step:]

    async def settle(self) -> None:
        """Wait until the clients have nothing to do, and two samples of the server are equal."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _SETTLED
        before = None
        while True:
            await settle(limit=_SETTLED, horizon=_SOON)
            now = await self._counting.read()
            if now == before or loop.time() >= until:
                return
            before = now
            await asyncio.sleep(_POLL / 2)

    async def await_answers(self) -> None:
        """Wait until the clients have nothing to do."""
        await self.settle()

    async def give_time(self, left: Callable[[], Sequence[Any]]) -> None:
        """Do nothing: time is given after the sequence."""

    async def turn(self, iterations: int) -> None:
        """Let the loop of the clients run."""
        for _ in range(iterations):
            await asyncio.sleep(0)

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""
        await asyncio.sleep(seconds)

    async def end_clients(self) -> None:
        """Close the clients that a sequence has left open."""
        for each in self._clients:
            for task in each.tasks:
                task.cancel()
            if each.transport is not None:
                each.transport.abort()
        await asyncio.sleep(0)


def _unreachable(address: Address, error: OSError) -> CountError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    return CountError(
        f"expected a server that listens at {address[0]}:{address[1]}, got: {reason}; start it "
        "first, and check the address"
    )
