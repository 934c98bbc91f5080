"""What a peer knows of its connection: what it sent, and what it may expect back.

Only streams served by ``echo`` promise anything: every byte, in order, under the right id. Each
stream's bytes are a pattern of its own, so a byte that comes back under another stream shows.
"""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import TYPE_CHECKING

from muxleak_scenarios.sequence.destinations import GREETING
from muxleak_scenarios.sequence.handlers import BULK, FLOOD, FLOOD_TIMES, LATE
from muxleak_scenarios.sequence.limits import LIMITS
from muxleak_scenarios.sequence.malformed import junk, partial
from muxleak_scenarios.sequence.steps import MAX_SIZE, OPENING
from muxleak_vless import Address, NetworkType, ProtocolError
from muxleak_vless.frames import DATA, ERROR, Frame, FrameDecoder, FrameStatus, encode_frame
from muxleak_vless.header import Command, Request, ResponseDecoder, encode_request

if TYPE_CHECKING:
    from uuid import UUID

    from muxleak_scenarios.sequence.peers import Peer
    from muxleak_scenarios.sequence.steps import Step

ECHOES = frozenset({"echo", "@echo"})
MONOLOGUES = {
    "flood": FLOOD * FLOOD_TIMES,
    "@flood": FLOOD * FLOOD_TIMES,
    "@close": GREETING,
    "bulk": b"b" * sum(BULK),
    "late": LATE,
}
"""What speaks by itself, and what it says."""
ELSEWHERE = Address.of("198.51.100.1", 53)
"""Where a packet goes that is not for its stream's target."""
_REPEATS = 1 << 20
_STRIDE = 8191
_NOISE = Random(0).randbytes(_REPEATS + MAX_SIZE)  # noqa: S311 - bytes, not secrets
"""Each stream sends another part of it, so that bytes of one stream under another's id show."""


class StreamModel:
    """One stream: what was sent into it and what has come back."""

    __slots__ = (
        "_at",
        "_echoes",
        "closed",
        "ended",
        "excused",
        "promise",
        "received",
        "tasks",
        "unordered",
    )

    def __init__(self, number: int, what: str, *, unordered: bool = False) -> None:
        self._at = number * _STRIDE
        self._echoes = what in ECHOES
        self.tasks = 2 if what[:1] == "@" else 1
        """At most: its handler's, and that of the other direction of a relay."""
        self.promise = MONOLOGUES.get(what, b"")
        """What may come back."""
        self.received = 0
        self.ended = False
        """Whether the peer has ended its direction."""
        self.unordered = unordered
        """Whether what comes back may be out of order, and some of it lost, as datagrams are."""
        self.excused = unordered or not self._echoes
        """Whether some of the promise may be missing for good."""
        self.closed = False
        """Whether the server has ended it."""

    @property
    def unanswered(self) -> bool:
        """Whether the peer has ended it, so that its handler must be done, and the server not."""
        return self.ended and not (self.closed or self.excused)

    @property
    def owed(self) -> int:
        """How many bytes of the promise have not come back yet."""
        return len(self.promise) - self.received

    def next_bytes(self, size: int) -> bytes:
        """Return the next bytes of the stream's own noise, and count them as sent."""
        start = self._at % _REPEATS
        data = _NOISE[start : start + size]
        self._at += size
        if self._echoes and not self.ended:
            self.promise += data
        return data

    def take(self, data: bytes) -> bool:
        """Check ``data`` off the promise; False if it is not what comes next."""
        start = self.promise.find(data) if self.unordered else self.received
        expected = start >= 0 and self.promise.startswith(data, start)
        self.received += len(data) * expected
        return expected


