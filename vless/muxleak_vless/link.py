"""One byte connection as tasks see it: receive, send, drain, close, and an end with a cause.

An `asyncio.Protocol`, so it runs on every loop and transport (TCP, in-memory, simulated). Knows
nothing of frames. Three promises that `asyncio.StreamWriter` does not make: closing has a time
limit, and so have a peer that does not read and a connection without a byte.
"""

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

    ``on_made`` is called once the connection stands. ``on_eof`` is called at most once, when the
    peer has closed or the connection broke, even while nobody is in `receive`. ``on_idle`` and
    ``on_stalled`` are called, where they are set, in place of `end_idle` and `end_stalled`.
    """

    def __init__(
        self, on_made: Callable[[Link], None] | None = None, *, limits: Limits | None = None
    ) -> None:
        self.on_eof: Callable[[], None] | None = None
        self.on_idle: Callable[[], None] | None = None
        self.on_stalled: Callable[[], None] | None = None
        self.lost: Exception | None = None
        self.ended = False
        """Whether nothing more will be received."""
        self._on_made = on_made
        self._limits = limits or Limits()
        self._transport: asyncio.Transport | None = None
        self._chunks: list[bytes] = []
        self._buffered = 0
        self._reading = True
        self._paused = False
        self._finishing = False
        self._receiver: asyncio.Future[None] | None = None
        self._drainers: dict[asyncio.Future[None], None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._active = False
        self._closed: asyncio.Future[None] | None = None

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport and report that the connection stands."""
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
        """Note the peer's end; keep our direction open, so that replies can be flushed."""
        self._end()
        if self._finishing:
            self.close()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Record the end, wake everybody, and cut the cycle with the transport."""
        if exc is not None and self.lost is None:
            self.lost = LinkLost(f"connection lost: {exc!r}")
        self._transport = None
        self._stop_timer()
        if self._idle is not None:
            self._idle.cancel()
        self._end()
        self._wake_drainers()
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)

    def pause_writing(self) -> None:
        """Make writers wait, for as long as the write limit allows."""
        self._paused = True
        if self._timer is None:
            loop = asyncio.get_running_loop()
            seconds = self._limits.write_seconds
            self._timer = loop.call_later(seconds, self._stalled)

    def resume_writing(self) -> None:
        """Let writers go on."""
        self._paused = False
        if not self.closing:
            self._stop_timer()
        self._wake_drainers()

    # Called by tasks.

    @property
    def closing(self) -> bool:
        """Whether our side has ended: nothing can be sent any more."""
        return self._transport is None or self._transport.is_closing() or self._finishing

    @property
    def backlog(self) -> int:
        """Bytes handed to `send` that the peer has not taken yet."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    @property
    def paused(self) -> bool:
        """Whether senders wait for the peer to read."""
        return self._paused and not self.closing

    @property
    def transport(self) -> asyncio.Transport | None:
        """The transport, None before it is made and after it is lost."""
        return self._transport

    async def receive(self) -> bytes:
        """Return the next bytes, empty once the peer or we have closed.

        Raises:
            LinkLost: if the connection broke; `WriteStalled` if we gave the peer up.
        """
        while not self._chunks:
            if self.lost is not None:
                # A copy: the traceback of a kept one would close a cycle, and grow.
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
        """Queue ``data``; dropped when the connection has ended. Call `drain` before, not after."""
        if self._transport is not None and not self.closing:
            self._active = True
            self._transport.write(data)

    async def drain(self) -> None:
        """Wait until the peer has taken enough for more to be sent.

        Raises:
            StreamClosed: if the connection has ended; its cause is chained.
        """
        while self._paused and not self.closing:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._drainers[waiter] = None
            try:
                await waiter
            finally:
                self._drainers.pop(waiter, None)
        if self.closing:
            raise StreamClosed("the connection has ended") from self.lost

    def send_eof(self) -> None:
        """Close our direction only (TCP half-close)."""
        if self._transport is not None and not self.closing:
            # It fails if the peer has reset the connection meanwhile; the reading will tell.
            with suppress(OSError):
                self._transport.write_eof()

    def finish(self) -> None:
        """Flush and end our direction; close once the peer has ended, too, or at the close limit.

        `close` would make the kernel reset a peer that is still sending, and so take from it what
        it has not read yet. What the peer still sends is dropped.
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
        """Flush and close; what the peer does not take within the close limit is dropped."""
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
        """Reset the connection and drop what was not sent; `receive` then raises ``cause``."""
        if self._transport is not None:
            self.lost = self.lost or cause
            self._stop_timer()
            _do_not_linger(self._transport)
            self._transport.abort()
            self._end()
            self._wake_drainers()

    def end_idle(self) -> None:
        """Give up a connection without a byte."""
        self.abort(IdleTimeout(f"no byte for {self._limits.idle_seconds:g} s"))

    def end_stalled(self) -> None:
        """Give up a peer that does not read."""
        self.abort(WriteStalled(f"the peer has not read for {self._limits.write_seconds:g} s"))

    async def wait_closed(self) -> None:
        """Wait until the transport is gone. Call `close` or `abort` first, which bound the wait."""
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
        # A tick instead of a deadline: nothing is rescheduled for a byte, so a byte costs nothing.
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
        for waiter in self._drainers:
            if not waiter.done():
                waiter.set_result(None)


def _do_not_linger(transport: asyncio.Transport) -> None:
    # Else the kernel goes on sending what it has, for minutes, and then says that all is well.
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
