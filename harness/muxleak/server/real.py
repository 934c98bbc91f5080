"""Runs connection sequences at a server on a real loop, over loopback: a subject of the search."""

# For servers that cannot be simulated: threads, subprocesses, TLS below a proxy of their own, C
# code. Each sequence has a loop of its own, so that a leak of one does not count in the next.
#
# The scope of a connection. `loop.create_server` is replaced on the loop's object, so that each
# server's protocol factory gives every connection a scope (`Ledger.scoped_factory`). The server's
# own end is found among the transports of that scope. A client and its scope belong together by
# order: the system hands connections to the server in the order in which they were made. A server
# that does not listen by `loop.create_server` has no scopes; then only its end is checked.
#
# Time is real, so it is short: a connection that is over has half a second, and an idle time lasts
# a tenth of a second at most. The system decides when bytes arrive. So a sequence may fail once and
# not again; the finding says so.
#
# Most of a sequence would be waiting, so nothing is waited for that cannot come:
#
# - Between two events the timers of the next 10 ms are waited for, once: a server with a heartbeat
#   would never settle. A loop that hides its callbacks, such as uvloop's, gets a pause of 1 ms, and
#   another one as long as bytes are on their way; a wrapper of `call_later` knows its timers. The
#   price is an event that comes earlier than the server's answer. It is no false alarm, since
#   everything that is left has the whole grace to end.
# - In an idle time only timers can fire, unless a thread works, or the loop watches more than the
#   connections. So it ends with the last timer that is due in it.
# - Garbage is collected only where something is left after a tenth of the grace: a collection of
#   everything takes longer than a sequence.

from __future__ import annotations

import asyncio
import math
import selectors
import socket
import struct
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

from muxleak.checks.descriptors import OpenedDescriptors
from muxleak.checks.garbage import collect_garbage
from muxleak.checks.ignores import remaining
from muxleak.checks.settle import settle, shows_callbacks
from muxleak.checks.teardown import release
from muxleak.ledger.kinds import KINDS
from muxleak.ledger.ledger import Ledger
from muxleak.server.connection import GeneratedConnection
from muxleak.server.given import GivenServer, Running
from muxleak.server.sequence import EventSequence, ReportedErrors
from muxleak.server.subject import Performance, ServerSettings, ServerSubject

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from muxleak.introspect.waiting import AnyTask
    from muxleak.ledger.counters import Scope
    from muxleak.sim.choices import Choices

REAL_GRACE = 0.5
"""Seconds in which the objects of a connection that is over may still end."""
REAL_IDLE = (0.01, 0.03, 0.1)
"""Seconds that an idle time may last."""
_SOON = 0.01  # seconds within which timers are waited for
_LIMIT = 1.0  # seconds after which a loop that does not settle is left
_ANSWERS = 0.05  # seconds
_PAUSE = 0.001  # seconds; the shortest that uvloop does not take for none
_WATCHED = frozenset({"transport", "reader"})
RECORDED = KINDS & {
    *("task", "timer", "transport", "server", "reader", "generator", "job", "error", "destroyed"),
}
"""The kinds of objects that are checked."""
_RESET = struct.pack("ii", 1, 0)


class RealServerSubject(ServerSubject):
    """A server under generated connections on a real loop.

    Args:
        given: the server.
        settings: the settings of the sequences.
        new_loop: makes a loop; None for asyncio's own.
    """

    is_real = True

    def __init__(
        self,
        given: GivenServer,
        settings: ServerSettings,
        new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None,
    ) -> None:
        super().__init__(given, settings)
        self._new_loop = new_loop
        self.target = "tcp" if new_loop is None else "uvloop"
        self._threads = threading.active_count()

    def perform(self, choices: Choices, *, traced: bool) -> Performance:
        """Run one sequence on a new loop."""
        del traced
        steps: list[str] = []
        try:
            with asyncio.Runner(loop_factory=self._new_loop) as runner:
                runner.run(self._sequence(choices, steps))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - the outcome of the sequence
            return Performance(error, tuple(steps))
        return Performance(None, tuple(steps))

    async def _sequence(self, choices: Choices, steps: list[str]) -> None:
        loop, settings = asyncio.get_running_loop(), self.settings
        errors = ReportedErrors(settings.allowed)
        loop.set_exception_handler(errors)
        running = Running(self.given)
        # Before the ledger, whose hooks read the frame that calls them.
        timers = None if shows_callbacks(loop) else HiddenTimers(loop)
        with Ledger(RECORDED).watching(loop) as ledger:
            target = RealServerTarget(loop, ledger, settings, steps, timers, self._threads)
            sequence = EventSequence(target, running, settings.plan, settings.client, errors)
            self.note(running, sequence)
            try:
                await sequence.run(settings.plan.draw(choices))
            except BaseException:
                target.abort_clients()
                await release(ledger.everything(), _LIMIT)
                raise
            finally:
                if running.kind == "main":
                    # What takes a second to see the first time is known for the next sequence.
                    self.given = self.given._replace(kind="main")


