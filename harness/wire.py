"""The mechanics of one end of a connection in memory: what arrives, when, and how it ends."""

# The two ends are one thing and see each other's state:
# ruff: noqa: SLF001

import asyncio
import errno
import os
from collections import deque
from contextvars import Context, copy_context
from typing import Any

_CHUNK = 256 * 1024  # what asyncio's socket transports read at once


class Wire(asyncio.Transport):
    """One end's inbox and its endings; `MemoryTransport` adds what the protocol calls.

    The inbox holds what the other end has written and this end has not taken: the other end's write
    buffer. What follows it, end-of-file or a reset, is delivered when it is empty.
    """

    _protocol: Any
    _registry: dict[Any, str] | None = None
    _peer: "Wire | None" = None
    _high = _low = 0
    _size = 0  # bytes in the inbox
    _buffered = False  # the protocol is a BufferedProtocol
    _scheduled = False  # a delivery is on its way
    _eof_seen = _reset = False  # what follows the inbox
    _deaf = False  # after end-of-file nothing is read, so nothing is noticed
    _paused = False  # our protocol does not read
    _throttled = False  # our protocol was told not to write
    _eof_sent = _closing = _aborted = False
    _gone = False  # a write went to an end that had closed
    _lost = False  # connection_lost is called or on its way

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
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
        """Have the inbox, or what follows it, delivered in the next iteration."""
        if not (self._scheduled or self._paused or self._closing or self._deaf):
            self._scheduled = True
            self._loop.call_soon(self._deliver, context=self._context)

    def _deliver(self) -> None:
        self._scheduled = False
        if self._paused or self._closing:
            return
        try:
            self._hand_over()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:  # noqa: BLE001 - as asyncio does, for CancelledError too
            if not isinstance(exc, OSError):
                self._complain(exc, "Fatal error: a protocol callback failed")
            if not self._lost:
                self._lose(exc)
        if self._inbox or self._reset or self._eof_seen:
            self._expect()

    def _hand_over(self) -> None:
        if self._inbox:
            self._take()
        elif self._reset:
            self._lose(_error(ConnectionResetError, errno.ECONNRESET))
        elif self._eof_seen:
            self._deaf = True
            if not self._protocol.eof_received():
                self.close()

    def _take(self) -> None:
        protocol = self._protocol
        if not self._buffered:
            protocol.data_received(self._pull(_CHUNK))
            return
        buffer = protocol.get_buffer(-1)
        if not len(buffer):
            raise RuntimeError("get_buffer() returned an empty buffer")
        data = self._pull(len(buffer))
        buffer[: len(data)] = data
        protocol.buffer_updated(len(data))

    def _pull(self, limit: int) -> bytes:
        """At most `limit` bytes out of the inbox."""
        inbox, parts = self._inbox, []
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
        """The other end took bytes, so that `left` remain in this end's write buffer."""
        if self._throttled and left <= self._low and not self._lost:
            self._throttled = False
            self._loop.call_soon(self._protocol.resume_writing, context=self._context)
        if self._closing and not left and not self._lost:
            self._lose(None)

    def _lose(self, exc: BaseException | None) -> None:
        self._lost = self._closing = True
        peer = self._peer
        if peer is not None and (self._aborted or (exc is not None and peer._paused)):
            peer._inbox.clear()
            peer._size = 0
        self._loop.call_soon(self._call_connection_lost, exc, context=self._context)

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
            # Whoever has bytes to write notices at once, reading or not.
            self._lose(_error(ConnectionResetError, errno.ECONNRESET))
        else:
            self._expect()

    def _complain(self, exc: BaseException, message: str) -> None:
        self._loop.call_exception_handler(
            {"message": message, "exception": exc, "transport": self, "protocol": self._protocol}
        )


def _error(kind: type[OSError], number: int) -> OSError:
    return kind(number, os.strerror(number))
