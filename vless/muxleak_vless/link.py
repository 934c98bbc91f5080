"""One byte connection: receive, send, drain, close, and an end with a cause.

`Link` is an `asyncio.Protocol`, so it runs on every loop and transport (TCP, in-memory, simulated).
It knows nothing of frames.
"""

# `asyncio.StreamReader` and `StreamWriter` leave three waits without a limit, and each is a leak
# that a peer can cause. A link bounds all three:
#
#   closing              `close` and `finish` flush for the close limit at most; then the transport
#                        is aborted. `StreamWriter.wait_closed` may never return (cpython #83939).
#   peer does not read   `pause_writing` starts a timer, `resume_writing` stops it. At the write
#                        limit `on_stalled` is called, by default `end_stalled`.
#   no byte passes       A tick per idle limit looks for bytes since the last tick. Without any,
#                        `on_idle` is called, by default `end_idle`. So the end comes one to two
#                        limits after the last byte.
#
# States of a link. Once true, each stays true:
#
#   ended    nothing more will be received: FIN, reset, or our own `close`, `abort` or `finish`
#   closing  nothing more can be sent: the transport is closing or gone, or we are finishing
#   lost     the cause, if the connection broke or was aborted. `receive` raises it after the
#            buffered bytes, and `drain` chains it
#   gone     `connection_lost` has run: no transport, no timer; `wait_closed` returns
#
# Waits and wakers:
#
#   receive      data_received, and `_end` (FIN, reset, close, abort, finish)
#   drain        resume_writing, and every end of our direction
#   wait_closed  connection_lost; the close limit bounds it after `close`, `finish` or `abort`
#
# One future per wait, set by the transport's callbacks. A receive that is cancelled leaves no bytes
# behind: they stay in `_chunks` until a later call returns them.
#
# The end of the peer is announced twice. `receive` returns empty bytes once the buffer is taken,
# and `on_eof` is called at once, while no task may be in `receive`: a receive loop that waits for
# room in a stream must see the end of its connection (the pair `reader_blocked_by_stream`). The
# peer's end leaves our direction open (`eof_received`), so that buffered replies can be flushed.
#
# `close` and `finish` differ in the last bytes that the peer gets. A socket that is closed with
# bytes unread makes the kernel send a reset, which discards our bytes that the peer has not read
# yet. `finish` closes our direction only, drops the bytes that the peer still sends, and closes
# when the peer has ended, too.
#
# The one timer slot (`_timer`) holds the write limit or the close limit, never both: an end stops
# the first before it starts the second.

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from copy import copy
from typing import TYPE_CHECKING, cast

from muxleak_vless.errors import IdleTimeout, LinkLost, StreamClosed, WriteStalled
from muxleak_vless.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Callable

READ_LIMIT = 256 * 1024
"""Bytes received and not yet taken before reading from the transport pauses."""