class HiddenTimers:
    """The timers of a loop that does not show them; it calls `call_later` for each.

    Args:
        loop: the loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._set: list[tuple[float, ref[asyncio.TimerHandle]]] = []
        self._call_later: Any = loop.call_later
        wrapper: Any = self._note
        loop.call_later = wrapper  # type: ignore[method-assign]

    def _note(
        self, delay: float, callback: Any, *args: Any, **settings: Any
    ) -> asyncio.TimerHandle:
        handle: asyncio.TimerHandle = self._call_later(delay, callback, *args, **settings)
        self._set.append((self._loop.time() + delay, ref(handle)))
        return handle

    def wait(self) -> float:
        """Return the seconds until the next timer is due; infinity without one."""
        now = self._loop.time()
        self._set = [
            (when, handle)
            for when, handle in self._set
            if when > now and (timer := handle()) is not None and not timer.cancelled()
        ]
        return min((when for when, _ in self._set), default=math.inf) - now


class RealServerTarget:
    """A server on a real loop, for `EventSequence`.

    Args:
        loop: the running loop.
        ledger: counts its objects.
        settings: the settings of the sequence.
        steps: receives the events in words.
        timers: the timers of a loop that hides them; None for another loop.
        threads: number of threads that were there before the server.

    Attributes:
        grace: seconds in which objects of a connection that is over may still end.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        ledger: Ledger,
        settings: ServerSettings,
        steps: list[str],
        timers: HiddenTimers | None,
        threads: int,
    ) -> None:
        self._timers, self._threads = timers, threads
        self._loop, self._ledger, self._steps = loop, ledger, steps
        self._ignores, self.grace = settings.ignores, settings.grace
        # The ports of each server, and the scopes of its connections that have no client yet.
        self._servers: list[tuple[set[int], list[Scope]]] = []
        self._listening: set[int] = set()  # their descriptors
        self._clients: list[GeneratedConnection] = []
        self._waiting: list[GeneratedConnection] = []
        self._opened = OpenedDescriptors(ledger)
        self._own = asyncio.current_task()
        create: Any = loop.create_server
        loop.create_server = partial(self._create_server, create)  # type: ignore[method-assign]

    async def connect(self, address: tuple[str, int], title: str) -> GeneratedConnection | None:
        """Connect a client; None if nobody listens."""
        connection = GeneratedConnection(title)
        try:
            await self._loop.create_connection(lambda: connection, *address)
        except OSError:
            return None
        connection.server_port = address[1]
        connection.own_address = connection.transport.get_extra_info("sockname")
        self._clients.append(connection)
        self._waiting.append(connection)
        return connection

    def is_over(self, connection: GeneratedConnection) -> bool:
        """Return True if the client has closed, or has seen that the server has closed."""
        return connection.ended

    def reset(self, connection: GeneratedConnection) -> None:
        """Close at once, without a farewell."""
        reset_connection(connection)

    def stall(self, connection: GeneratedConnection) -> None:
        """Stop reading; let the server notice it at its first write that waits for the system."""
        self._assign_scopes()
        connection.transport.pause_reading()
        _limit_writes(connection, 0)

    def resume(self, connection: GeneratedConnection) -> None:
        """Read again."""
        _limit_writes(connection, None)
        connection.transport.resume_reading()

    def handler(self, connection: GeneratedConnection) -> AnyTask | None:
        """Return the task of a handler of streams."""
        self._assign_scopes()
        protocol = connection.far.get_protocol() if connection.far is not None else None
        # Private to asyncio, which offers no other way to the task.
        return getattr(protocol, "_task", None)

    def left(self, connection: GeneratedConnection) -> list[Any]:
        """Return records of the live objects that the server's side of a connection has made."""
        self._assign_scopes()
        if connection.scope is None:
            return []
        return remaining(connection.scope.everything(), RECORDED, self._ignores)

    def everything(self) -> list[Any]:
        """Return records of all live objects but for the running task, descriptors included."""
        found = [each for each in self._ledger.everything() if each.thing() is not self._own]
        found = remaining(found, RECORDED, self._ignores)
        return found or self._opened.records(self._ignores)

    def retrieve_failures(self) -> list[BaseException]:
        """Retrieve the exceptions of failed tasks that nobody has retrieved."""
        return self._ledger.root.counters.retrieve_failures()

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
        """Wait until the loop would block."""
        await self._settle(_SOON)

    async def await_answers(self) -> None:
        """Wait until the loop would block, and for timers that are due soon."""
        await self._settle(_ANSWERS)

    async def _settle(self, horizon: float) -> None:
        if self._timers is None:
            await settle(limit=_LIMIT, horizon=horizon, renewed=False)
        else:
            await self._settle_hidden(horizon, renewed=False)

    async def _settle_hidden(self, horizon: float, *, renewed: bool) -> None:
        """Wait until a loop that hides its callbacks would block, and for timers of a horizon.

        Args:
            horizon: seconds.
            renewed: True to wait also for the timers that are set meanwhile.
        """
        assert self._timers is not None  # noqa: S101 - such a loop has them
        begun = self._loop.time()
        while True:
            await asyncio.sleep(_PAUSE)
            passed = self._loop.time() - begun
            wait = self._timers.wait()
            if passed > (horizon if renewed else _LIMIT):
                break
            if wait + passed <= horizon:
                await asyncio.sleep(wait)
            elif not self._bytes_wait():
                break

    def _bytes_wait(self) -> bool:
        """Return True if bytes wait for a transport of a connection that reads."""
        self._assign_scopes()
        ends = [end for each in self._clients for end in (each.transport, each.far)]
        # Not by `select`, which refuses numbers above 1,023.
        with selectors.DefaultSelector() as selector:
            for number in {_reads_from(end) for end in ends} - {-1}:
                selector.register(number, selectors.EVENT_READ)
            return bool(selector.get_map() and selector.select(0))

    async def give_time(self, left: Callable[[], Sequence[Any]]) -> None:
        """Wait until something has ended, at most for the grace; collect garbage."""
        first = self.grace / 10
        if await settle(limit=first, horizon=first, until=lambda: not left()):
            return
        await collect_garbage(lambda: len(left()))
        await settle(limit=self.grace, horizon=self.grace, until=lambda: not left())
        if left():
            await collect_garbage(lambda: len(left()))

    async def turn(self, iterations: int) -> None:
        """Let the loop run."""
        for _ in range(iterations):
            await asyncio.sleep(0)

    async def sleep(self, seconds: float) -> None:
        """Let time pass, as far as something can happen in it."""
        if not self._only_timers_come():
            await asyncio.sleep(seconds)
        elif self._timers is None:
            await settle(limit=seconds, horizon=seconds)
        else:
            await self._settle_hidden(seconds, renewed=True)

    def _only_timers_come(self) -> bool:
        """Return True if nothing but its timers can wake the loop, once it is quiescent."""
        if threading.active_count() > self._threads:
            return False
        self._assign_scopes()
        ends = [end for each in self._clients for end in (each.transport, each.far)]
        if self._timers is not None:
            watched = [each for each in self._ledger.everything() if each.kind in _WATCHED]
            return all(any(each.thing() is end for end in ends) for each in watched)
        known = {*self._listening, *map(_descriptor, ends)}
        selector: Any = self._loop._selector  # type: ignore[attr-defined] # noqa: SLF001 - pinned by a test of `settle`
        # One more is the loop's own, by which other threads wake it.
        return len(set(selector.get_map()) - known) <= 1

    def abort_clients(self) -> None:
        """Close the clients of a sequence that has failed."""
        for each in self._clients:
            for task in each.tasks:
                task.cancel()
            if each.transport is not None:
                each.transport.abort()

    async def _create_server(self, create: Any, factory: Any, *args: Any, **settings: Any) -> Any:
        scopes: list[Scope] = []
        made = self._ledger.scoped_factory(factory, made=scopes.append)
        server = await create(made, *args, **settings)
        self._servers.append(({each.getsockname()[1] for each in server.sockets}, scopes))
        self._listening |= {each.fileno() for each in server.sockets}
        return server

    def _assign_scopes(self) -> None:
        """Give the connections that the server has accepted since their scopes, in order."""
        for connection in list(self._waiting):
            scopes = self._scopes_of(connection)
            if not scopes:
                return
            connection.scope = scopes.pop(0)
            self._waiting.remove(connection)
        for connection in self._clients:
            if connection.far is None and connection.scope is not None:
                connection.far = _own_end(connection)

    def _scopes_of(self, connection: GeneratedConnection) -> list[Scope]:
        """Return the scopes, not assigned yet, of the server that a client is connected to."""
        found = (scopes for ports, scopes in self._servers if connection.server_port in ports)
        return next(found, [])


def reset_connection(connection: GeneratedConnection) -> None:
    """Close a client's end of a real connection at once, so that its peer sees a reset."""
    sock = connection.transport.get_extra_info("socket")
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    connection.transport.abort()


def _limit_writes(connection: GeneratedConnection, high: int | None) -> None:
    # The transports of some loops refuse this once they are closed.
    with suppress(Exception):
        connection.far.set_write_buffer_limits(high)


def _descriptor(transport: Any) -> int:
    """Return the descriptor of a transport; -1 without one."""
    sock = transport.get_extra_info("socket") if transport is not None else None
    return -1 if sock is None else int(sock.fileno())


def _reads_from(transport: Any) -> int:
    """Return the descriptor of a transport that reads; -1 for another one."""
    reads = transport is not None and not transport.is_closing() and transport.is_reading()
    return _descriptor(transport) if reads else -1


def _own_end(connection: GeneratedConnection) -> Any:
    """Return the server's transport of a connection, among those that its scope has."""
    scope = connection.scope
    found = scope.everything() if scope is not None else []
    for each in found:
        thing: Any = each.thing() if each.kind == "transport" else None
        if thing is not None and thing.get_extra_info("peername") == connection.own_address:
            return thing
    return None
