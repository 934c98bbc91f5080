"""Runs connection sequences at a simulated server: a subject of the search."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from muxleak.checks.ignores import remaining
from muxleak.checks.report import LeakError
from muxleak.search.program import ProgramSubject, signature
from muxleak.search.subject import Decisions, Outcome
from muxleak.server.connection import GeneratedConnection
from muxleak.server.given import GivenServer, NoServerError, Running
from muxleak.server.sequence import EventSequence, ReportedErrors
from muxleak.sim.choices import Choices
from muxleak.sim.errors import SimulationError
from muxleak.sim.leak_scan import left_behind
from muxleak.sim.run import current, run
from muxleak.sim.settings import Network, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from muxleak.checks.ignores import Ignore
    from muxleak.introspect.waiting import AnyTask
    from muxleak.ledger.counters import Scope
    from muxleak.server.connection import UserClient
    from muxleak.server.events import ClientEvent, Plan
    from muxleak.sim.run import Simulation

GRACE = 10.0
"""Seconds in which the objects of a connection that is over may still end."""
_ANSWERS = 1.0  # seconds
# Enough that a client which stops reading is noticed at the server's first write, as if the buffers
# between the two were full already.
_FULL = 0


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The settings of the sequences of one check.

    Attributes:
        plan: the freedoms of a sequence.
        client: the client of the user; None for generated messages only.
        grace: seconds in which the objects of a connection that is over may still end.
        allowed: exceptions that handlers and callbacks may raise, beside `ConnectionError`.
        ignores: values of `muxleak.checks.ignores`.
        network: the freedoms and faults of the simulated network.
    """

    plan: Plan
    client: UserClient | None = None
    grace: float = GRACE
    allowed: tuple[type[BaseException], ...] = ()
    ignores: tuple[Ignore, ...] = ()
    network: Network = field(default_factory=Network)


class RepeatableChoices(Choices):
    """Choices whose decisions of the environment can be made a second time.

    The second time is no part of the run's bytes: it follows from them.

    Args:
        inner: decide the first time.
    """

    def __init__(self, inner: Choices) -> None:
        super().__init__()
        self.inner = inner
        self._at: int | None = None

    def repeat(self) -> None:
        """Decide from now on as from the beginning."""
        if self._at is None:
            self._first = bytes(self.inner.environment)
        self._at = 0

    def begin_step(self) -> None:
        """Mark a step."""
        self.inner.begin_step()

    def below(self, limit: int) -> int:
        """Draw a number."""
        return self.inner.below(limit)

    def decide(self, kind: str, limit: int) -> int:
        """Return a decision of the environment."""
        return self.inner.decide(kind, limit) if self._at is None else self._next(limit)

    def _next(self, limit: int) -> int:
        at, self._at = self._at or 0, (self._at or 0) + 1
        return self._first[at] % limit if at < len(self._first) else 0


class ServerSubject(ProgramSubject):
    """A server under generated connections, in a fresh simulation each time.

    Args:
        given: the server.
        settings: the settings of the sequences.
    """

    def __init__(self, given: GivenServer, settings: ServerSettings) -> None:
        self._given, self._server_settings = given, settings
        # The check of the simulation only makes the network note accepted connections; the sequence
        # itself looks at them, since it can wait.
        simulation = Settings(
            network=settings.network, grace=settings.grace, leaks=False, check=_nothing
        )
        super().__init__(self._program, simulation)
        self.name = given.name

    def run(self, choices: Choices, *, traced: bool = False) -> Outcome:
        """Run one sequence."""
        repeatable = RepeatableChoices(choices)
        result = run(self._program, repeatable, self._settings, traced=traced)
        error = result.error
        if error is None:
            return _CLEAN
        if isinstance(error, SimulationError | NoServerError):
            raise error  # the fault of whoever has given the server, not of a sequence
        return Outcome(
            Decisions.of(choices),
            signature(error),
            (str(error) or type(error).__name__).splitlines()[0],
            tuple(result.steps),
            error.report.groups if isinstance(error, LeakError) else (),
            error,
            trace=result.trace_hash,
        )

    def normal(self, data: Decisions) -> Decisions:
        """Return the decisions with the simplest events of the same effect."""
        events, decided = self._events(data)
        return self._decisions(self._server_settings.plan.normal(events), decided)

    def cuts(self, data: Decisions) -> Iterator[Decisions]:
        """Yield decisions in which one message takes the place of another in all events."""
        # Two clients that send the same name must go on to send the same.
        events, decided = self._events(data)
        sent = sorted({each.message for each in events})
        for message in sent:
            for less in range(message):
                fewer = [
                    each._replace(message=less) if each.message == message else each
                    for each in events
                ]
                yield self._decisions(fewer, decided)

    def _events(self, data: Decisions) -> tuple[list[ClientEvent], list[bytes]]:
        """Return the events, and for each the decisions of the environment until the next."""
        events: list[ClientEvent] = []
        decided: list[bytes] = []
        for draws, environment in data.steps():
            decided.append(environment)
            event = self._server_settings.plan.draw_one(Choices(draws))
            if event is None:
                break
            events.append(event)
        return events, decided

    def _decisions(self, events: list[ClientEvent], decided: list[bytes]) -> Decisions:
        blocks = map(self._server_settings.plan.encode, events)
        return trimmed(Decisions.joined(zip_longest(blocks, decided, fillvalue=b"")))

    async def _program(self) -> None:
        simulation, settings = current(), self._server_settings
        errors = ReportedErrors(settings.allowed)
        asyncio.get_running_loop().set_exception_handler(errors)
        target = SimulatedServerTarget(simulation, settings)
        running = Running(self._given)
        sequence = EventSequence(target, running, settings.plan, settings.client, errors)
        await sequence.run(settings.plan.draw(simulation.choices))


