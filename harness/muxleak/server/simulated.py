"""Runs connection sequences at a simulated server: a subject of the search."""

from __future__ import annotations

import asyncio
import gc
import math
import re
from functools import partial
from typing import TYPE_CHECKING, Any

from muxleak.checks.ignores import remaining
from muxleak.server.connection import GeneratedConnection
from muxleak.server.given import Running
from muxleak.server.sequence import EventSequence, ReportedErrors
from muxleak.server.subject import Performance, ServerSettings, ServerSubject
from muxleak.sim import real_clock
from muxleak.sim.choices import Choices
from muxleak.sim.errors import STEP_ADVICE, LivelockError, SimulationError
from muxleak.sim.guard import guarded
from muxleak.sim.leak_scan import left_behind
from muxleak.sim.memory_transport import MemoryTransport
from muxleak.sim.run import current, run
from muxleak.sim.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from muxleak.introspect.waiting import AnyTask
    from muxleak.ledger.counters import Scope
    from muxleak.sim.run import Simulation

# A server that does something every millisecond takes all iterations of a sequence in which minutes
# pass. That is no livelock: time goes on. Such a sequence is given up, and shows nothing. So is one
# that was repeated: the events themselves have settled.
_STEP_LIMIT = 30_000  # iterations
_TICK = 1e-4  # seconds for each iteration, on average, with which time goes on
_collect = gc.collect  # bound here: a collection by the program has effects in the simulation
_YOUNG = 1  # generation of the collector: the objects of a sequence are no older
_ANSWERS = 1.0  # seconds
# Enough that a client which stops reading is noticed at the server's first write, as if the buffers
# between the two were full already.
_FULL = 0


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
        self._first, self._at = bytes(self.inner.environment), 0

    def go_on(self) -> None:
        """Decide anew."""
        self._at = None

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


class SimulatedServerSubject(ServerSubject):
    """A server under generated connections, in a fresh simulation each time.

    Attributes:
        given_up: True if the last sequence took too many iterations, and shows nothing.
    """

    given_up = False

    _in_repetition = False  # True if the last sequence has ended while its events were repeated

    def guard(self) -> AbstractContextManager[None]:
        """Refuse calls that leave the simulation."""
        return guarded()

    def perform(self, choices: Choices, *, traced: bool) -> Performance:
        """Run one sequence in a fresh simulation."""
        # The check of the simulation only makes the network note accepted connections; the sequence
        # itself looks at them, since it can wait.
        # The time that a close may take is the grace, which the sequence measures by itself.
        simulation = Settings(
            network=self.settings.network,
            grace=self.settings.grace,
            leaks=False,
            check=_nothing,
            close_limit=math.inf,
            step_limit=_STEP_LIMIT,
            allow=("signals",),
        )
        with real_clock.watched(watching=traced) as read:
            result = run(self._program, RepeatableChoices(choices), simulation, traced=traced)
        error = real_clock.noting(result.error, read)
        self.given_up = isinstance(error, LivelockError) and (
            result.now > _STEP_LIMIT * _TICK or self._in_repetition
        )
        if self.given_up:
            error = None
        if isinstance(error, LivelockError | SimulationError):
            error.args = (_advised(error),)
        return Performance(error, tuple(result.steps), result.trace_hash)

    async def _program(self) -> None:
        simulation, settings = current(), self.settings
        errors = ReportedErrors(settings.allowed)
        asyncio.get_running_loop().set_exception_handler(errors)
        target = SimulatedServerTarget(simulation, settings)
        running = Running(self.given)
        sequence = EventSequence(target, running, settings.plan, settings.client, errors)
        self.note(running, sequence)
        try:
            await sequence.run(settings.plan.draw(simulation.choices))
        finally:
            self._in_repetition = sequence.repetition > 0
            target.end()


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
        """Reset the connection, as a client does whose socket does not linger."""
        # `abort` of a simulated connection only closes it, as asyncio's does.
        MemoryTransport.abort(connection.transport)

    def stall(self, connection: GeneratedConnection) -> None:
        """Stop reading, with full buffers between client and server.

        Buffers through which nothing has passed are empty, so the first bytes are still taken.
        """
        if connection.has_received:
            _fill(connection)
        else:
            connection.on_first = partial(_fill, connection)

    def resume(self, connection: GeneratedConnection) -> None:
        """Read again."""
        connection.on_first = None
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
        found = left_behind(self._loop, self._kinds, connection.scope, generation=_YOUNG)
        return remaining(found, self._kinds, self._settings.ignores)

    def everything(self) -> list[Any]:
        """Return records of all live objects but for the running task."""
        own = asyncio.current_task()
        found = left_behind(self._loop, self._kinds, generation=_YOUNG)
        found = [each for each in found if each.thing() is not own]
        return remaining(found, self._kinds, self._settings.ignores)

    def end(self) -> None:
        """Close everything, so that nobody else finds it after a sequence that has failed."""
        fabric = self._loop.fabric
        for server in list(fabric.servers.values()):
            server.close()
        for transport in list(fabric.open):
            transport.abort()

    def retrieve_failures(self) -> list[BaseException]:
        """Retrieve the exceptions of failed tasks that nobody has retrieved."""
        return self._simulation.ledger.root.counters.retrieve_failures()

    def step(self, text: str) -> int:
        """Announce an event."""
        self._simulation.step(text)
        return len(self._simulation.steps) - 1

    def repeat(self) -> None:
        """Make the same decisions again."""
        self._choices.repeat()

    def go_on(self, step: int) -> None:
        """Decide anew, and forget the last events."""
        self._choices.go_on()
        del self._simulation.steps[step:]

    @property
    def _choices(self) -> RepeatableChoices:
        choices = self._simulation.choices
        assert isinstance(choices, RepeatableChoices)  # noqa: S101 - made by `perform`
        return choices

    async def settle(self) -> None:
        """Wait until the simulation has settled."""
        await self._loop.settle()

    async def await_answers(self) -> None:
        """Wait until the simulation has settled, and for timers that are due soon."""
        await self._loop.settle(_ANSWERS)

    async def give_time(self, left: Callable[[], Sequence[Any]]) -> None:
        """Let the grace pass, since virtual time costs nothing."""
        await self._loop.settle(self.grace)
        # A generator in a reference cycle is closed only once the collector has found it. It is
        # young, most likely, and young objects are collected in a fraction of the time.
        for generation in (1, 2):
            if not any(getattr(each, "kind", "") == "generator" for each in left()):
                break
            _collect(generation)
            await self._loop.settle()

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


def _advised(error: LivelockError | SimulationError) -> str:
    """Return the message of an error with advice that the user of `check_server` can follow."""
    if isinstance(error, LivelockError):
        return str(error).removesuffix(STEP_ADVICE)
    text = re.sub(r"; allow=\('\w+',\) [\w' ]+", "", str(error))
    if "create_unix_server" in text:
        return f"{text}; a server is checked over TCP only: let it listen on a host and a port"
    return f'{text}; a server that does this can be checked on a real loop: target="tcp"'


def _fill(connection: GeneratedConnection) -> None:
    connection.transport.pause_reading()
    connection.far.set_write_buffer_limits(_FULL)


def _nothing(_simulation: Simulation) -> None:
    """Check nothing."""
