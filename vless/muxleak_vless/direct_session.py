"""A whole VLESS connection as one stream: the commands TCP and UDP.

Handlers get the same `Stream` as from a mux session, so one outbound serves all three commands.
"""

# The rules of a mux session hold here, too, with less to hold: there is one stream and no table.
#
# - The receive loop feeds the stream and waits for room, up to the stall limit. The peer's end
#   lifts that wait (`on_eof`), so a handler that does not read cannot hide it.
# - Whichever of handler, connection and context ends first, `run` ends handler and connection
#   before it returns, and repeats the cancellation of a handler that swallows the first one.
# - The peer's end is passed to the handler as the end of its input, and the handler may go on
#   writing: TCP and UDP streams have a half-close, unlike a mux connection.
# - A failed stream is a reset, since TCP has no other way to report an error.

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from muxleak_vless.address import NetworkType
from muxleak_vless.errors import Cause, LinkLost, ProtocolError, StreamClosed, StreamStalled
from muxleak_vless.header import Response, encode_response
from muxleak_vless.packets import PacketDecoder, encode_packet
from muxleak_vless.stream import Stream, cancel_task

if TYPE_CHECKING:
    from muxleak_vless.address import Address
    from muxleak_vless.context import Context
    from muxleak_vless.limits import Limits
    from muxleak_vless.link import Link
    from muxleak_vless.stream import Handler

log = logging.getLogger("muxleak_vless")

PIECE = 64 * 1024
"""Bytes sent at once, so that the bytes that the peer has not taken stay bounded."""


class DirectSession:
    """One connection that is one stream: carries bytes as they are and packets with their length.

    Args:
        link: The connection, after its request header.
        network: TCP or UDP, after the command.
        target: Target of the request header.
        limits: Limits of time and size.
    """

    def __init__(
        self, link: Link, network: NetworkType, target: Address, *, limits: Limits
    ) -> None:
        self.link = link
        self.limits = limits
        self.stream = Stream(self, 0, network, target, inbox=limits.inbox_bytes)
        self._prefix = encode_response(Response())

    async def run(self, received: bytes, handler: Handler, context: Context) -> None:
        """Serve until handler, connection or context has ended; then end handler and connection.

        Args:
            received: Bytes that came in one segment with the request header.
            handler: Serves the stream, in a task of its own.
            context: Its end closes the connection.
        """
        serving = asyncio.get_running_loop().create_task(self._serve(handler, context))
        undo = context.on_cancel(lambda _cause: self.link.close())
        self.link.on_eof = self.stream.stop_waiting
        if self.link.ended:
            self.stream.stop_waiting()
        try:
            await self._receive(received)
            await self.link.wait_closed()
        finally:
            undo()
            self.link.on_eof = None
            self.stream.fail(context.cause or LinkLost("the connection has ended"))
            await self._end(serving)

    async def write(self, stream: Stream, data: bytes, address: Address | None) -> None:
        """Send bytes, or one packet, whose address is always the header's.

        Raises:
            StreamClosed: If the connection has ended.
        """
        del address
        payload = encode_packet(data) if stream.network is NetworkType.UDP else data
        for start in range(0, len(payload), PIECE):
            await self.link.drain()
            self.link.send(self._prefix + payload[start : start + PIECE])
            self._prefix = b""

    def close_stream(self, stream: Stream, *, error: bool) -> None:
        """Close the connection; reset it if the stream failed."""
        stream.fail(StreamClosed("closed by its handler"))
        if error:
            self.link.abort()
        else:
            self.link.finish()

    async def _serve(self, handler: Handler, context: Context) -> None:
        error = False
        try:
            await handler(self.stream, context)
        except StreamClosed as exc:
            log.debug("%r: %s", self.stream, exc)
        except Exception as exc:  # noqa: BLE001 - a handler is anybody's code; its error is logged
            log.info("%r: %s: %s", self.stream, type(exc).__name__, exc)
            error = True
        finally:
            self.close_stream(self.stream, error=error)

    async def _receive(self, data: bytes) -> None:
        packets = PacketDecoder() if self.stream.network is NetworkType.UDP else None
        try:
            while True:
                self._feed(packets, data)
                if not await self.stream.room(self.limits.stall_seconds):
                    cause = StreamStalled(f"{self.stream!r} does not read")
                    self.stream.fail(cause)
                    self.link.abort(cause)
                    return
                data = await self.link.receive()
                if not data:
                    if packets is not None:
                        packets.receive_eof()
                    self.stream.feed_eof()
                    return
        except (ProtocolError, Cause) as exc:
            self.stream.fail(exc.with_traceback(None))
            self.link.close()

    async def _end(self, serving: asyncio.Task[None]) -> None:
        stream = self.stream
        # Twice: a handler may catch its first cancellation to end in good order.
        try:
            for _ in range(2):
                cancel_task(serving, stream)
                await asyncio.wait([serving], timeout=self.limits.close_seconds)
                if serving.done():
                    return
        finally:
            if not serving.done():
                log.warning("%r: its handler ignored its cancellation and is abandoned", stream)

    def _feed(self, packets: PacketDecoder | None, data: bytes) -> None:
        if packets is None:
            self.stream.feed(data)
            return
        packets.receive_data(data)
        while (packet := packets.next_packet()) is not None:
            self.stream.feed(packet)
