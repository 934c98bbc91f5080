"""The network of a simulation: who listens where, what is under way, and what befalls it.

All that arrives passes through `arrive` and becomes visible to the loop in `poll`, which stands
where asyncio's loop asks its selector: after what is ready, before the timers that are due.
"""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, Any

from muxleak.sim.sockets import LOOPBACK, Address, Names, error, is_any
from muxleak.sim.tcp import SimServer, SimTransport, connect_pair

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

    from muxleak.sim.interfaces import SimulatedLoop
    from muxleak.sim.settings import Network
    from muxleak.sim.udp import SimDatagrams

_MAKING = ("refuse", "black hole")  # faults of a connection that is being made
_EPHEMERAL = 49152
_LATENCIES = 16  # how finely a range of latencies is drawn

Arrival = tuple["Callable[[], object]", "Context | None"]


class Fabric:
    """The sockets of one simulation and what travels between them.

    Attributes:
        loop: the simulation's loop.
        settings: what is declared.
        pending: arrivals that the next poll sees.
        held: arrivals that are seen some polls later.
        in_flight: when the last thing now travelling arrives, in virtual seconds.
        open: every open transport and what it is.
        servers: every listening server, by each of its addresses.
        closed: whether a connection has closed at both ends since the last rest.
    """

    def __init__(self, loop: SimulatedLoop, settings: Network) -> None:
        self.loop = loop
        self._ended = False
        self.settings = settings
        self._names: Names | None = None
        self.pending: list[Arrival] = []
        self.held: list[list[Any]] = []
        self.in_flight = 0.0
        self.open: dict[Any, str] = {}
        self.closed = False
        self.declared: dict[Address, str] = {}
        self.servers: dict[Address, SimServer] = {}
        self._endpoints: dict[Address, SimDatagrams] = {}
        self._connections = 0
        self._ports = _EPHEMERAL
        self._making: tuple[str, ...] = ()
        self._made: tuple[str, ...] = ()
        if settings.faults:
            self._making = tuple(each for each in settings.faults if each in _MAKING)
            self._made = tuple(each for each in settings.faults if each not in _MAKING)

    @property
    def names(self) -> Names:
        """Who has which address."""
        if self._names is None:
            self._names = Names(self.settings.hosts)
        return self._names

    def note(self, kind: str, text: str) -> None:
        """Add an event to the trace."""
        if not self._ended:
            self.loop.note(kind, text)

    def close(self) -> None:
        """Cut what refers back."""
        for transport in self.open:
            transport.give_up()
        tables: list[Any] = [self.servers, self._endpoints, self.open, self.pending, self.held]
        for table in tables:
            table.clear()
        self._ended = True
        del self.loop

    def arrive(
        self,
        callback: Callable[[], object],
        context: Context | None,
        transport: SimTransport | None = None,
    ) -> None:
        """Have `callback` run when what has been sent is seen to arrive."""
        if self._ended:
            return
        if transport is not None and self._made:
            fate = self.loop.choices.decide("fault", 1 + len(self._made))
            if fate:
                self.loop.call_soon(transport.fault, self._made[fate - 1], self.settings.stall)
        delay = self._latency()
        if delay:
            self.in_flight = max(self.in_flight, self.loop.time() + delay)
            self.loop.call_later(delay, callback, context=context)
        else:
            self.pending.append((callback, context))
            self.loop.must_check = True

    def poll(self) -> None:
        """See what has arrived: make it ready, in an order of the world's choice."""
        choices, hold = self.loop.choices, self.settings.hold
        seen = []
        for entry in self.held:
            entry[0] -= 1
            if not entry[0]:
                seen.append(entry[1])
        if seen:
            self.held = [entry for entry in self.held if entry[0]]
        for arrival in self.pending:
            later = choices.decide("hold", hold + 1) if hold else 0
            if later:
                self.held.append([later, arrival])
            else:
                seen.append(arrival)
        self.pending.clear()
        while seen:
            first = choices.decide("order", len(seen)) if self._free(seen) else 0
            callback, context = seen.pop(first)
            self.loop.call_soon(callback, context=context)

    def host(
        self, addresses: list[Address], factory: Callable[[], asyncio.BaseProtocol]
    ) -> SimServer:
        """A server at these addresses, which serves at once.

        Raises:
            OSError: one is in use.
        """
        server = SimServer(self, addresses, factory)
        self.listen(server, addresses)
        server.serve()
        return server

    def listen(self, server: SimServer, addresses: list[Address]) -> None:
        """Give a server its addresses.

        Raises:
            OSError: one is in use.
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
        self, target: Address, local: Address | None, factory: Callable[[], asyncio.BaseProtocol]
    ) -> tuple[SimTransport, asyncio.BaseProtocol]:
        """Connect to a server's address.

        Raises:
            ConnectionRefusedError: nobody listens there, or a fault says so.
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
            raise error(errno.ECONNREFUSED)
        try:
            await waiter
            protocol = factory()
            client.begin("client", protocol)
            await asyncio.sleep(0)
        except BaseException:
            client.abort()
            raise
        return client, protocol

    def dial(
        self, target: Address, local: Address | None = None, made: Callable[[], None] | None = None
    ) -> SimTransport | None:
        """Send a server the news of a connection.

        Args:
            target: the server's address.
            local: the client's; a free one if None.
            made: called when the client may know that the connection stands.

        Returns:
            The client's end, silent until it `begin`s; None where nobody listens.
        """
        server = self._find(self.servers, target)
        if server is None or not server.is_serving():
            return None
        self._connections += 1
        source = local or (LOOPBACK, self.port())
        context = server.context()
        client, far = connect_pair(self, self._connections, source, target, context)
        self.note("connect", f"{client.label} {target[0]} {target[1]}")
        if made is not None:
            self.arrive(made, None)
        self.arrive(lambda: server.accept(far, context), None)
        return client

    def port(self) -> int:
        """A port that nobody has."""
        self._ports += 1
        return self._ports

    def bind(self, endpoint: SimDatagrams, address: Address) -> None:
        """Give a UDP endpoint its address."""
        self._endpoints[address] = endpoint

    def unbind(self, address: Address) -> None:
        """Take a UDP address back."""
        self._endpoints.pop(address, None)

    def bound(self, address: Address) -> bool:
        """Whether a UDP endpoint has this address."""
        return address in self._endpoints

    def send(self, sender: SimDatagrams, source: Address, target: Address, data: bytes) -> None:
        """Carry a datagram, or lose it."""
        if self.declared.get(target) == "black hole":
            return
        if self.settings.drop and self.loop.choices.decide("drop", 2):
            self.note("dropped", f"{source[1]} to {target[1]}")
            return
        if is_any(source[0]):
            source = (LOOPBACK, source[1])

        def _land() -> None:
            endpoint = self._find(self._endpoints, target)
            if endpoint is None:
                sender.refuse()
            else:
                endpoint.context.run(endpoint.deliver, data, source)

        self.arrive(_land, None)

    def _free(self, seen: list[Arrival]) -> bool:
        return len(seen) > 1 and self.settings.order

    def _latency(self) -> float:
        least, most = self.settings.latency
        if most <= least:
            return least
        steps = self.loop.choices.decide("latency", _LATENCIES)
        return float(least + (most - least) * steps / (_LATENCIES - 1))

    def _fate(self, target: Address) -> str | None:
        if target in self.declared:
            return self.declared[target]
        if not self._making:
            return None
        fate = self.loop.choices.decide("connect", 1 + len(self._making))
        return self._making[fate - 1] if fate else None

    def _find(self, table: dict[Address, Any], target: Address) -> Any:
        wild = "::" if ":" in target[0] else "0.0.0.0"  # noqa: S104 - looked up, not bound
        found = table.get(target)
        return found if found is not None else table.get((wild, target[1]))


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
