"""A VLESS client: one connection with the command TCP, UDP or Mux.

It follows the protocol through `Stream`s, and can violate it through `send` and `send_frame`: they
check nothing, so a test can send any frame in any state, and any bytes.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from muxleak_vless.address import Address, NetworkType
from muxleak_vless.context import Context
from muxleak_vless.errors import (
    Cause,
    FrameError,
    LinkLost,
    PeerClosed,
    ProtocolError,
    StreamClosed,
    StreamReplaced,
    StreamReset,
)
from muxleak_vless.frames import Frame, FrameDecoder, FrameStatus, data_frames, encode_frame
from muxleak_vless.header import Command, Request, ResponseDecoder, encode_request
from muxleak_vless.limits import Limits
from muxleak_vless.link import Link
from muxleak_vless.packets import PacketDecoder, encode_packet
from muxleak_vless.stream import Stream

if TYPE_CHECKING:
    from types import TracebackType
    from uuid import UUID

MAX_ID = 0xFFFF


class Client:
    """One connection to a server; use as an async context manager, or `close` it.

    Args:
        link: The connection, connected.
        command: Command of the request header.
        limits: Limits of time and size.
        record: Keep all received frames.

    Attributes:
        frames: All received mux frames if ``record`` is set, else None.
        streams: Open streams by id; id 0 for the one stream of the commands TCP and UDP.
        cause: None until the server's direction has ended, then the cause.
    """

    def __init__(self, link: Link, command: Command, *, limits: Limits, record: bool) -> None:
        self.link = link
        self.frames: list[Frame] | None = [] if record else None
        self.streams: dict[int, Stream] = {}
        self.cause: BaseException | None = None
        self._command = command
        self._limits = limits
        self._next_id = 1
        self._ended = Context.background().child("client connection")
        self._task = asyncio.get_running_loop().create_task(self._receive())

    @classmethod
    async def connect(
        cls,
        address: tuple[str, int],
        user: UUID,
        command: Command = Command.MUX,
        target: Address | None = None,
        *,
        network_limits: Limits | None = None,
        record: bool = False,
        header: bytes | None = None,
    ) -> Self:
        """Connect and send the request header.

        Args:
            address: Host and port of the server.
            user: User id of the header.
            command: Command of the header.
            target: Target of the header; only for TCP and UDP.
            network_limits: Limits of time and size; the defaults if None.
            record: Keep all received frames.
            header: Bytes to send in place of the header; may be empty.

        Raises:
            OSError: If the server cannot be reached.
        """
        limits = network_limits or Limits()
        if header is None:
            header = encode_request(Request(user, command, target))
        loop = asyncio.get_running_loop()
        _, link = await loop.create_connection(lambda: Link(limits=limits), *address)
        link.send(header)
        client = cls(link, command, limits=limits, record=record)
        if target is not None:
            network = NetworkType.UDP if command is Command.UDP else NetworkType.TCP
            client.streams[0] = Stream(client, 0, network, target, inbox=limits.inbox_bytes)
        return client

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    # Use that follows the protocol.

    @property
    def stream(self) -> Stream:
        """The one stream of a TCP or UDP connection."""
        return self.streams[0]

    async def open(
        self,
        target: Address,
        data: bytes = b"",
        *,
        network: NetworkType = NetworkType.TCP,
        stream_id: int | None = None,
        global_id: bytes | None = None,
    ) -> Stream:
        """Open a mux stream.

        Args:
            target: Destination that the server is to dial.
            data: First data, sent in the New frame.
            network: TCP or UDP.
            stream_id: Id to use, also if it is in use; None for the next free one.
            global_id: 8 bytes that name a UDP session across connections.

        Raises:
            StreamClosed: If the connection has ended, or no id is free.
        """
        await self.link.drain()
        if stream_id is None:
            stream_id = self._free_id()
        stream = Stream(self, stream_id, network, target, inbox=self._limits.inbox_bytes)
        if (old := self.streams.get(stream_id)) is not None:
            old.fail(StreamReplaced(f"stream {stream_id} opened again"))
        self.streams[stream_id] = stream
        self.send_frame(Frame.new(stream_id, network, target, data or None, global_id))
        return stream

    async def close(self) -> None:
        """Close the connection and wait until it is gone."""
        self.link.close()
        for stream in self.streams.values():
            stream.fail(StreamClosed("closed by us"))
        await self.link.wait_closed()
        await self._task

    async def ended(self) -> BaseException:
        """Wait until the server has ended its direction, and return the cause."""
        return await self._ended.wait()

    # Use that may violate the protocol.

    def send(self, data: bytes) -> None:
        """Send any bytes."""
        self.link.send(data)

    def send_frame(self, frame: Frame) -> None:
        """Send any frame that can be encoded, whatever the state of its stream."""
        self.link.send(encode_frame(frame))

    def end(self, stream_id: int, *, error: bool = False) -> None:
        """Send an End for any id, with the error bit if ``error``."""
        self.send_frame(Frame.end(stream_id, error=error))

    def half_close(self) -> None:
        """Close our direction only."""
        self.link.send_eof()

    def reset(self) -> None:
        """Reset the connection: the server sees a reset, not an end."""
        self.link.abort()

    # As the owner of streams.

    async def write(self, stream: Stream, data: bytes, address: Address | None) -> None:
        """Send a stream's bytes (see `StreamOwner.write`)."""
        await self.link.drain()
        if self._command is Command.MUX:
            self.send(b"".join(data_frames(stream.stream_id, data, address)))
        else:
            self.send(encode_packet(data) if self._command is Command.UDP else data)

    def close_stream(self, stream: Stream, *, error: bool) -> None:
        """End a stream on our side; without mux, end our direction of the connection."""
        stream.fail(StreamClosed("closed by us"))
        if self._command is not Command.MUX:
            self.half_close()
        elif self.streams.get(stream.stream_id) is stream:
            self.end(stream.stream_id, error=error)

    def _free_id(self) -> int:
        for _ in range(MAX_ID):
            stream_id, self._next_id = self._next_id, self._next_id % MAX_ID + 1
            if stream_id not in self.streams:
                return stream_id
        raise StreamClosed(f"no id is free: {MAX_ID} streams are open")

    async def _receive(self) -> None:
        cause: BaseException = LinkLost("the client was cancelled")
        try:
            cause = await self._demultiplex()
        except (ProtocolError, Cause) as exc:
            cause = exc.with_traceback(None)
        finally:
            for stream in self.streams.values():
                if isinstance(cause, PeerClosed):
                    stream.feed_eof()
                else:
                    stream.fail(cause)
            self.cause = cause
            self._ended.cancel(cause)

    async def _demultiplex(self) -> BaseException:
        response = ResponseDecoder()
        frames, packets = FrameDecoder(), PacketDecoder()
        decoder: FrameDecoder | PacketDecoder | None = None
        if self._command is not Command.TCP:
            decoder = frames if self._command is Command.MUX else packets
        answered = False
        while data := await self.link.receive():
            if not answered:
                answered = response.receive_data(data) is not None
                data = response.trailing if answered else b""
            if decoder is not None:
                decoder.receive_data(data)
            await self._dispatch(frames, packets, data)
        if not answered:
            response.receive_eof()
        elif decoder is not None:
            decoder.receive_eof()
        return PeerClosed("the server closed the connection")

    async def _dispatch(self, frames: FrameDecoder, packets: PacketDecoder, data: bytes) -> None:
        if self._command is Command.MUX:
            while (frame := frames.next_frame()) is not None:
                await self._frame(frame)
        elif self._command is Command.UDP:
            while (packet := packets.next_packet()) is not None:
                self.stream.feed(packet)
        else:
            self.stream.feed(data)
            await self.stream.drained()

    async def _frame(self, frame: Frame) -> None:
        if self.frames is not None:
            self.frames.append(frame)
        if frame.status is FrameStatus.NEW:
            raise FrameError("frame status", 0, "no New from a server", "New")
        stream = self.streams.get(frame.stream_id)
        if stream is None or frame.status is FrameStatus.KEEP_ALIVE:
            return
        if frame.data:
            stream.feed(frame.data, frame.target)
            if self.frames is None:
                await stream.drained()
        if frame.status is FrameStatus.END:
            del self.streams[frame.stream_id]
            if frame.is_error:
                stream.fail(StreamReset(f"stream {frame.stream_id} reset by the server"))
            else:
                stream.feed_eof()
