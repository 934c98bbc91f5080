"""A TCP connection of the simulation: the pair in memory, whose arrivals the network decides on."""

# The two ends of a connection are one thing and see each other's state:
# ruff: noqa: SLF001

from __future__ import annotations

import asyncio
import errno
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Self, cast

from muxleak.introspect.sites import Points, trace
from muxleak.sim.memory_transport import HIGH_WATER, MemoryTransport
from muxleak.sim.sockets import SimSocket, error

if TYPE_CHECKING:
    from collections.abc import Callable

    from muxleak.sim.interfaces import Carrier
    from muxleak.sim.sockets import Address


_MOST = 255  # ways to cut what arrives, of which the first is not at all


class SimTransport(MemoryTransport):
    """One end of a simulated connection.

    Attributes:
        label: "2>" is the client's end of the second connection, "2<" the server's.
        server: whose connection it is, at the server's end.
        points: where the connection, or that server, was made.
    """

    _protocol: Any = asyncio.Protocol()  # before there is one: deaf to everything
    _side = "unaccepted"
    _stalled = False
    _severed = False  # nothing passes any more, and nobody is told

    def __init__(
        self, fabric: Carrier, label: str, sockname: Address, peername: Address, context: Context
    ) -> None:
        extra: dict[str, Any] = {
            "sockname": sockname,
            "peername": peername,
            "socket": SimSocket(sockname, peername),
        }
        super().__init__(fabric.loop, extra, context, fabric.open)
        self._fabric = fabric
        self.label = label
        self.server: SimServer | None = None
        self.points: Points = []
        self._scheduled = True  # nothing is delivered before `join`

    def pair_with(self, other: SimTransport) -> None:
        """Be the two ends of one connection; what is written waits until the other end joins."""
        self._peer, other._peer = other, self
        for end in (self, other):
            end._high, end._low = HIGH_WATER, HIGH_WATER // 4

    @property
    def context(self) -> Context:
        """Where its callbacks run."""
        return self._context

    @property
    def cut_off(self) -> bool:
        """Whether a fault alone keeps it from closing."""
        stalled = getattr(self._peer, "_stalled", False)
        return self._closing and (self._severed or stalled)

    def give_up(self) -> None:
        """Be closed, without telling anybody: the loop is. Cuts what refers back."""
        self._closing = self._lost = True
        self._peer = self._protocol = self.server = None

    def begin(self, side: str, protocol: asyncio.BaseProtocol) -> None:
        """Announce the connection to `protocol`, and let in what has come so far."""
        self._side = side
        self.set_protocol(protocol)
        self._fabric.open[self] = side
        self._loop.call_soon(protocol.connection_made, self, context=self._context)
        self._scheduled = False
        if self._inbox or self._eof_seen or self._reset:
            self._expect()

    def fault(self, name: str, seconds: float | None = None) -> None:
        """Let "reset", "stall", "half-close" or "black hole" befall this connection.

        Args:
            name: which.
            seconds: of virtual time that a stall lasts; for ever if None.
        """
        self._fabric.note("fault", f"{name} {self.label}")
        if name == "reset":
            for end in (self, self._peer):
                _reset(end)
        elif name == "half-close":
            self._eof_seen = True
            self._expect()
        elif name == "stall":
            self._stalled = True
            if seconds is not None:
                self._fabric.loop.call_later(seconds, self._flow)
        else:
            for end in (self, self._peer):
                if isinstance(end, SimTransport):
                    end._severed = end._stalled = True

    def _flow(self) -> None:
        self._stalled = False
        if not self._lost:
            self._expect()

    def _expect(self) -> None:
        if not (self._scheduled or self._paused or self._closing or self._deaf or self._stalled):
            self._scheduled = True
            self._fabric.arrive(self._deliver, self._context, self)

    def _deliver(self) -> None:
        if self._stalled:
            self._scheduled = False
        else:
            super()._deliver()

    def _hand_over(self) -> None:
        if not self._inbox:
            self._fabric.note("reset" if self._reset else "eof", self.label)
        super()._hand_over()

    def _pull(self, limit: int) -> bytes:
        size = min(limit, self._size)
        if size > 1 and self._fabric.settings.cut:
            size = _cut(size, self._fabric.loop.choices.decide("cut", min(size, _MOST)))
        self._fabric.note("data", f"{self.label} {size}")
        return super()._pull(size)

    def _write_to_nobody(self) -> None:
        if not self._severed:
            super()._write_to_nobody()

    def _peer_lost(self, *, reset: bool) -> None:
        if self._severed:
            self._peer = None
        else:
            super()._peer_lost(reset=reset)

    def _call_connection_lost(self, exc: BaseException | None) -> None:
        fabric, server = self._fabric, self.server
        fabric.note("lost", self.label)
        if self._peer is None:
            fabric.loop.must_check = fabric.closed = True
        try:
            super()._call_connection_lost(exc)
        finally:
            self.server = None
            if server is not None:
                server.detach(self)


