"""The limit: a mux.cool echo server in plain callbacks, without a task, a timer or a loop.

It reads the same bytes with the same decoders and writes the same bytes as the session does with
its echo handlers. What it leaves out is what a server needs besides: handlers that may wait,
back-pressure, limits, and an end that reaches everything. Nothing built of tasks can cost less.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from muxleak_vless.frames import Frame, FrameDecoder, FrameStatus, data_frames, encode_frame
from muxleak_vless.header import Command, RequestDecoder, Response, encode_response

if TYPE_CHECKING:
    from collections.abc import Callable, Container
    from uuid import UUID


class PlainEcho:
    """One connection: bytes in by `data_received`, bytes out by ``write``."""

    def __init__(self, users: Container[UUID], write: Callable[[bytes], object]) -> None:
        self.streams: dict[int, PlainStream] = {}
        self._users = users
        self._write = write
        self._header: RequestDecoder | None = RequestDecoder()
        self._frames = FrameDecoder()
        self._prefix = encode_response(Response())

    def data_received(self, data: bytes) -> None:
        """Take bytes as they came, cut anywhere, and answer what they complete.

        Raises:
            ProtocolError: malformed.
            PermissionError: the user is unknown, or the command is not the mux's.
        """
        if self._header is not None:
            request = self._header.receive_data(data)
            if request is None:
                return
            if request.user not in self._users or request.command != Command.MUX:
                raise PermissionError(f"expected a known user and the mux, got {request!r}")
            data, self._header = self._header.trailing, None
        self._frames.receive_data(data)
        while (frame := self._frames.next_frame()) is not None:
            self._handle(frame)

    def send(self, data: bytes) -> None:
        """Write; the response header leaves with the first frame."""
        self._write(self._prefix + data)
        self._prefix = b""

    def _handle(self, frame: Frame) -> None:
        stream_id = frame.stream_id
        if frame.status is FrameStatus.NEW:
            self.streams[stream_id] = PlainStream(self, stream_id)
        stream = self.streams.get(stream_id)
        if stream is None:
            if frame.status is FrameStatus.KEEP and frame.data:
                self.send(encode_frame(Frame.end(stream_id, error=True)))
            return
        if frame.data:
            stream.data_received(frame.data)
        if frame.status is FrameStatus.END:
            del self.streams[stream_id]
            if not frame.is_error:
                self.send(encode_frame(Frame.end(stream_id)))


class PlainStream:
    """One stream: returns what comes."""

    def __init__(self, connection: PlainEcho, stream_id: int) -> None:
        self._connection = connection
        self._stream_id = stream_id

    def data_received(self, data: bytes) -> None:
        """Return it."""
        for frame in data_frames(self._stream_id, data):
            self._connection.send(frame)