class Link(asyncio.Protocol):
    """A connection's two directions and its end.

    Args:
        on_made: Called with the link once it is connected.
        limits: Limits of time; the defaults if None.

    Attributes:
        on_eof: Called at most once, when nothing more will be received: the peer has closed, the
            connection broke, or we ended it. Called even while no task is in `receive`.
        on_idle: Called in place of `end_idle`, if set.
        on_stalled: Called in place of `end_stalled`, if set.
        lost: Cause of a broken or aborted connection, else None.
        ended: True once nothing more will be received.
    """

    def __init__(
        self, on_made: Callable[[Link], None] | None = None, *, limits: Limits | None = None
    ) -> None:
        self.on_eof: Callable[[], None] | None = None
        self.on_idle: Callable[[], None] | None = None
        self.on_stalled: Callable[[], None] | None = None
        self.lost: Exception | None = None
        self.ended = False
        self._on_made = on_made
        self._limits = limits or Limits()
        self._transport: asyncio.Transport | None = None
        self._chunks: list[bytes] = []
        self._buffered = 0
        self._reading = True
        self._paused = False
        self._finishing = False
        self._receiver: asyncio.Future[None] | None = None
        self._drainers: dict[asyncio.Future[None], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._active = False
        self._closed: asyncio.Future[None] | None = None

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport, start the idle timer, and call ``on_made``."""
        self._transport = cast("asyncio.Transport", transport)
        self._closed = asyncio.get_running_loop().create_future()
        self._rearm_idle()
        if self._on_made is not None:
            self._on_made(self)
            self._on_made = None

    def data_received(self, data: bytes) -> None:
        """Buffer ``data`` and wake the receiver; pause the transport above the limit."""
        self._active = True
        if self._finishing:
            return
        self._chunks.append(data)
        self._buffered += len(data)
        if self._buffered > READ_LIMIT and self._reading and self._transport is not None:
            self._reading = False
            self._transport.pause_reading()
        self._wake_receiver()

    def eof_received(self) -> bool:
        """Record the peer's end; keep our direction open, so that replies can be flushed."""
        self._end()
        if self._finishing:
            self.close()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Record the end, wake all waiters, and drop the transport, which holds this link."""
        # A session that leaks keeps its link, so nothing that has ended stays here.
        if exc is not None and self.lost is None:
            self.lost = LinkLost(f"connection lost: {exc!r}")
        self._transport = None
        self._stop_timer()
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        self._end()
        self._wake_drainers()
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)
        self._closed = None

    def pause_writing(self) -> None:
        """Make writers wait, and start the write limit."""
        self._paused = True
        if self._timer is None:
            loop = asyncio.get_running_loop()
            seconds = self._limits.write_seconds
            self._timer = loop.call_later(seconds, self._stalled)

    def resume_writing(self) -> None:
        """Wake the writers, and stop the write limit."""
        self._paused = False
        if not self.closing:
            self._stop_timer()
        self._wake_drainers()

    # Called by tasks.

    @property
    def closing(self) -> bool:
        """True once our direction has ended and nothing more can be sent."""
        return self._transport is None or self._transport.is_closing() or self._finishing

    @property
    def backlog(self) -> int:
        """Bytes handed to `send` that the peer has not taken yet."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    @property
    def paused(self) -> bool:
        """True while senders wait for the peer to read."""
        return self._paused and not self.closing

    @property
    def transport(self) -> asyncio.Transport | None:
        """The transport, None before it is made and after it is lost."""
        return self._transport

    async def receive(self) -> bytes:
        """Return the next bytes; empty once either side has closed.

        Raises:
            LinkLost: If the connection broke.
            Cause: The cause of an abort, for instance `WriteStalled`.
        """
        while not self._chunks:
            if self.lost is not None:
                # A copy: a kept exception would grow a traceback per call, and close a cycle.
                raise copy(self.lost)
            if self.ended:
                return b""
            receiver = self._receiver = asyncio.get_running_loop().create_future()
            try:
                await receiver
            finally:
                # Another call may have taken its place while this one was being cancelled.
                if self._receiver is receiver:
                    self._receiver = None
        chunks, self._chunks = self._chunks, []
        self._buffered = 0
        if not self._reading:
            self._reading = True
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def send(self, data: bytes) -> None:
        """Queue ``data``; it is dropped once our direction has ended. Call `drain` before it."""
        if self._transport is not None and not self.closing:
            self._active = True
            self._transport.write(data)

    async def drain(self) -> None:
        """Wait until the peer has taken enough for more to be sent.

        Raises:
            StreamClosed: If the connection has ended; its cause is chained.
        """
        while self._paused and not self.closing:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            drainers = self._drainers = self._drainers or {}
            drainers[waiter] = None
            try:
                await waiter
            finally:
                drainers.pop(waiter, None)
        if self.closing:
            raise StreamClosed("the connection has ended") from self.lost

    def send_eof(self) -> None:
        """Close our direction only (TCP half-close)."""
        if self._transport is not None and not self.closing:
            # Fails if the peer has reset the connection meanwhile; `connection_lost` reports it.
            with suppress(OSError):
                self._transport.write_eof()

    def finish(self) -> None:
        """Flush and end our direction; close once the peer has ended, too, or at the close limit.

        Bytes that the peer still sends are dropped. `close` would make the kernel reset a peer that
        is still sending, which discards the bytes that the peer has not read yet.
        """
        if self._transport is None or self.closing:
            return
        if self.ended:
            self.close()
            return
        self.send_eof()
        self._finishing = True
        self._chunks.clear()
        if not self._reading:
            self._transport.resume_reading()
        self._linger()
        self._end()
        self._wake_drainers()

    def close(self) -> None:
        """Flush and close; bytes that the peer does not take within the close limit are dropped."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self._stop_timer()
        if transport.get_write_buffer_size():
            self._linger()
        transport.close()
        self._end()
        self._wake_drainers()

    def abort(self, cause: Exception | None = None) -> None:
        """Reset the connection and drop unsent bytes; `receive` then raises ``cause``."""
        if self._transport is not None:
            self.lost = self.lost or cause
            self._stop_timer()
            _do_not_linger(self._transport)
            self._transport.abort()
            self._end()
            self._wake_drainers()

    def end_idle(self) -> None:
        """Reset a connection on which no byte has passed for the idle limit."""
        self.abort(IdleTimeout(f"no byte for {self._limits.idle_seconds:g} s"))

    def end_stalled(self) -> None:
        """Reset a connection whose peer has not read for the write limit."""
        self.abort(WriteStalled(f"the peer has not read for {self._limits.write_seconds:g} s"))

    async def wait_closed(self) -> None:
        """Wait until the transport is gone. Call `close` or `abort` first: they bound the wait."""
        if self._closed is not None and not self._closed.done():
            await asyncio.shield(self._closed)

    def _linger(self) -> None:
        self._stop_timer()
        if self._transport is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._limits.close_seconds, self._transport.abort)

    def _stalled(self) -> None:
        (self.on_stalled or self.end_stalled)()

    def _rearm_idle(self) -> None:
        # A tick, not a deadline: a byte sets a flag, and no timer is rescheduled for it.
        self._active = False
        loop = asyncio.get_running_loop()
        self._idle = loop.call_later(self._limits.idle_seconds, self._idle_tick)

    def _idle_tick(self) -> None:
        if self._active:
            self._rearm_idle()
        else:
            (self.on_idle or self.end_idle)()

    def _end(self) -> None:
        self._wake_receiver()
        if not self.ended:
            self.ended = True
            if self.on_eof is not None:
                self.on_eof()
            self.on_eof = None

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake_receiver(self) -> None:
        if self._receiver is not None and not self._receiver.done():
            self._receiver.set_result(None)

    def _wake_drainers(self) -> None:
        for waiter in self._drainers or ():
            if not waiter.done():
                waiter.set_result(None)


def _do_not_linger(transport: asyncio.Transport) -> None:
    # Otherwise the kernel goes on sending its buffer after an abort, for minutes, and the peer sees
    # an orderly end in place of a reset.
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
