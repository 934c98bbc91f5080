"""The network of a simulation: listening addresses, bytes under way, and their faults."""

# Everything that arrives passes through `arrive` and becomes visible to the loop in `poll`. `poll`
# is called at the point where asyncio's loop asks its selector: after the callbacks that were
# ready, before the timers that are due. So every order of events here is one that a real loop can
# show.
#
# An arrival takes one of three ways:
#
#   with latency      a timer of the loop, due after the drawn time; `in_flight` is the latest such
#                     time, so that a loop with something under way is not taken for quiescent
#   without           `pending`, until the next poll
#   held by choice    `held`, with the number of polls that it still waits
#
# The environment's decisions, by the names that `Choices.decide` gets: "fault" when something is
# sent on an open connection, "connect" when one is made, "latency", then at the poll "hold" for
# each arrival and "order" among those that wait together, "cut" when bytes are taken (see `tcp`),
# "drop" for a datagram. Each is asked for only if the settings allow it: a decision that cannot
# happen would waste a byte of every replay.
#
# A closed loop must leave nothing that keeps it alive, since a search makes thousands: `close` cuts
# every reference from transports and tables back to it.

from __future__ import annotations

import asyncio
import errno
import re
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from muxleak.ledger.counters import CURRENT, charged
from muxleak.sim.sockets import Address, Names, error, full, is_any, loopback
from muxleak.sim.tcp import SimServer, SimTransport, connect_pair

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextvars import Context

    from muxleak.ledger.counters import Scope
    from muxleak.sim.interfaces import SimulatedLoop
    from muxleak.sim.settings import Network
    from muxleak.sim.udp import SimDatagrams

_MAKING = ("refuse", "black hole")  # faults of a connection that is being made
_EPHEMERAL = 49152
# Iterations from a connected socket to its transport, if `happy_eyeballs_delay` is given; measured.
_RACE = 7 if sys.version_info < (3, 12) else 5 if sys.version_info < (3, 14) else 4
_NUMBERED = re.compile(r"Task-\d+|None")  # names that asyncio gives; "None" with a factory, in 3.13
_LATENCIES = 16  # how finely a range of latencies is drawn

Arrival = tuple["Callable[[], object]", "Context | None"]


