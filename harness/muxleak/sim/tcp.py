"""TCP in a simulation: connections whose arrivals the network decides on, and their servers."""

# The two ends of a connection are one thing and see each other's state:
# ruff: noqa: SLF001

# A connection is a pair in memory (see `memory_transport`) with one change: an action of one end
# becomes visible at the other when the network lets it arrive (`Carrier.arrive`), not in the next
# iteration. There the environment decides when, in which order, in which pieces, and with which
# fault.
#
# `_scheduled` doubles as the lock of an end that has no protocol yet: a connection stands as soon
# as it is dialled, bytes written by the client wait in the server's inbox, and nothing is delivered
# before `begin` gives the end its protocol.
#
# The system's buffers are modelled in one respect: a connection that is closed or aborted leaves up
# to the high-water mark of bytes in them, which reach the peer all the same, followed by the end.
# As with a kernel, the peer sees a reset only if the closed end has left bytes unread. Earlier
# versions reset the peer of an aborted connection, let a close wait for a peer that did not read,
# and read before `connection_made` had run; replays that were recorded then still do
# (`Fabric.earlier`).
#
# Faults, by the flags that they set:
#
#   reset        `_reset` at both ends: the inbox is dropped, connection_lost(ECONNRESET) follows
#   half-close   `_eof_seen`: this end sees end-of-file although the peer goes on
#   stall        `_stalled`: nothing is delivered to this end, for a time or for good
#   black hole   `_severed` and `_stalled` at both ends: nothing passes any more, and neither end
#                hears of the other's close. That is a peer that has vanished.
#
# A fault that was drawn is put into words when it takes effect, so that it has its place among
# the steps of the program, with the bytes that had passed by then. The words are no part of the
# trace, which notes the fault itself.
#
# A collection of garbage closes a connection that was dropped while it did not read: on a real loop
# nothing else holds it. Here the network holds every open connection, so that no run depends on the
# moment of an automatic collection, which differs between processes. Only where the program itself
# calls `gc.collect` the network lets go of such ends for its length (`Fabric.collecting`).
#
# The finalizer of a `StreamWriter`, which early releases of 3.11 do not have, closes its transport.
# The program has dropped that connection all the same, so a `DroppedConnection` stands for it in
# the leak scan.
#
# An end that only a stall or a black hole keeps from closing is `cut_off`: it is no leak of the
# program, and the leak scan leaves it out.
#
# Contexts, servers and their ends follow the running Python, as a program on its asyncio would see
# them:
#
#   from 3.15 on   All callbacks of a connection run in its one context.
#   up to 3.14     `connection_made` and the readings get a copy each of the context in which the
#                  factory has run. `resume_reading` moves the readings to a copy of its caller's
#                  context. `resume_writing` runs in a copy of the context of the `write` that
#                  filled the buffer, `connection_lost` in one of whoever ended the connection.
#   serve_forever  cancelled: closes the clients from 3.14 on; waits for them before
#   wait_closed    of a closed server: returns at once in 3.11; waits for its connections later
#
# The scope of a connection does not depend on this: it is entered before the factory runs.

from __future__ import annotations

import asyncio
import errno
import sys
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast
from weakref import ref

from muxleak.introspect.sites import Points, trace
from muxleak.sim.memory_transport import HIGH_WATER, MemoryTransport
from muxleak.sim.sockets import SimSocket, error, full

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from muxleak.ledger.counters import Scope
    from muxleak.sim.interfaces import Carrier
    from muxleak.sim.sockets import Address


_ONE_CONTEXT = sys.version_info >= (3, 15)
_CLOSES_CLIENTS = sys.version_info >= (3, 14)
_FORGETS_DROPPED = sys.version_info >= (3, 13)
_WAITS_CLOSED = sys.version_info >= (3, 12)
_VERBS = {"reset": "resets", "stall": "stalls", "half-close": "half-closes"}
_MOST = 255  # ways to cut what arrives, of which the first is not at all


