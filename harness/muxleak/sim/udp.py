"""UDP endpoints of the simulation: datagrams may be late, out of order and, where allowed, lost."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from muxleak.introspect.sites import Points, trace
from muxleak.sim.memory_transport import HIGH_WATER, water_marks
from muxleak.sim.sockets import SimSocket, error, full

if TYPE_CHECKING:
    from muxleak.sim.interfaces import Carrier
    from muxleak.sim.sockets import Address

_SENDS_EMPTY = sys.version_info >= (3, 13)
_LARGEST = 65507  # bytes: the largest payload of one datagram over IPv4


class SimDatagrams(asyncio.DatagramTransport):
    """A UDP endpoint.

    Args:
        fabric: the network.
        protocol: receives the datagrams.
        local: the endpoint's address.
        remote: the address it is connected to, the only one it then hears; or None.

    Attributes:
        cut_off: False: no fault keeps a datagram endpoint from closing.
        points: the raw creation site.
    """

    cut_off = False  # no fault keeps it from closing

    def __init__(
        self,
        fabric: Carrier,
        protocol: asyncio.DatagramProtocol,
        local: Address,
        remote: Address | None,
    ) -> None:
        names = full(local), full(remote) if remote is not None else None
        socket_ = SimSocket(*names, socket.SOCK_DGRAM)
        extra = {"sockname": names[0], "peername": names[1], "socket": socket_}
        super().__init__(extra)
        self._fabric = fabric
        self._protocol: Any = protocol
        self._context = copy_context()
        self.points: Points = trace()
        self._local, self._remote = local, remote
        self._closing = False
        self._high, self._low = HIGH_WATER, HIGH_WATER // 4
        fabric.open[self] = "datagrams"
        fabric.loop.call_soon(protocol.connection_made, self, context=self._context)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol; None after `connection_lost`."""
        return self._protocol  # type: ignore[no-any-return]

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Give the callbacks from now on to `protocol`."""
        self._protocol = protocol

    def is_closing(self) -> bool:
        """Return True if the endpoint is closing or closed."""
        return self._closing

    def get_write_buffer_size(self) -> int:
        """Return 0: a datagram leaves at once."""
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the marks, which are never reached."""
        self._high, self._low = water_marks(high, low)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the low and the high mark, in bytes."""
        return self._low, self._high

    def sendto(self, data: Any, addr: Any = None) -> None:
        """Send a datagram; no answer tells if it arrives. Up to 3.12 an empty one is not sent.

        Without any address the endpoint fails, and is closed, as with asyncio.

        Raises:
            TypeError: the data are not bytes-like.
            ValueError: a connected endpoint is given another address.
        """
        if not isinstance(data, bytes | bytearray | memoryview):
            kind = type(data).__name__
            raise TypeError(f"data argument must be a bytes-like object, not {kind!r}")
        if not data and not _SENDS_EMPTY:
            return
        if self._remote is not None and addr not in {None, full(self._remote)}:
            raise ValueError(f"Invalid address: must be None or {full(self._remote)}")
        target = self._remote if addr is None else addr
        if self._closing:
            return
        if target is None:
            self._fail(TypeError("sendto(): AF_INET address must be tuple, not NoneType"))
            return
        if len(data) > _LARGEST:
            self._protocol.error_received(error(errno.EMSGSIZE))
            return
        target = (self._fabric.names.resolve(target[0]), target[1])
        self._fabric.send(self, self._local, target, bytes(data))

    def deliver(self, data: bytes, sender: Address) -> None:
        """Hand a datagram to the protocol."""
        if self._closing or (self._remote is not None and sender != self._remote):
            return
        self._fabric.note("datagram", f"{sender[1]} to {self._local[1]} {len(data)}")
        self._protocol.datagram_received(data, full(sender))

    def refuse(self) -> None:
        """Report to a connected endpoint that no endpoint has the address it sent to."""
        if self._remote is not None and not self._closing:
            self._protocol.error_received(error(errno.ECONNREFUSED))

    @property
    def context(self) -> Any:
        """The context of its callbacks."""
        return self._context

    def close(self) -> None:
        """Close; `connection_lost(None)` follows."""
        if not self._closing:
            self._closing = True
            self._fabric.unbind(self._local)
            self._fabric.loop.call_soon(self._lost, None, context=self._context)

    def _fail(self, exc: Exception) -> None:
        self._fabric.loop.call_exception_handler(
            {
                "message": "Fatal write error on datagram transport",
                "exception": exc,
                "transport": self,
                "protocol": self._protocol,
            }
        )
        self._closing = True
        self._fabric.unbind(self._local)
        self._fabric.loop.call_soon(self._lost, exc, context=self._context)

    def abort(self) -> None:
        """Close; nothing is waiting that could be dropped."""
        self.close()

    def give_up(self) -> None:
        """End without any callback, because the loop has closed; cut references back."""
        self._closing = True
        self._protocol = None

    def _lost(self, exc: Exception | None) -> None:
        protocol, self._protocol = self._protocol, None
        self._fabric.open.pop(self, None)
        protocol.connection_lost(exc)

    def __repr__(self) -> str:
        state = "closing" if self._closing else "open"
        return f"<SimDatagrams {self._local[0]}:{self._local[1]} {state}>"