_CLEAN = Outcome()


def trimmed(data: Decisions) -> Decisions:
    """Return decisions without defaults at the end, as a run gives them back."""
    choices = Choices()
    choices.program, choices.environment = bytearray(data.program), bytearray(data.environment)
    choices.starts = list(data.starts)
    return Decisions.of(choices)


class SimulatedServerTarget:
    """A simulated server, for `EventSequence`."""

    def __init__(self, simulation: Simulation, settings: ServerSettings) -> None:
        self._simulation, self._settings = simulation, settings
        self.grace = settings.grace
        # The simulation's own view has no more than a program needs.
        self._loop = simulation._loop  # noqa: SLF001
        self._made: dict[Any, GeneratedConnection] = {}
        self._kinds = simulation._settings.counted  # noqa: SLF001

    async def connect(self, address: tuple[str, int], title: str) -> GeneratedConnection | None:
        """Connect a client, which may send before the server accepts it."""
        transport = self._loop.fabric.dial(
            (self._loop.fabric.names.resolve(address[0]), address[1])
        )
        if transport is None:
            return None
        connection = GeneratedConnection(title)
        connection.transport, connection.far = transport, transport._peer  # noqa: SLF001
        transport.begin("client", connection)
        self._made[connection.far] = connection
        return connection

    def is_over(self, connection: GeneratedConnection) -> bool:
        """Return True if the client or the server has closed the connection."""
        return connection.ended or bool(connection.far._lost)  # noqa: SLF001 - the same

    def reset(self, connection: GeneratedConnection) -> None:
        """Reset the connection."""
        connection.transport.abort()

    def stall(self, connection: GeneratedConnection) -> None:
        """Stop reading, with full buffers between client and server."""
        connection.transport.pause_reading()
        connection.far.set_write_buffer_limits(_FULL)

    def resume(self, connection: GeneratedConnection) -> None:
        """Read again."""
        connection.far.set_write_buffer_limits()
        connection.transport.resume_reading()

    def handler(self, connection: GeneratedConnection) -> AnyTask | None:
        """Return the task of a handler of streams."""
        # Both are private to asyncio, which offers no other way to the task.
        return getattr(connection.far._protocol, "_task", None)  # noqa: SLF001

    def left(self, connection: GeneratedConnection) -> list[Any]:
        """Return records of the live objects that the server's side has made."""
        self._assign_scopes()
        if connection.scope is None:
            return []
        found = left_behind(self._loop, self._kinds, connection.scope)
        return remaining(found, self._kinds, self._settings.ignores)

    def everything(self) -> list[Any]:
        """Return records of all live objects but for the running task."""
        own = asyncio.current_task()
        found = left_behind(self._loop, self._kinds)
        found = [each for each in found if each.thing() is not own]
        return remaining(found, self._kinds, self._settings.ignores)

    def step(self, text: str) -> None:
        """Announce an event."""
        self._simulation.step(text)

    def repeat(self) -> None:
        """Make the same decisions again."""
        choices: Any = self._simulation.choices
        choices.repeat()

    async def settle(self) -> None:
        """Wait until the simulation has settled."""
        await self._loop.settle()

    async def await_answers(self) -> None:
        """Wait until the simulation has settled, and for timers that are due soon."""
        await self._loop.settle(_ANSWERS)

    async def give_time(self, ended: Callable[[], bool]) -> None:
        """Let the grace pass; virtual time costs nothing."""
        del ended
        await self._loop.settle(self.grace)

    async def turn(self, iterations: int) -> None:
        """Let the loop run."""
        for _ in range(iterations):
            await asyncio.sleep(0)

    async def sleep(self, seconds: float) -> None:
        """Let virtual time pass."""
        await asyncio.sleep(seconds)

    def _assign_scopes(self) -> None:
        accepted: list[tuple[Any, Scope]] = self._loop.fabric.accepted
        for transport, scope in accepted:
            connection = self._made.pop(transport, None)
            if connection is not None:
                connection.scope = scope
        accepted.clear()


def _nothing(_simulation: Simulation) -> None:
    """Check nothing."""