class ConnectionModel:
    """One connection: its streams, its decoders, and whether it is over for the peer."""

    def __init__(self, peer: Peer, user: UUID, *, exact: bool = True) -> None:
        self.peer = peer
        self.over = False
        """Whether the server must have let go of it, once at rest."""
        self.lossy = False
        """Whether something happened after which nothing need come back."""
        self.strained = False
        """Whether limits of the server may end a stream, or all: more at once than a peer can take
        that reads between the steps only, or a busy machine."""
        self.exact = exact
        """Whether limits expire for what the peer does only, never because a machine is busy."""
        self.stalled = False
        """Whether the peer has stopped reading."""
        self.drips = False
        """Whether the peer sends byte by byte."""
        self.streams: dict[int, StreamModel] = {}
        self._replaced: dict[int, list[StreamModel]] = {}
        self._never: dict[int, None] = {}
        """Streams that were never opened, and have been sent data that is to be refused."""
        self._ends: Counter[int] = Counter()
        """How often the server may still end a stream: once for each New, and for data too late."""
        self._header = encode_request(Request(user, Command.MUX, None))
        self._response: ResponseDecoder | None = ResponseDecoder()
        self._frames = FrameDecoder()
        self._opened = 0
        self.wrong = ""
        """What has come and should not have."""
        self.tasks = 2
        """How many tasks the server may have for it: two of its own, and those of its streams."""

    def encode(self, step: Step, number: int) -> bytes:
        """Return what the peer sends for a step, and remember what it may expect for it.

        ``number`` tells the streams of a sequence apart.
        """
        verb, stream_id = step.verb, step.stream or 0
        if verb == "header":
            # In the middle of a header, everything that is sent is taken for its rest.
            header, self._header = self._header, b""
            if step.size:
                header, self._header = header[: step.size], header[step.size :]
            return header
        self.lossy |= bool(self._header)
        if verb in OPENING:
            return self._open(step, number)
        if verb in {"data", "packet", "keep"}:
            return self._keep(stream_id, step)
        if verb in {"end", "reset"}:
            return self._end(stream_id, step)
        if verb in {"keepalive", "padding"}:
            data = bytes(step.size) if step.size else None
            padding = bytes(2) if verb == "padding" else b""
            option = 0 if data is None else DATA
            frame = Frame(0, FrameStatus.KEEP_ALIVE, option, data=data, padding=padding)
            return encode_frame(frame)
        # What follows a malformed or partial frame is not what it seems.
        self.lossy = True
        self.over |= verb == "junk"
        return junk(step.what) if verb == "junk" else partial(step.size)

    def _open(self, step: Step, number: int) -> bytes:
        network = NetworkType.TCP if step.verb == "new" else NetworkType.UDP
        global_id = number.to_bytes(8, "big") if step.verb == "xudp" and step.size else None
        stream_id = step.stream or 0
        old = self.streams.get(stream_id)
        if old is not None:
            # What the old stream said may be on its way; it comes before anything of the new one.
            self._replaced.setdefault(stream_id, []).append(old)
        unordered = network is NetworkType.UDP and step.what[0] == "@"
        stream = StreamModel(number, step.what, unordered=unordered)
        self.streams[stream_id] = stream
        self.tasks += stream.tasks
        name, zone = (step.what[1:], "dest") if step.what[0] == "@" else (step.what, "test")
        host = "" if name == "nowhere" else f"{name}.{zone}"
        data = stream.next_bytes(step.size) if step.size else None
        # Beyond the limit it may be refused, if none of those before has ended.
        self._opened += 1
        self._ends[stream_id] += 1
        stream.excused |= self._opened > LIMITS.max_streams
        self.strained |= not self.exact
        self._weigh()
        target = Address.of(host, 7)
        return encode_frame(Frame.new(stream_id, network, target, data, global_id))

    def _keep(self, stream_id: int, step: Step) -> bytes:
        if step.verb == "keep":
            return encode_frame(Frame(stream_id, FrameStatus.KEEP))
        stream = self.streams.get(stream_id) or StreamModel(0, "")
        self._ends[stream_id] += bool(step.size)
        if step.size and stream_id not in self.streams:
            self._never[stream_id] = None
        target = ELSEWHERE if step.verb == "packet" else None
        data = stream.next_bytes(step.size)
        self._weigh()
        return encode_frame(Frame.keep(stream_id, data, target))

    def _end(self, stream_id: int, step: Step) -> bytes:
        error = step.verb == "reset"
        stream = self.streams.get(stream_id) or StreamModel(0, "")
        data = stream.next_bytes(step.size) if step.size else None
        stream.ended = True
        stream.excused |= error
        option = (0 if data is None else DATA) | (ERROR if error else 0)
        return encode_frame(Frame(stream_id, FrameStatus.END, option, data=data))

    def take(self) -> None:
        """Decode what has come and file it under its streams."""
        data = self.peer.take()
        if not data or self.wrong:
            return
        try:
            if self._response is not None:
                if self._response.receive_data(data) is None:
                    return
                data, self._response = self._response.trailing, None
            self._frames.receive_data(data)
            while not self.wrong and (frame := self._frames.next_frame()) is not None:
                self.wrong = self._count(frame) or self._file(frame)
        except ProtocolError as error:
            self.wrong = f"the server's bytes are no mux frames: {error}"

    @property
    def missing(self) -> str:
        """What should have come, once the server is at rest, and has not."""
        if self._forgiven:
            return ""
        if self.peer.ended:
            return "the server ended it, without cause" if not self._header else ""
        for stream_id, stream in self.streams.items():
            if stream.owed and not stream.excused:
                expected = len(stream.promise)
                return f"stream {stream_id}: expected {expected} bytes, got {stream.received}"
        return ""

    @property
    def unanswered(self) -> str:
        """Which stream the server should have ended or refused, once at rest, and has not."""
        if self._forgiven or self.peer.ended:
            return ""
        owing = [stream_id for stream_id, stream in self.streams.items() if stream.unanswered]
        owing += self._never
        return next((f"stream {each}: expected its End, got none" for each in owing), "")

    @property
    def _forgiven(self) -> bool:
        return self.over or self.lossy or (self.strained and self.peer.ended)

    def _weigh(self) -> None:
        owed = sum(stream.owed for stream in self.streams.values())
        self.strained |= owed > LIMITS.backlog_bytes // 2

    def _count(self, frame: Frame) -> str:
        """Count a frame that ends a stream, or refuses one; say if it is one too many."""
        if frame.status is not FrameStatus.END:
            return ""
        self._ends[frame.stream_id] -= 1
        if frame.is_error:
            self._never.pop(frame.stream_id, None)
        too_many = self._ends[frame.stream_id] < 0 and not self.lossy
        return f"stream {frame.stream_id}: ended by the server once too often" if too_many else ""

    def _file(self, frame: Frame) -> str:
        """File a frame; say what is wrong with it."""
        stream_id, data = frame.stream_id, frame.data
        stream = self.streams.get(stream_id)
        if stream is None:
            return f"stream {stream_id}: never opened, got {_show(data)}" if data else ""
        before = self._replaced.get(stream_id, ())
        if data and not any(each.take(data) for each in (*before, stream)):
            expected = stream.promise[stream.received :]
            return f"stream {stream_id}: expected {_show(expected)}, got {_show(data)}"
        if frame.status is not FrameStatus.END:
            return ""
        stream.closed = True
        # An old stream of this id may have ended by itself just before it was replaced.
        innocent = not any(each.excused or each.ended for each in (*before, stream))
        # Whoever hears of a failed stream knows that the rest will not come.
        stream.excused |= frame.is_error
        if not innocent or self.over or self.lossy:
            return ""
        # A limit resets a stream; none ends one in good order.
        if frame.is_error:
            return (
                "" if self.strained else f"stream {stream_id}: reset by the server, without cause"
            )
        return f"stream {stream_id}: ended by the server, without cause"


def _show(data: bytes) -> str:
    return f"{len(data)} bytes ({data[:8].hex(' ')})"