class Fabric:
    """The network of one simulation.

    Args:
        loop: the simulation's loop.
        settings: the freedoms and faults of the network.

    Attributes:
        loop: the simulation's loop.
        decide: makes a decision of the environment, as `Choices.decide`.
        settings: the freedoms and faults of the network.
        earlier: True if connections end as in earlier versions, for replays from then (see `tcp`).
        traced: True if `note` has an effect, so that its text is worth making.
        notes_sites: True if the creation sites of connections and servers may be asked for.
        pending: arrivals that the next poll makes ready.
        held: arrivals that a later poll makes ready, each with the number of polls to go.
        in_flight: virtual time at which the last thing now under way arrives.
        open: every open transport, with "client", "server", "datagrams", or "forgotten" for the
            socket that a cancelled connection attempt has left.
        dropped: stands for each connection that a finalizer of the program has closed.
        servers: every listening server, by each of its addresses.
        closed: True if a connection has closed at both ends since the loop was last quiescent.
        accepted: the server's end of each accepted connection, with its scope, until
            `check_connections` finds that the connection has left nothing behind.
        declared: faults that the program has declared, by the server's address.
    """

    earlier = traced = closed = _ended = False
    notes_sites = True
    in_flight = 0.0
    _names: Names | None = None
    _connections = 0
    _ports = _EPHEMERAL
    _making: tuple[str, ...] = ()
    _made: tuple[str, ...] = ()

    def __init__(self, loop: SimulatedLoop, settings: Network) -> None:
        self.loop = loop
        self.decide = loop.choices.decide
        self.settings = settings
        self.pending: list[Arrival] = []
        self.held: list[list[Any]] = []
        self.open: dict[Any, str] = {}
        self.dropped: list[Any] = []
        self.accepted: list[tuple[SimTransport, Scope]] = []
        self.declared: dict[Address, str] = {}
        self.servers: dict[Address, SimServer] = {}
        self._endpoints: dict[Address, SimDatagrams] = {}
        self._delays = settings.latency[1] > 0
        if settings.faults:
            self._making = tuple(each for each in settings.faults if each in _MAKING)
            self._made = tuple(each for each in settings.faults if each not in _MAKING)

    @property
    def names(self) -> Names:
        """Resolves the names of hosts."""
        if self._names is None:
            self._names = Names(self.settings.hosts)
        return self._names

    def note(self, kind: str, text: str) -> None:
        """Add an event to the trace."""
        if not self._ended:
            self.loop.note(kind, text)

    def drawn(self, text: str) -> None:
        """Report a fault or another drawn course among the steps of the program."""
        if not self._ended and self.loop.simulation is not None:
            self.loop.simulation.drawn(text)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Hold open connections no more than a real loop would, while garbage is collected."""
        found: list[SimTransport] = []
        for transport, side in self.open.items() if not self.earlier else ():
            if isinstance(transport, SimTransport):
                peer = transport.peer
                if peer is not None and peer.stranded:
                    found.append(peer)
                if side == "forgotten" or transport.is_loose:
                    found.append(transport)
        transport = peer = None
        loose = [found.pop(0).let_go() for _ in range(len(found))]
        try:
            yield
        finally:
            for end in loose:
                end.settle(self)

    def close(self) -> None:
        """Cut the references from transports and tables back to the loop."""
        for transport in self.open:
            transport.give_up()
        self.servers.clear()
        self._endpoints.clear()
        self.open.clear()
        self.dropped.clear()
        self.pending.clear()
        self.held.clear()
        self.accepted.clear()
        self._ended = True
        del self.loop

    def arrive(
        self,
        callback: Callable[[], object],
        context: Context | None,
        transport: SimTransport | None = None,
    ) -> None:
        """Run `callback` when the thing that has been sent arrives.

        Args:
            callback: called without arguments, once.
            context: the context to call it in; by default a copy of the current one.
            transport: the end of an open connection that it arrives at, on which a fault may be
                drawn; None for everything else.
        """
        if self._ended:
            return
        if transport is not None and self._made:
            fate = self.decide("fault", 1 + len(self._made))
            if fate:
                name = self._made[fate - 1]
                self.loop.call_soon(transport.drawn_fault, name, self.settings.stall)
        if self._delays and (delay := self._latency()):
            self.in_flight = max(self.in_flight, self.loop.time() + delay)
            self.loop.call_later(delay, callback, context=context)
        else:
            self.pending.append((callback, context))
            self.loop.must_check = True

    def poll(self) -> None:
        """Make ready the callbacks of all arrivals, in an order that the environment decides."""
        loop, decide, hold = self.loop, self.decide, self.settings.hold
        seen: list[Arrival] = []
        if self.held:
            for entry in self.held:
                entry[0] -= 1
                if not entry[0]:
                    seen.append(entry[1])
            self.held = [entry for entry in self.held if entry[0]]
        for arrival in self.pending:
            if hold and (later := decide("hold", hold + 1)):
                self.held.append([later, arrival])
            else:
                seen.append(arrival)
        self.pending.clear()
        while len(seen) > 1:
            callback, context = seen.pop(decide("order", len(seen)) if self.settings.order else 0)
            loop.call_soon(callback, context=context)
        if seen:
            callback, context = seen[0]
            loop.call_soon(callback, context=context)

    def host(
        self, addresses: list[Address], factory: Callable[[], asyncio.BaseProtocol]
    ) -> SimServer:
        """Return a new server that serves at these addresses.

        Raises:
            OSError: an address is in use.
        """
        server = SimServer(self, addresses, factory)
        self.listen(server, addresses)
        server.serve()
        return server

    def listen(self, server: SimServer, addresses: list[Address]) -> None:
        """Give a server its addresses.

        Raises:
            OSError: an address is in use.
        """
        for address in addresses:
            if address in self.servers:
                raise error(errno.EADDRINUSE)
        for address in addresses:
            self.servers[address] = server
            self.note("listen", f"{address[0]} {address[1]}")

    def unlisten(self, addresses: list[Address], server: SimServer) -> None:
        """Take a server's addresses from it."""
        for address in addresses:
            if self.servers.get(address) is server:
                del self.servers[address]

    async def connect(
        self,
        target: Address,
        local: Address | None,
        factory: Callable[[], asyncio.BaseProtocol],
        *,
        staggered: bool = False,
    ) -> tuple[SimTransport, asyncio.BaseProtocol]:
        """Connect to a server's address.

        Args:
            target: the server's address.
            local: the client's address; None for a free one.
            factory: makes the client's protocol.
            staggered: True if asyncio would race connections to several addresses. Cancelled at
                the end of that, it leaves a connected socket without a transport.

        Returns:
            The client's transport and protocol.

        Raises:
            ConnectionRefusedError: no server listens there, or a fault refuses.
            ConnectionResetError: the server closed before it accepted.
        """
        fate = self._fate(target)
        waiter: asyncio.Future[None] = self.loop.create_future()
        if fate == "black hole":
            self.note("black hole", f"{target[0]} {target[1]}")
            await waiter
        client = None if fate == "refuse" else self.dial(target, local, lambda: _wake(waiter))
        if client is None:
            self.arrive(lambda: _wake(waiter), None)
            await waiter
            self.note("refused", f"{target[0]} {target[1]}")
            text = f"Connect call failed {full(target)}"
            raise OSError(errno.ECONNREFUSED, text)
        stays = staggered and self.earlier
        try:
            await waiter
            if client.was_reset and not self.earlier:
                text = f"Connect call failed {full(target)}"
                raise OSError(errno.ECONNRESET, text)  # noqa: TRY301 - it ends as any failure does
            # asyncio's race has tasks of its own, and loses a socket that is connected already.
            stays = staggered and not self.earlier
            for _ in range(_RACE if stays else 0):
                await asyncio.sleep(0)
            stays = False
            protocol = factory()
            client.begin("client", protocol)
            await asyncio.sleep(0)
        except BaseException:
            if stays:
                self.note("forgotten", client.label)
                self.open[client] = "forgotten"
            else:
                client.abort()
            raise
        return client, protocol

    def dial(
        self, target: Address, local: Address | None = None, made: Callable[[], None] | None = None
    ) -> SimTransport | None:
        """Send a server a request for a connection.

        Args:
            target: the server's address.
            local: the client's address; None for a free one.
            made: called when the client may learn that the connection stands.

        Returns:
            The client's end, silent until it `begin`s; None if no server listens there.
        """
        server = self._find(self.servers, target)
        if server is None or not server.is_serving():
            return None
        self._connections += 1
        source = local or (loopback(target[0]), self.port())
        context = server.context()
        client, far = connect_pair(self, self._connections, source, target, context)
        if self.settings.faults:
            client.maker = far.maker = self._maker()
        self.note("connect", f"{client.label} {target[0]} {target[1]}")
        if made is not None:
            self.arrive(made, None)
        self.arrive(lambda: server.accept(far, context), None)
        return client

    def port(self) -> int:
        """Return a port that is not in use."""
        self._ports += 1
        return self._ports

    def bind(self, endpoint: SimDatagrams, address: Address) -> None:
        """Give a UDP endpoint its address."""
        self._endpoints[address] = endpoint

    def unbind(self, address: Address) -> None:
        """Take a UDP address back."""
        self._endpoints.pop(address, None)

    def bound(self, address: Address) -> bool:
        """Return True if a UDP endpoint has this address."""
        return address in self._endpoints

    def send(self, sender: SimDatagrams, source: Address, target: Address, data: bytes) -> None:
        """Carry a datagram, or lose it."""
        if self.declared.get(target) == "black hole":
            return
        if self.settings.drop and self.decide("drop", 2):
            self.note("dropped", f"{source[1]} to {target[1]}")
            return
        if is_any(source[0]):
            source = (loopback(source[0]), source[1])

        def _land() -> None:
            endpoint = self._find(self._endpoints, target)
            if endpoint is None:
                sender.refuse()
            else:
                endpoint.context.run(endpoint.deliver, data, source)

        self.arrive(_land, None)

    def _latency(self) -> float:
        least, most = self.settings.latency
        if most <= least:
            return least
        steps = self.decide("latency", _LATENCIES)
        return float(least + (most - least) * steps / (_LATENCIES - 1))

    def _fate(self, target: Address) -> str | None:
        if target in self.declared:
            return self.declared[target]
        if not self._making:
            return None
        fate = self.decide("connect", 1 + len(self._making))
        if not fate:
            return None
        name = self._making[fate - 1]
        maker = self._maker()
        of = f" of {maker}" if maker else ""
        to = f"a connection{of} to {target[0]}:{target[1]}"
        self.drawn(
            f"the network refuses {to}"
            if name == "refuse"
            else f"the network swallows {to}: no answer comes"
        )
        return name

    def _maker(self) -> str:
        """Return the name of the running task or of its operation; "" if it has none of its own.

        A connection has no other name that means something to the program.
        """
        task = asyncio.current_task(cast("asyncio.AbstractEventLoop", self.loop))
        name = "" if task is None else task.get_name()
        if name and not _NUMBERED.fullmatch(name):
            return f"client {name}"
        simulation = self.loop.simulation
        if simulation is None:
            return ""
        # A check around the simulation has a ledger, and so scopes, of its own.
        scope = charged(CURRENT.get(), simulation.ledger.root.counters)
        if scope is None or scope.parent is None:
            return ""
        # The scope of an accepted connection would name that connection in place of this one.
        return "" if scope.name.startswith("connection ") else scope.name

    def _find(self, table: dict[Address, Any], target: Address) -> Any:
        wild = "::" if ":" in target[0] else "0.0.0.0"  # noqa: S104 - looked up, not bound
        found = table.get(target)
        return found if found is not None else table.get((wild, target[1]))


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
