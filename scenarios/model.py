"""What a peer knows of its connection: what it sent, and what it may expect back.

Only streams served by ``echo`` promise anything: every byte, in order, under the right id. Each
stream's bytes are a pattern of its own, so a byte that comes back under another stream shows.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from scenarios.destinations import GREETING
from scenarios.handlers import FLOOD, FLOOD_TIMES
from vless import Address, Network, ProtocolError
from vless.frames import Frame, FrameDecoder, encode_frame
from vless.header import Command, Request, ResponseDecoder, encode_request

if TYPE_CHECKING:
    from uuid import UUID

    from scenarios.peers import Peer
    from scenarios.steps import Step

ECHOES = frozenset({"echo", "@echo"})
MONOLOGUES = {
    "flood": FLOOD * FLOOD_TIMES,
    "@flood": FLOOD * FLOOD_TIMES,
    "@close": GREETING,
}
"""What speaks by itself, and what it says."""


class StreamModel:
    """One stream: what was sent into it and what has come back."""

    __slots__ = ("_echoes", "_noise", "ended", "excused", "promise", "received")

    def __init__(self, number: int, what: str) -> None:
        self._noise = Random(number)  # noqa: S311 - bytes that no two streams share
        self._echoes = what in ECHOES
        self.promise = MONOLOGUES.get(what, b"")
        """What may come back."""
        self.received = 0
        self.ended = False
        """Whether the peer has ended its direction."""
        self.excused = not self._echoes
        """Whether some of the promise may be missing for good."""

    @property
    def owed(self) -> bytes:
        """The part of the promise that has not come back yet."""
        return self.promise[self.received :]

    def next_bytes(self, size: int) -> bytes:
        """Return the next bytes of the stream's own noise, and count them as sent."""
        data = self._noise.randbytes(size)
        if self._echoes and not self.ended:
            self.promise += data
        return data


class ConnectionModel:
    """One connection: its streams, its decoders, and whether it is over for the peer."""

    def __init__(self, peer: Peer, user: UUID) -> None:
        self.peer = peer
        self.over = False
        """Whether the server must have let go of it, once at rest."""
        self.lossy = False
        """Whether something happened after which bytes need not come back."""
        self.streams: dict[int, StreamModel] = {}
        self._replaced: dict[int, list[StreamModel]] = {}
        self._header = encode_request(Request(user, Command.MUX, None))
        self._response: ResponseDecoder | None = ResponseDecoder()
        self._frames = FrameDecoder()
        self._opened = 0

    @property
    def header(self) -> bytes:
        """The mux request header."""
        return self._header

    def open(self, step: Step, number: int) -> bytes:
        """Open a stream, perhaps over a living one, and return the frame."""
        network = Network.UDP if step.verb == "udp" else Network.TCP
        stream_id = step.stream or 0
        old = self.streams.get(stream_id)
        if old is not None and old.promise:
            # What the old stream said may be on its way; it comes before anything of the new one.
            self._replaced.setdefault(stream_id, []).append(old)
        stream = self.streams[stream_id] = StreamModel(number, step.what)
        name, zone = (step.what[1:], "dest") if step.what[0] == "@" else (step.what, "test")
        data = stream.next_bytes(step.size) if step.size else None
        return encode_frame(Frame.new(stream_id, network, Address.of(f"{name}.{zone}", 7), data))

    def data(self, step: Step) -> bytes:
        """Return a frame of data for a stream, known or not."""
        stream_id = step.stream or 0
        stream = self.streams.get(stream_id) or StreamModel(0, "")
        return encode_frame(Frame.keep(stream_id, stream.next_bytes(step.size)))

    def end(self, step: Step) -> bytes:
        """Return an End frame, with the error bit for ``reset``."""
        stream_id, error = step.stream or 0, step.verb == "reset"
        stream = self.streams.get(stream_id)
        if stream is not None:
            stream.ended = True
            stream.excused |= error
        return encode_frame(Frame.end(stream_id, error=error))

    def take(self) -> str:
        """Decode what has come and file it under its streams; return what is wrong with it."""
        data = self.peer.take()
        wrong = ""
        if not data:
            return wrong
        try:
            if self._response is not None:
                if self._response.receive_data(data) is None:
                    return ""
                data, self._response = self._response.trailing, None
            self._frames.receive_data(data)
            while (frame := self._frames.next_frame()) is not None:
                wrong = wrong or self._file(frame)
        except ProtocolError as error:
            return f"the server's bytes are no mux frames: {error}"
        return wrong

    def unmet(self) -> str:
        """Say which echo is missing."""
        for stream_id, stream in self.streams.items():
            if stream.owed and not stream.excused:
                expected = len(stream.promise)
                return f"stream {stream_id}: expected {expected} bytes, got {stream.received}"
        return ""

    def _file(self, frame: Frame) -> str:
        """File a frame; say what is wrong with it."""
        stream = self.streams.get(frame.stream_id)
        if stream is None:
            return ""
        # Whoever hears of a failed stream knows that the rest will not come.
        stream.excused |= frame.is_error
        data = frame.data
        if not data:
            return ""
        for each in (*self._replaced.get(frame.stream_id, ()), stream):
            if each.owed.startswith(data):
                each.received += len(data)
                return ""
        return f"stream {frame.stream_id}: expected {_show(stream.owed)}, got {_show(data)}"


def _show(data: bytes) -> str:
    return f"{len(data)} bytes ({data[:8].hex(' ')})"
