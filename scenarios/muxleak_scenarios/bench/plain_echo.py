"""The lower bound: a mux.cool echo server in plain callbacks, without task, timer or loop.

It reads the same bytes with the same decoders as the session with its echo handlers, and writes the
same bytes. It has no handlers that can wait, no back-pressure, no limits and no shutdown, which a
server needs. No server built of tasks can cost less.
"""

# It is a bound only while its answers are right, so the tests compare its bytes with those of the
# real session. The rules of mux.cool that the recorded sequence touches are therefore here too: the
# response header precedes the first frame, data for an unknown id is answered by End with an error,
# and End without an error is answered by End.

from __future__ import annotations

from typing import TYPE_CHECKING

from muxleak_vless.frames import Frame, FrameDecoder, FrameStatus, data_frames, encode_frame
from muxleak_vless.header import Command, RequestDecoder, Response, encode_response

if TYPE_CHECKING:
    from collections.abc import Callable, Container
    from uuid import UUID


class PlainEcho:
    """One connection.

    Args:
        users: the ids that may connect.
        write: called with the bytes to send.
    """

    def __init__(self, users: Container[UUID], write: Callable[[bytes], object]) -> None:
        self.streams: dict[int, PlainStream] = {}
        self._users = users
        self._write = write
        self._header: RequestDecoder | None = RequestDecoder()
        self._frames = FrameDecoder()
        self._prefix = encode_response(Response())

    def data_received(self, data: bytes) -> None:
        """Decode bytes, cut anywhere, and answer each request and frame that they complete.

        Raises:
            ProtocolError: the bytes are malformed.
            PermissionError: the user is unknown, or the command is not mux.
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
        """Write a frame; the response header precedes the first one."""
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
    """One stream, which echoes."""

    def __init__(self, connection: PlainEcho, stream_id: int) -> None:
        self._connection = connection
        self._stream_id = stream_id

    def data_received(self, data: bytes) -> None:
        """Send the bytes back."""
        for frame in data_frames(self._stream_id, data):
            self._connection.send(frame)
