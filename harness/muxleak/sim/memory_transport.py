"""Two asyncio transports joined in memory, which behave like a TCP connection over loopback."""

# The rule: an action of one end reaches the other end in a later iteration of the loop, in order,
# by one callback for everything that has gathered, and each end's callbacks run in that end's
# context. The transcript of protocol callbacks is that of asyncio's socket transports; a test runs
# the same scripts on both and compares.
#
# There is one buffer for each direction, not two. Bytes that the receiver has not taken stand in
# the receiver's inbox, and count as the sender's write buffer: the kernel's buffers are left out.
# So flow control begins at the high-water mark exactly, and a program's behaviour at a full buffer
# is seen after 64 KiB instead of after megabytes.
#
# How a connection ends, in the order in which `_deliver` looks:
#
#   inbox not empty     its bytes are delivered first, whatever follows
#   `_reset`            the peer aborted, or closed with unread data: connection_lost(reset)
#   `_eof_seen`         the peer closed its direction: eof_received, then close unless that is true
#
# `close` ends the connection at once if the peer reads: the bytes under way reach it all the same,
# as a kernel delivers the bytes of a closed socket. If the peer is paused, or more than the
# high-water mark waits for it, the connection ends when `_taken` reports the last byte.

# The two ends are one thing and see each other's state:
# ruff: noqa: SLF001

from __future__ import annotations

import asyncio
import errno
import os
import sys
from collections import deque
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from muxleak.sim.interfaces import Scheduler

Address = tuple[str, int]
Registry = dict[asyncio.BaseTransport, str]

CLIENT = ("127.0.0.1", 50000)
SERVER = ("127.0.0.1", 443)
HIGH_WATER = 64 * 1024


_NEW_WORDS = sys.version_info >= (3, 14)
_BYTES = "a bytes, bytearray, or memoryview object" if _NEW_WORDS else "a bytes-like object"
_CHUNK = 256 * 1024  # what asyncio's socket transports read at once