_CLOSE = asyncio.StreamWriter.close.__code__
_FINALIZER = getattr(getattr(asyncio.StreamWriter, "__del__", None), "__code__", None)


def _by_finalizer(frame: FrameType) -> bool:
    """Return True if a frame is `StreamWriter.close`, called by the writer's finalizer."""
    caller = frame.f_back if frame.f_code is _CLOSE else None
    return caller is not None and caller.f_code is _FINALIZER


class SimTransport(MemoryTransport):
    """One end of a simulated connection.

    Attributes:
        label: "2>" for the client's end of the second connection, "2<" for the server's.
        maker: the name of the operation or task that made the connection; "" if it has none.
        stranded: True if its server closed as it accepted it.
        server: at the server's end, the server that accepted the connection.
        points: the raw creation site of the connection, or of that server.
    """

    _protocol: Any = asyncio.Protocol()  # ignores everything; stands in until `begin`
    _side = "unaccepted"
    maker = ""
    stranded = False
    _passed = 0  # bytes that its protocol was given
    _severed = False  # nothing passes any more, and neither end learns of it

    def __init__(
        self, fabric: Carrier, label: str, sockname: Address, peername: Address, context: Context
    ) -> None:
        names = full(sockname), full(peername)
        extra: dict[str, Any] = {
            "sockname": names[0],
            "peername": names[1],
            "socket": SimSocket(*names),
        }
        super().__init__(fabric.loop, extra, context, fabric.open)
        self._fabric = fabric
        self.label = label
        self.server: SimServer | None = None
        self.points: Points = []
        self._scope: Scope | None = None  # of an accepted connection, until its close is measured
        self._scheduled = True  # nothing is delivered before `begin`
        self._reading = self._filling = self._context

    def pair_with(self, other: SimTransport) -> None:
        """Join two ends; bytes written to an end wait until it has begun."""
        self._peer, other._peer = other, self
        for end in (self, other):
            end._high, end._low = HIGH_WATER, HIGH_WATER // 4

    @property
    def context(self) -> Context:
        """The context in which it was made; later ones may differ, see the top of this module."""
        return self._context

    @property
    def title(self) -> str:
        """The connection in words: "connection 2 of client bob to 127.0.0.1:80"."""
        host, port = self.get_extra_info("peername" if self._is_client else "sockname")[:2]
        maker = f" of {self.maker}" if self.maker else ""
        return f"connection {self.label[:-1]}{maker} to {host}:{port}"

    @property
    def _is_client(self) -> bool:
        return self.label.endswith(">")

    def in_words(self, fault: str, seconds: float | None = None) -> str:
        """Describe a fault that is about to take effect, with the bytes that have passed."""
        here, there = ("client", "server") if self._is_client else ("server", "client")
        text = f"the network {_VERBS[fault]} {self.title}"
        passed = {there: self._passed}
        if fault == "reset":
            passed[here] = getattr(self._peer, "_passed", 0)
        else:
            text += f" at the {here}"
        if fault == "half-close":
            passed[there] += self._size  # these are delivered before the end
        if fault == "stall":
            text += " for good" if seconds is None else f" for {seconds:g} s"
        parts = [
            f"{count} byte{'s' * (count != 1)} from the {side}"
            for side, count in sorted(passed.items())
            if count
        ]
        return f"{text}, after {' and '.join(parts)}" if parts else f"{text}, before any byte"

    @property
    def cut_off(self) -> bool:
        """True if a fault alone keeps this end from closing."""
        stalled = getattr(self._peer, "_stalled", False)
        return self._closing and (self._severed or stalled)

    @property
    def peer(self) -> SimTransport | None:
        """The other end, until its end has been noticed."""
        return cast("SimTransport | None", self._peer)

    @property
    def was_reset(self) -> bool:
        """True if a reset has arrived, which may be before `begin`."""
        return self._reset

    def give_up(self) -> None:
        """End without any callback, because the loop has closed; cut references back."""
        self._closing = self._lost = True
        self._peer = self._protocol = self.server = None

    def begin(self, side: str, protocol: asyncio.BaseProtocol) -> None:
        """Announce the connection to `protocol`, and deliver the bytes that have come so far."""
        self._side = side
        self.set_protocol(protocol)
        self._fabric.open[self] = side
        made = self._context
        if not _ONE_CONTEXT:
            # The task that calls this for a client has just run the factory, in its own context.
            made = copy_context() if side == "client" else made.copy()
            self._reading = self._filling = made.copy()
        self._loop.call_soon(protocol.connection_made, self, context=made)
        if self._fabric.earlier:
            self._begin_reading()
        else:
            # Reading begins after `connection_made`, so that a task which that has made takes its
            # first step before the first byte is delivered, as on asyncio's own loop.
            self._loop.call_soon(self._begin_reading, context=made)

    def _begin_reading(self) -> None:
        self._scheduled = False
        if self._inbox or self._eof_seen or self._reset:
            self._expect()

    def drawn_fault(self, name: str, seconds: float) -> None:
        """Apply a fault that was drawn, and report it among the steps."""
        if not (self._lost and getattr(self._peer, "_lost", True)):
            self._fabric.drawn(self.in_words(name, seconds))
        self.fault(name, seconds)

    def fault(self, name: str, seconds: float | None = None) -> None:
        """Apply a fault to this connection.

        Args:
            name: "reset", "stall", "half-close" or "black hole".
            seconds: virtual seconds that a stall lasts; None for a stall without end.
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

    @property
    def is_loose(self) -> bool:
        """True if a real loop would not hold it: it neither reads nor has bytes to write.

        asyncio's loop holds a transport by the callbacks for its socket alone.
        """
        sent = self._peer is None or self._peer._size <= HIGH_WATER
        idle = self._paused or self._deaf
        return sent and not (self._closing or self._stalled or self._scheduled) and idle

    def let_go(self) -> LooseEnd:
        """Cut the references that the network has to this end, for a garbage collection."""
        fabric, peer, server = self._fabric, self._peer, self.server
        if peer is not None:
            peer._peer = self._peer = None
        if server is not None:
            del server._open[self]
        entries = [each for each in fabric.accepted if each[0] is self]
        scopes = [scope for _, scope in entries]
        for each in entries:
            fabric.accepted.remove(each)
        entries.clear()
        side, unread = fabric.open.pop(self, ""), bool(self._inbox)
        return LooseEnd(ref(self), peer, server, side, unread, scopes, DroppedConnection(self))

    def take_back(self, end: LooseEnd) -> None:
        """Undo `let_go`, since something else holds this end."""
        self._peer = end.peer
        if end.peer is not None:
            end.peer._peer = self
        if end.server is not None:
            end.server._open[self] = None
        if end.side:
            self._fabric.open[self] = end.side
        self._fabric.accepted += [(self, scope) for scope in end.scopes]

    def strand(self) -> None:
        """Drop the end of a server that has closed since it accepted: the peer learns nothing.

        asyncio drops such a connection without `connection_made` or a message; the system closes
        its socket when the collector runs, if ever. Here it stays silent.
        """
        self._fabric.note("stranded", self.label)
        self._fabric.drawn(f"{self.title} is stranded: its server closed as it accepted it")
        self._stalled = self.stranded = True

    def _flow(self) -> None:
        self._stalled = False
        if self._peer is None:
            self._measure_close()
        if not self._lost:
            self._expect()

    def _expect(self) -> None:
        if not (self._scheduled or self._paused or self._closing or self._deaf or self._stalled):
            self._scheduled = True
            self._fabric.arrive(self._deliver, self._reading, self)

    def close(self) -> None:
        """Close; `connection_lost(None)` follows once the system's buffers hold all bytes."""
        if self._fabric.earlier:
            super().close()
        elif not self._closing:
            if _by_finalizer(sys._getframe(1)):
                self._fabric.dropped.append(DroppedConnection(self))
            self._closing = True
            if self._peer is None or self._peer._size <= HIGH_WATER:
                self._aborted = self.get_extra_info("socket").resets
                self._lose(None)

    def abort(self) -> None:
        """Close at once; bytes that the system's buffers do not hold are dropped.

        The peer sees the end, as after `close`; it sees a reset only if bytes are left unread here,
        or if the socket's option SO_LINGER is zero seconds.
        """
        if self._lost or self._fabric.earlier or self.get_extra_info("socket").resets:
            super().abort()
            return
        peer = self._peer
        while peer is not None and peer._size > HIGH_WATER:
            last = peer._inbox.pop()
            kept = max(0, len(last) - (peer._size - HIGH_WATER))
            peer._size -= len(last) - kept
            if kept:
                peer._inbox.append(memoryview(last)[:kept])
        self._lose(None)

    def write_eof(self) -> None:
        """Close the sending direction.

        Raises:
            OSError: the peer has reset the connection, and that was not noticed yet.
        """
        broken = self._peer is None and (self._gone or self._reset) and not self._severed
        if broken and not (self._closing or self._eof_sent or self._fabric.earlier):
            self._eof_sent = True
            raise error(errno.ENOTCONN)
        super().write_eof()

    if sys.version_info >= (3, 12):

        def writelines(self, list_of_data: Any) -> None:
            """Send a list of data.

            Raises:
                RuntimeError: the sending direction is closed.
            """
            if self._eof_sent:
                raise RuntimeError("Cannot call writelines() after write_eof()")
            super().writelines(list_of_data)

    def resume_reading(self) -> None:
        """Read again; up to Python 3.14 in a copy of the caller's context."""
        if self._paused and not self._closing:
            if not _ONE_CONTEXT:
                self._reading = copy_context()
            # asyncio watches the socket again, and so sees an end of file again.
            self._deaf = self._deaf and self._fabric.earlier
        super().resume_reading()

    def _throttle(self) -> None:
        if not (_ONE_CONTEXT or self._throttled):
            self._filling = copy_context()
        super()._throttle()

    def _writing_context(self) -> Context:
        return self._filling

    def _lose(self, exc: BaseException | None, context: Context | None = None) -> None:
        if context is None and not _ONE_CONTEXT:
            context = copy_context()
        super()._lose(exc, context)

    def _hand_over_end(self) -> None:
        self._fabric.note("reset" if self._reset else "eof", self.label)
        super()._hand_over_end()

    def _pull(self, limit: int) -> bytes:
        size, fabric = min(limit, self._size), self._fabric
        if size > 1 and fabric.settings.cut:
            choice = fabric.decide("cut", min(size, _MOST))
            if choice:
                size = _cut(size, choice)
        if fabric.traced:
            fabric.note("data", f"{self.label} {size}")
        self._passed += size
        return super()._pull(size)

    def _write_to_nobody(self) -> None:
        if not self._severed:
            super()._write_to_nobody()

    def _peer_lost(self, *, reset: bool) -> None:
        if self._severed:
            self._peer = None
        elif reset and self._eof_seen and not (self._lost or self._fabric.earlier):
            # A system delivers an end of file that came before a reset, and fails the next write.
            self._peer, self._gone = None, True
            if self._closing or self._throttled:
                self._lose(error(errno.EPIPE), self._writing_context())
            else:
                self._expect()
        else:
            super()._peer_lost(reset=reset)

    def _measure_close(self) -> None:
        """Measure from now on the time until everything that the connection made has ended."""
        scope, self._scope = self._scope, None
        simulation = self._fabric.loop.simulation
        if scope is not None and simulation is not None:
            simulation.limits.connection_ends(scope)

    def _call_connection_lost(self, exc: BaseException | None) -> None:
        fabric, server, peer = self._fabric, self.server, self._peer
        if self._scope is not None:
            self._measure_close()
        elif isinstance(peer, SimTransport) and not (peer._stalled or peer._severed):
            peer._measure_close()
        fabric.note("lost", self.label)
        if self._peer is None:
            fabric.loop.must_check = fabric.closed = True
        try:
            super()._call_connection_lost(exc)
        finally:
            self.server = None
            if server is not None:
                server.detach(self)