def connect_pair(
    fabric: Carrier, number: int, client: Address, server: Address, context: Context | None = None
) -> tuple[SimTransport, SimTransport]:
    """The two ends of a new connection: the client's, and the server's for `context`."""
    ours = SimTransport(fabric, f"{number}>", client, server, copy_context())
    # Not "or": a context in which nothing was set is empty, and so false.
    theirs = SimTransport(
        fabric, f"{number}<", server, client, copy_context() if context is None else context
    )
    ours.points = trace()
    ours.pair_with(theirs)
    return ours, theirs


def _cut(size: int, choice: int) -> int:
    """How many of `size` bytes arrive: 0 all, then 1, all but 1, half, and evenly spread."""
    if choice == 0:
        return size
    usual = (1, size - 1, size // 2)
    if choice <= len(usual):
        return usual[choice - 1] or 1
    return max(1, size * choice // _MOST) if size > _MOST else choice


def _reset(end: Any) -> None:
    if end is None or end._lost:
        return
    end._inbox.clear()
    end._size = 0
    end._reset, end._stalled = True, False
    if end._closing or end._throttled:
        end._lose(error(errno.ECONNRESET))
    else:
        end._expect()


class SimServer(asyncio.AbstractServer):
    """A listening server; behaves as asyncio's does from 3.12.1 on, on every Python.

    Attributes:
        sockets: one for each address; empty once closed.
        points: where it was made.
    """

    def __init__(
        self, fabric: Carrier, addresses: list[Address], factory: Callable[[], asyncio.BaseProtocol]
    ) -> None:
        self.sockets: tuple[SimSocket, ...] = tuple(SimSocket(each) for each in addresses)
        self._fabric = fabric
        self._factory = factory
        self._context = copy_context()
        self._addresses = addresses
        self.points: Points = trace()
        self._serving = self._closed = False
        self._open: dict[SimTransport, None] = {}
        self._forever: asyncio.Future[None] | None = None
        self._waiters: list[asyncio.Future[None]] = []

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop."""
        return cast("asyncio.AbstractEventLoop", self._fabric.loop)

    def is_serving(self) -> bool:
        """Whether it accepts connections."""
        return self._serving

    async def start_serving(self) -> None:
        """Accept connections from now on."""
        self.serve()
        await asyncio.sleep(0)

    def serve(self) -> None:
        """The same, without giving way."""
        self._serving = not self._closed

    async def serve_forever(self) -> None:
        """Accept connections until cancelled; then close."""
        if self._forever is not None or self._closed:
            state = "closed" if self._closed else "already being awaited on serve_forever()"
            raise RuntimeError(f"server {self!r} is {state}")
        self._serving = True
        self._forever = self.get_loop().create_future()
        try:
            await self._forever
        finally:
            self._forever = None
            self.close()
            await self.wait_closed()

    def close(self) -> None:
        """Stop listening; open connections stay."""
        if self._closed:
            return
        self._closed, self._serving, self.sockets = True, False, ()
        self._fabric.unlisten(self._addresses, self)
        if self._forever is not None and not self._forever.done():
            self._forever.cancel()
        self._wake_waiters()

    def close_clients(self) -> None:
        """Close the open connections."""
        for transport in list(self._open):
            transport.close()

    def abort_clients(self) -> None:
        """Reset the open connections."""
        for transport in list(self._open):
            transport.abort()

    async def wait_closed(self) -> None:
        """Wait until it is closed and its last connection too."""
        if self._closed and not self._open:
            return
        waiter: asyncio.Future[None] = self._fabric.loop.create_future()
        self._waiters.append(waiter)
        await waiter

    def accept(self, transport: SimTransport, context: Any) -> None:
        """Take a connection that has arrived: make its protocol, in its own context."""
        if self._closed:
            transport.fault("reset")
            return
        simulation = self._fabric.loop.simulation
        if simulation is not None:
            host, port = transport.get_extra_info("sockname")
            name = f"connection {transport.label[:-1]} to {host}:{port}"
            context.run(simulation.ledger.scope(name).enter)
        try:
            protocol = context.run(self._factory)
        except Exception as exc:  # noqa: BLE001 - as asyncio does
            transport.abort()
            self._fabric.loop.call_exception_handler(
                {"message": "Error on transport creation for incoming connection", "exception": exc}
            )
            return
        self._open[transport] = None
        transport.server, transport.points = self, self.points
        transport.begin("server", protocol)

    def context(self) -> Any:
        """A copy of the context in which the server was made, for one connection."""
        return self._context.copy()

    def detach(self, transport: SimTransport) -> None:
        """Forget a connection that is lost."""
        self._open.pop(transport, None)
        self._wake_waiters()

    def _wake_waiters(self) -> None:
        if self._closed and not self._open:
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)
            self._waiters.clear()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        self.close()
        await self.wait_closed()

    def __repr__(self) -> str:
        return f"<SimServer {', '.join(f'{host}:{port}' for host, port in self._addresses)}>"