class Wire(asyncio.Transport):
    """The inbox of one end, and its endings; `MemoryTransport` adds the methods of a transport.

    The inbox holds the bytes that the other end has written and this end has not taken: the other
    end's write buffer. End-of-file or a reset is delivered when the inbox is empty.
    """

    _protocol: Any
    _registry: dict[Any, str] | None = None
    _peer: Wire | None = None
    _high = _low = 0
    _size = 0  # bytes in the inbox
    _buffered = False  # the protocol is a BufferedProtocol
    _scheduled = False  # a delivery is on its way
    _eof_seen = _reset = False  # what follows the inbox
    _deaf = False  # after end-of-file nothing is read, so nothing is noticed
    _paused = False  # our protocol does not read
    _stalled = False  # nothing is delivered for now; for a subclass
    _throttled = False  # our protocol was told not to write, and not yet that it may again
    _resuming = False  # it will be told so in the next iteration
    _eof_sent = _closing = _aborted = False
    _called = ""  # the method of the protocol that was called last
    _gone = False  # a write went to an end that had closed
    _lost = False  # connection_lost is called or on its way

    def __init__(
        self,
        loop: Scheduler,
        extra: dict[str, Any],
        context: Context | None,
        registry: dict[Any, str] | None,
    ) -> None:
        super().__init__(extra)
        self._loop = loop
        self._context = copy_context() if context is None else context
        self._inbox: deque[bytes | memoryview] = deque()
        if registry is not None:
            self._registry = registry

    def _write_to_nobody(self) -> None:
        # The first write draws the answer "no such connection"; only the next one meets it.
        if self._reset:
            self._lose(_error(ConnectionResetError, errno.ECONNRESET))
        elif self._gone:
            self._lose(_error(BrokenPipeError, errno.EPIPE))
        self._gone = True

    def _throttle(self) -> None:
        if self._throttled or self.get_write_buffer_size() <= self._high:
            return
        self._throttled = True
        try:
            self._protocol.pause_writing()
        except Exception as exc:  # noqa: BLE001 - as asyncio does
            self._complain(exc, "protocol.pause_writing() failed")

    def _expect(self) -> None:
        """Schedule a delivery of the inbox, or of the ending behind it, for the next iteration."""
        if not (self._scheduled or self._paused or self._closing or self._deaf):
            self._scheduled = True
            self._loop.call_soon(self._deliver, context=self._context)

    def _deliver(self) -> None:
        self._scheduled = False
        if self._paused or self._closing or self._stalled:
            return
        try:
            if self._inbox:
                self._take()
            else:
                self._hand_over_end()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:  # noqa: BLE001 - as asyncio does, for CancelledError too
            if not isinstance(exc, OSError):
                called = self._called
                self._complain(exc, f"Fatal error: protocol.{called}() call failed.")
            if not self._lost:
                self._lose(exc)
        if self._inbox or self._reset or self._eof_seen:
            self._expect()

    def _hand_over_end(self) -> None:
        if self._reset:
            self._lose(_error(ConnectionResetError, errno.ECONNRESET))
        elif self._eof_seen:
            self._deaf = True
            self._called = "eof_received"
            if not self._protocol.eof_received():
                self.close()

    def _take(self) -> None:
        protocol = self._protocol
        if not self._buffered:
            self._called = "data_received"
            protocol.data_received(self._pull(_CHUNK))
            return
        self._called = "get_buffer"
        buffer = protocol.get_buffer(-1)
        if not len(buffer):
            raise RuntimeError("get_buffer() returned an empty buffer")
        data = self._pull(len(buffer))
        buffer[: len(data)] = data
        self._called = "buffer_updated"
        protocol.buffer_updated(len(data))

    def _pull(self, limit: int) -> bytes:
        """Take at most `limit` bytes out of the inbox."""
        inbox, parts = self._inbox, []
        if len(inbox) == 1 and self._size <= limit:
            whole, self._size = inbox.pop(), 0
            if self._peer is not None:
                self._peer._taken(0)
            return whole if isinstance(whole, bytes) else bytes(whole)
        left = limit
        while inbox and left:
            part = inbox.popleft()
            if len(part) > left:
                inbox.appendleft(memoryview(part)[left:])
                part = memoryview(part)[:left]
            parts.append(part)
            left -= len(part)
        self._size -= limit - left
        if self._peer is not None:
            self._peer._taken(self._size)
        return parts[0] if len(parts) == 1 and isinstance(parts[0], bytes) else b"".join(parts)

    def _taken(self, left: int) -> None:
        """Note that the other end took bytes: `left` remain in this end's write buffer."""
        if self._throttled and not self._resuming and left <= self._low and not self._lost:
            self._resuming = True
            self._loop.call_soon(self._resume_writing, context=self._writing_context())
        if self._closing and not left and not self._lost:
            self._lose(None, self._writing_context())

    def _resume_writing(self) -> None:
        """Tell our protocol that it may write; a write since then may fill the buffer again."""
        self._resuming = self._throttled = False
        if self._protocol is not None:
            self._protocol.resume_writing()
            self._throttle()

    def _writing_context(self) -> Context:
        """Return the context of callbacks that follow from the buffer's state."""
        return self._context

    def _lose(self, exc: BaseException | None, context: Context | None = None) -> None:
        """End, and call `connection_lost` in the next iteration.

        Args:
            exc: the argument of `connection_lost`.
            context: its context where this end only notices an act of the other; None where its
                own program, or its own callback, ends it.
        """
        self._lost = self._closing = True
        peer = self._peer
        if peer is not None and (self._aborted or (exc is not None and peer._paused)):
            peer._inbox.clear()
            peer._size = 0
        # Not "or": a context in which no variable was set is empty, and therefore false.
        context = self._context if context is None else context
        self._loop.call_soon(self._call_connection_lost, exc, context=context)

    def _call_connection_lost(self, exc: BaseException | None) -> None:
        try:
            self._protocol.connection_lost(exc)
        finally:
            peer, unread = self._peer, bool(self._inbox)
            self._peer = self._protocol = None
            self._inbox.clear()
            self._size = 0
            if self._registry is not None:
                self._registry.pop(self, None)
            if peer is not None:
                peer._peer_lost(reset=self._aborted or unread)

    def _peer_lost(self, *, reset: bool) -> None:
        self._peer = None
        if self._lost:
            return
        if not reset:
            self._eof_seen = True
            self._expect()
            return
        self._reset = True
        if self._closing or self._throttled:
            # An end with bytes to write notices a reset at once, whether it reads or not.
            self._lose(_error(ConnectionResetError, errno.ECONNRESET), self._writing_context())
        else:
            self._expect()

    def _complain(self, exc: BaseException, message: str) -> None:
        self._loop.call_exception_handler(
            {"message": message, "exception": exc, "transport": self, "protocol": self._protocol}
        )