class DroppedConnection:
    """Stands for a connection that the garbage collector has closed, so that it is reported.

    Attributes:
        context: the context in which the connection was made.
        points: the raw creation site.
        cut_off: False: no fault has closed it.
    """

    cut_off = False

    def __init__(self, transport: SimTransport) -> None:
        self.context, self.points = transport.context, transport.points
        names = ("sockname", "peername", "socket")
        self._extra = {name: transport.get_extra_info(name) for name in names}

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return information on the connection."""
        return self._extra.get(name, default)

    def get_protocol(self) -> Self:
        """Return anything but None: it was not closed by the program."""
        return self

    def give_up(self) -> None:
        """Do nothing: it refers to nothing."""

    def abort(self) -> None:
        """Do nothing: it is closed."""


class LooseEnd(NamedTuple):
    """An end of a connection that the network has let go of, for a garbage collection.

    Attributes:
        end: refers to it weakly.
        peer: its other end.
        server: the server that has accepted it, or None.
        side: its side, as in `Carrier.open`; "" if it was not there.
        unread: True if it has bytes that were not read.
        scopes: its scopes, if it was on the list of accepted connections.
        dropped: stands for it if it is collected.
    """

    end: ref[SimTransport]
    peer: Any
    server: SimServer | None
    side: str
    unread: bool
    scopes: list[Scope]
    dropped: DroppedConnection

    def settle(self, fabric: Carrier) -> None:
        """Take the end back if it is alive; else close its socket, as its finalizer would do."""
        transport = self.end()
        if transport is not None:
            transport.take_back(self)
            return
        fabric.note("dropped", str(self.dropped.get_extra_info("peername")[1]))
        fabric.open[self.dropped] = "dropped"
        if self.server is not None:
            self.server.lose(self.dropped)
        if self.peer is not None:
            self.peer._peer_lost(reset=self.unread)


def connect_pair(
    fabric: Carrier, number: int, client: Address, server: Address, context: Context | None = None
) -> tuple[SimTransport, SimTransport]:
    """Return the two ends of a new connection, the client's first.

    Args:
        fabric: the network.
        number: the connection's number, for labels.
        client: the client's address.
        server: the server's address.
        context: the context of the server's callbacks; by default a copy of the current one.
    """
    ours = SimTransport(fabric, f"{number}>", client, server, copy_context())
    # Not "or": a context in which no variable was set is empty, and therefore false.
    theirs = SimTransport(
        fabric, f"{number}<", server, client, copy_context() if context is None else context
    )
    if fabric.notes_sites:
        ours.points = trace()
    ours.pair_with(theirs)
    return ours, theirs


def _cut(size: int, choice: int) -> int:
    """Return the number of `size` bytes that arrive, for a choice from 0 to `_MOST` - 1.

    0 means all, 1 to 3 mean one byte, all but one, and half; the rest are spread evenly. The small
    choices are the cuts that split a header or separate a last byte, the commonest mistakes.
    """
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
        end._lose(error(errno.ECONNRESET), end._reading)
    else:
        end._expect()


class SimServer(asyncio.AbstractServer):
    """A listening server; it behaves as that of the running Python's asyncio.

    Attributes:
        sockets: one for each address; empty once the server is closed.
        points: the raw creation site.
    """

    def __init__(
        self, fabric: Carrier, addresses: list[Address], factory: Callable[[], asyncio.BaseProtocol]
    ) -> None:
        self.sockets: tuple[SimSocket, ...] = tuple(SimSocket(full(each)) for each in addresses)
        self._fabric = fabric
        self._factory = factory
        self._context = copy_context()
        self._addresses = addresses
        self.points: Points = trace() if fabric.notes_sites else []
        self._serving = self._closed = False
        self._open: dict[Any, None] = {}  # transports, and dropped ones
        self._forever: asyncio.Future[None] | None = None
        self._waiters: list[asyncio.Future[None]] = []

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the simulated loop."""
        return cast("asyncio.AbstractEventLoop", self._fabric.loop)

    def is_serving(self) -> bool:
        """Return True if the server accepts connections."""
        return self._serving

    async def start_serving(self) -> None:
        """Accept connections from now on."""
        self.serve()
        await asyncio.sleep(0)

    def serve(self) -> None:
        """Accept connections from now on, without yielding to the loop.

        Raises:
            TypeError: the server is closed; asyncio's has lost its list of sockets then.
        """
        if self._serving:
            return
        self._serving = True
        if self._closed:
            raise TypeError("'NoneType' object is not iterable")

    async def serve_forever(self) -> None:
        """Accept connections until cancelled; then close.

        Raises:
            RuntimeError: the server is closed, or another task awaits this already.
        """
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
            if _CLOSES_CLIENTS:
                self._close_clients()
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

    def _close_clients(self) -> None:
        for transport in list(self._open):
            if isinstance(transport, SimTransport):
                transport.close()

    if sys.version_info >= (3, 13):

        def close_clients(self) -> None:
            """Close the open connections."""
            self._close_clients()

        def abort_clients(self) -> None:
            """Reset the open connections."""
            for transport in list(self._open):
                transport.abort()

    async def wait_closed(self) -> None:
        """Wait until the server and its last connection are closed; in 3.11 only while it serves.

        In 3.11 a server that is closed already is not waited for, whatever its connections do.
        """
        if self._closed and not (self._open and _WAITS_CLOSED):
            return
        waiter: asyncio.Future[None] = self._fabric.loop.create_future()
        self._waiters.append(waiter)
        await waiter

    def accept(self, transport: SimTransport, context: Context) -> None:
        """Accept a connection that has arrived; its protocol is made in the next iteration."""
        if self._closed:
            transport.fault("reset")
        else:
            self._fabric.loop.call_soon(self._establish, transport, context)

    def _establish(self, transport: SimTransport, context: Context) -> None:
        """Make the protocol of an accepted connection, in the connection's context and scope."""
        protocol = None
        try:
            context.run(self._enter_scope, transport)
            protocol = context.run(self._factory)
        except Exception as exc:  # noqa: BLE001 - as asyncio does
            transport.abort()
            if self.get_loop().get_debug():  # as asyncio does
                text = "Error on transport creation for incoming connection"
                self._fabric.loop.call_exception_handler({"message": text, "exception": exc})
            return
        if self._closed:
            transport.strand()
            return
        self._open[transport] = None
        transport.server, transport.points = self, self.points
        transport.begin("server", protocol)

    def _enter_scope(self, transport: SimTransport) -> None:
        simulation = self._fabric.loop.simulation
        if simulation is None:
            return
        host, port = transport.get_extra_info("sockname")[:2]
        scope = simulation.ledger.scope(f"connection {transport.label[:-1]} to {host}:{port}")
        scope.enter()
        transport._scope = scope
        # Only a check reads the list; without one it would keep every transport alive.
        if simulation.has_check and not self._closed:
            self._fabric.accepted.append((transport, scope))

    def context(self) -> Any:
        """Return a copy of the context in which the server was made, for one connection."""
        return self._context.copy()

    def detach(self, transport: SimTransport) -> None:
        """Forget a connection that is lost."""
        self._open.pop(transport, None)
        self._wake_waiters()

    def lose(self, dropped: DroppedConnection) -> None:
        """Forget a connection that was collected; up to 3.12 asyncio's server goes on counting."""
        if _FORGETS_DROPPED:
            self._wake_waiters()
        else:
            self._open[dropped] = None

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
