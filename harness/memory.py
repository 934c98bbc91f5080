"""Two asyncio transports joined in memory, with the manners of a loopback TCP connection.

The rule: what one end does reaches the other end in a later iteration of the loop, in order, by one
callback for whatever has gathered, and each end's callbacks run in that end's context. Bytes that
the receiver has not taken stay in the sender's buffer. The transcript of protocol callbacks is that
of asyncio's socket transports; a test runs both.
"""

# The two ends are one thing and see each other's state:
# ruff: noqa: SLF001

import asyncio
from contextvars import Context

from harness.wire import Wire

Address = tuple[str, int]
Registry = dict[asyncio.BaseTransport, str]

CLIENT = ("127.0.0.1", 50000)
SERVER = ("127.0.0.1", 443)
HIGH_WATER = 64 * 1024


def memory_pair(
    loop: asyncio.AbstractEventLoop,
    client_protocol: asyncio.BaseProtocol,
    server_protocol: asyncio.BaseProtocol,
    *,
    peername: Address = CLIENT,
    sockname: Address = SERVER,
    high_water: int = HIGH_WATER,
    client_context: Context | None = None,
    server_context: Context | None = None,
    registry: Registry | None = None,
) -> tuple["MemoryTransport", "MemoryTransport"]:
    """Join two protocols over `loop`; `connection_made` of each follows by `call_soon`.

    Args:
        loop: any asyncio loop.
        client_protocol: a `Protocol` or `BufferedProtocol`.
        server_protocol: the same for the other end.
        peername: the client's address, as the server sees it.
        sockname: the server's address.
        high_water: bytes in a write buffer above which its protocol is told to pause writing.
        client_context: where the client's callbacks run; by default a copy of the current context.
        server_context: the same for the server's.
        registry: holds each transport, as "client" or "server", until its `connection_lost`.

    Returns:
        The client's transport and the server's.
    """
    client = MemoryTransport(
        loop, {"sockname": peername, "peername": sockname}, client_context, registry
    )
    server = MemoryTransport(
        loop, {"sockname": sockname, "peername": peername}, server_context, registry
    )
    client.join(server, "client", client_protocol, high_water)
    server.join(client, "server", server_protocol, high_water)
    return client, server


class MemoryTransport(Wire):
    """One end of a connection in memory; made in twos by `memory_pair`.

    `abort` resets: the other end loses the connection with `ConnectionResetError`, as on TCP with
    unread data or without lingering. Closing with unread data resets too.
    """

    def join(
        self, peer: "MemoryTransport", side: str, protocol: asyncio.BaseProtocol, high: int
    ) -> None:
        """Connect to the other end and announce the connection to `protocol`."""
        self._peer, self._side = peer, side
        self.set_protocol(protocol)
        self._high, self._low = high, high // 4
        if self._registry is not None:
            self._registry[self] = side
        self._loop.call_soon(protocol.connection_made, self, context=self._context)

    def __repr__(self) -> str:
        state = "closed" if self._lost else "closing" if self._closing else "open"
        host, port = self.get_extra_info("peername")
        return f"<MemoryTransport {self._side} to {host}:{port} {state}>"

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Give the callbacks from now on to `protocol`."""
        self._protocol = protocol
        self._buffered = isinstance(protocol, asyncio.BufferedProtocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The present protocol; None after `connection_lost`, as with sockets."""
        return self._protocol  # type: ignore[no-any-return]

    def is_closing(self) -> bool:
        """Whether the transport is closing or closed."""
        return self._closing

    def is_reading(self) -> bool:
        """Whether arriving data goes to the protocol."""
        return not self._closing and not self._paused

    def pause_reading(self) -> None:
        """Leave arriving data in the other end's write buffer: a stalled reader."""
        self._paused = self._paused or not self._closing

    def resume_reading(self) -> None:
        """Take data again."""
        if self._paused and not self._closing:
            self._paused = False
            self._expect()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the marks, in bytes, as `asyncio.WriteTransport` documents."""
        if high is None:
            high = HIGH_WATER if low is None else 4 * low
        low = high // 4 if low is None else low
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._high, self._low = high, low
        self._throttle()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """The low and the high mark, in bytes."""
        return self._low, self._high

    def get_write_buffer_size(self) -> int:
        """Bytes written here that the other end has not taken."""
        return self._peer._size if self._peer is not None else 0

    def can_write_eof(self) -> bool:
        """Always: each direction closes on its own."""
        return True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data`; dropped once the connection is lost.

        The second write to an end that has closed loses the connection with `BrokenPipeError`.
        """
        if not isinstance(data, bytes):
            if not isinstance(data, bytearray | memoryview):
                raise TypeError(f"data must be bytes-like, not {type(data).__name__!r}")
            data = bytes(data)
        if self._eof_sent:
            raise RuntimeError("Cannot call write() after write_eof()")
        peer = self._peer
        if not data or self._lost:
            return
        if peer is None:
            self._write_to_nobody()
            return
        peer._inbox.append(data)
        peer._size += len(data)
        if not peer._scheduled:
            peer._expect()
        if peer._size > self._high:
            self._throttle()

    def write_eof(self) -> None:
        """Close the sending direction once what is written has been taken."""
        if self._closing or self._eof_sent:
            return
        self._eof_sent = True
        if self._peer is not None:
            self._peer._eof_seen = True
            self._peer._expect()

    def close(self) -> None:
        """Close once what is written has been taken; `connection_lost(None)` follows."""
        if self._closing:
            return
        self._closing = True
        # A reading peer takes what is under way without our help, as a kernel would carry it.
        peer = self._peer
        if peer is None or not peer._size or not (peer._paused or peer._size > self._high):
            self._lose(None)

    def abort(self) -> None:
        """Drop what is written and reset the connection; `connection_lost(None)` follows."""
        if not self._lost:
            self._aborted = True
            self._lose(None)