def _error(kind: type[OSError], number: int) -> OSError:
    return kind(number, os.strerror(number))


def water_marks(high: int | None, low: int | None) -> tuple[int, int]:
    """Return the high and the low mark, in bytes, for the arguments of `set_write_buffer_limits`.

    Raises:
        ValueError: they are in the wrong order, or negative.
    """
    if high is None:
        high = HIGH_WATER if low is None else 4 * low
    low = high // 4 if low is None else low
    if not high >= low >= 0:
        raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
    return high, low


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
) -> tuple[MemoryTransport, MemoryTransport]:
    """Join two protocols over `loop`; `connection_made` of each follows by `call_soon`.

    Args:
        loop: any asyncio event loop.
        client_protocol: a `Protocol` or `BufferedProtocol`.
        server_protocol: a `Protocol` or `BufferedProtocol` for the other end.
        peername: the client's address, as the server sees it.
        sockname: the server's address.
        high_water: bytes in a write buffer above which its protocol is told to pause writing.
        client_context: the context of the client's callbacks; by default a copy of the current one.
        server_context: the context of the server's callbacks; the same default.
        registry: a dictionary that holds each transport, with "client" or "server", until its
            `connection_lost`.

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
        self, peer: MemoryTransport, side: str, protocol: asyncio.BaseProtocol, high: int
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
        host, port = self.get_extra_info("peername")[:2]
        return f"<MemoryTransport {self._side} to {host}:{port} {state}>"

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Give the callbacks from now on to `protocol`."""
        self._protocol = protocol
        self._buffered = isinstance(protocol, asyncio.BufferedProtocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the present protocol; None after `connection_lost`, as with sockets."""
        return self._protocol  # type: ignore[no-any-return]

    def is_closing(self) -> bool:
        """Return True if the transport is closing or closed."""
        return self._closing

    def is_reading(self) -> bool:
        """Return True if arriving data goes to the protocol."""
        return not self._closing and not self._paused

    def pause_reading(self) -> None:
        """Stop reading: leave arriving data in the other end's write buffer."""
        self._paused = self._paused or not self._closing

    def resume_reading(self) -> None:
        """Read again."""
        if self._paused and not self._closing:
            self._paused = False
            self._expect()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the marks, in bytes, as `asyncio.WriteTransport` documents."""
        self._high, self._low = water_marks(high, low)
        self._throttle()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the low and the high mark, in bytes."""
        return self._low, self._high

    def get_write_buffer_size(self) -> int:
        """Return the number of bytes written here that the other end has not taken."""
        return self._peer._size if self._peer is not None else 0

    def can_write_eof(self) -> bool:
        """Return True: each direction closes on its own."""
        return True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data`; dropped once the connection is lost.

        The second write to an end that has closed loses the connection with `BrokenPipeError`.
        """
        if not isinstance(data, bytes):
            if not isinstance(data, bytearray | memoryview):
                raise TypeError(f"data argument must be {_BYTES}, not {type(data).__name__!r}")
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
        """Close the sending direction once the peer has taken all bytes."""
        if self._closing or self._eof_sent:
            return
        self._eof_sent = True
        if self._peer is not None:
            self._peer._eof_seen = True
            self._peer._expect()

    def close(self) -> None:
        """Close once the peer has taken all bytes; `connection_lost(None)` follows."""
        if self._closing:
            return
        self._closing = True
        # A peer that reads takes the bytes under way by itself, as a kernel would deliver them.
        peer = self._peer
        if peer is None or not peer._size or not (peer._paused or peer._size > self._high):
            self._lose(None)

    def abort(self) -> None:
        """Drop the bytes under way and reset the connection; `connection_lost(None)` follows."""
        if not self._lost:
            self._aborted = True
            self._lose(None)
