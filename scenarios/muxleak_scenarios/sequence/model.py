"""The client model: the bytes that a peer sends, and those that it may expect back."""

# The model is an oracle for the properties `data` and `answers`: it sees both what the peer sends
# and what arrives, and says what is wrong (`wrong`, at any time) or missing (`missing` and
# `unanswered`, when the target has settled).
#
# Streams served by `echo` promise every byte, in order, under the right id. Each stream sends its
# own part of one block of noise, so that a byte which arrives under another id, twice, or out of
# place cannot pass for the right one. Some handlers send bytes unasked (`UNSOLICITED`), which are
# known too. Other handlers promise nothing.
#
# A false alarm would cost more than a missed violation: it would make a search stop at the
# reference. So each of these suspends an expectation, and only that one:
#
#   stream.excused        part of the promise may be missing for good: no echo, UDP, reset by the
#                         peer, one stream too many, or ended by the server with the error bit
#   connection.lossy      nothing need arrive any more: the peer stalled, the server's context
#                         ended, frames in the middle of a header, a malformed or cut frame
#   connection.strained   limits of the server may end a stream or the connection: the server owes
#                         more than a peer can take that reads between steps only, or a busy machine
#                         may let limits expire (`exact` is False)
#   connection.over       the connection must end, and is checked as a closed one
#
# Two races between peer and server are legal and allowed for. Bytes of an old stream may arrive
# after its id was opened again (`_replaced`). Data may cross the End of its stream and then be
# refused with another End, so Ends are counted (`_ends`) instead of compared.
#
# The mutants show that these allowances are not too wide: each mutant that loses an End, a refusal
# or a byte is killed (`pairs.mutants`).

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache
from random import Random
from typing import TYPE_CHECKING

from muxleak_scenarios.sequence.destinations import GREETING
from muxleak_scenarios.sequence.handlers import BULK, FLOOD, FLOOD_TIMES, LATE
from muxleak_scenarios.sequence.limits import LIMITS
from muxleak_scenarios.sequence.malformed import junk, partial
from muxleak_scenarios.sequence.steps import MAX_SIZE, OPENING
from muxleak_vless import Address, NetworkType, ProtocolError
from muxleak_vless.frames import (
    DATA,
    ERROR,
    Frame,
    FrameDecoder,
    FrameStatus,
    data_frames,
    encode_end,
    encode_frame,
)
from muxleak_vless.header import Command, Request, ResponseDecoder, encode_request

if TYPE_CHECKING:
    from uuid import UUID

    from muxleak_scenarios.sequence.peers import Peer
    from muxleak_scenarios.sequence.steps import Step

ECHOES = frozenset({"echo", "@echo"})
UNSOLICITED = {
    "flood": FLOOD * FLOOD_TIMES,
    "@flood": FLOOD * FLOOD_TIMES,
    "@close": GREETING,
    "bulk": b"b" * sum(BULK),
    "late": LATE,
}
"""The bytes that a handler or destination sends unasked."""
OTHER_ADDRESS = Address.of("198.51.100.1", 53)
"""The address in a packet that is not for the target of its stream."""
_REPEATS = 1 << 20
_STRIDE = 8191
_NOISE = Random(0).randbytes(_REPEATS + MAX_SIZE)  # noqa: S311 - bytes, not secrets
"""The bytes of all streams: each stream begins at another place."""


class StreamModel:
    """One stream: the bytes that were sent into it, and those that came back.

    Attributes:
        tasks: the most tasks that the server may have for it: its handler's, and for a destination
            that of the other direction.
        promise: the bytes that may come back.
        received: how many of them have.
        ended: True if the peer has ended its direction.
        unordered: True if bytes may arrive in another order or not at all, as datagrams do.
        excused: True if part of the promise may be missing for good.
        closed: True if the server has ended it.
    """

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
        self.promise = UNSOLICITED.get(what, b"")
        self.received = 0
        self.ended = False
        self.unordered = unordered
        self.excused = unordered or not self._echoes
        self.closed = False

    @property
    def unanswered(self) -> bool:
        """True if the peer has ended it and the server, whose handler must be done, has not."""
        return self.ended and not (self.closed or self.excused)

    @property
    def owed(self) -> int:
        """Number of promised bytes that have not come back yet."""
        return len(self.promise) - self.received

    def next_bytes(self, size: int) -> bytes:
        """Return the next bytes to send; an echo now promises them."""
        start = self._at % _REPEATS
        data = _NOISE[start : start + size]
        self._at += size
        if self._echoes and not self.ended:
            self.promise += data
        return data

    def take(self, data: bytes) -> bool:
        """Count ``data`` as received; return False if the promise has other bytes next."""
        start = self.promise.find(data) if self.unordered else self.received
        expected = start >= 0 and self.promise.startswith(data, start)
        self.received += len(data) * expected
        return expected


class ConnectionModel:
    """One connection as its peer sees it.

    Attributes:
        peer: sends and receives the bytes.
        over: True if the server must have released the connection when the target has settled.
        lossy: True if nothing need come back any more.
        strained: True if limits of the server may end a stream, or the connection.
        exact: True if limits expire only because of the peer, never because a machine is busy.
        stalled: True if the peer has stopped reading.
        drips: True if the peer sends byte by byte.
        streams: the latest stream of each id.
        wrong: the first thing that came and should not have; or empty.
        tasks: the most tasks that the server may have for the connection: two of its own, and those
            of the streams opened so far.
    """

    def __init__(self, peer: Peer, user: UUID, *, exact: bool = True) -> None:
        self.peer = peer
        self.over = False
        self.lossy = False
        self.strained = False
        self.exact = exact
        self.stalled = False
        self.drips = False
        self.streams: dict[int, StreamModel] = {}
        self._replaced: dict[int, list[StreamModel]] = {}
        self._never: dict[int, None] = {}
        """Ids that were never opened and were sent data, which the server must refuse."""
        self._ends: defaultdict[int, int] = defaultdict(int)
        """How many Ends the server may still send for an id: one for each New and each data."""
        self._header = _request(user)
        self._response: ResponseDecoder | None = ResponseDecoder()
        self._frames = FrameDecoder()
        self._opened = 0
        self.wrong = ""
        self.tasks = 2

    def encode(self, step: Step, number: int) -> bytes:
        """Return the bytes that the peer sends for a step, and note the bytes it may expect.

        Args:
            step: a step that sends bytes.
            number: counts the streams of the sequence; the stream's bytes depend on it.
        """
        verb, stream_id = step.verb, step.stream or 0
        if verb == "header":
            # Until the header is whole, the server takes everything for the rest of it.
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
        # The server cannot read frames that follow a malformed or partial one.
        self.lossy = True
        self.over |= verb == "junk"
        return junk(step.what) if verb == "junk" else partial(step.size)

    def _open(self, step: Step, number: int) -> bytes:
        network = NetworkType.TCP if step.verb == "new" else NetworkType.UDP
        global_id = number.to_bytes(8, "big") if step.verb == "xudp" and step.size else None
        stream_id = step.stream or 0
        old = self.streams.get(stream_id)
        if old is not None:
            # Bytes of the old stream may still arrive, before any of the new one.
            self._replaced.setdefault(stream_id, []).append(old)
        unordered = network is NetworkType.UDP and step.what[0] == "@"
        stream = StreamModel(number, step.what, unordered=unordered)
        self.streams[stream_id] = stream
        self.tasks += stream.tasks
        name, zone = (step.what[1:], "dest") if step.what[0] == "@" else (step.what, "test")
        host = "" if name == "nowhere" else f"{name}.{zone}"
        data = stream.next_bytes(step.size) if step.size else None
        # Beyond the limit the server may refuse it, unless an earlier stream has ended.
        self._opened += 1
        self._ends[stream_id] += 1
        stream.excused |= self._opened > LIMITS.max_streams
        self.strained |= not self.exact
        self._weigh()
        head = _new_head(stream_id, network, host, global_id, has_data=data is not None)
        return head if data is None else head + len(data).to_bytes(2, "big") + data

    def _keep(self, stream_id: int, step: Step) -> bytes:
        if step.verb == "keep":
            return encode_frame(Frame(stream_id, FrameStatus.KEEP))
        stream = self.streams.get(stream_id) or StreamModel(0, "")
        self._ends[stream_id] += bool(step.size)
        if step.size and stream_id not in self.streams:
            self._never[stream_id] = None
        data = stream.next_bytes(step.size)
        self._weigh()
        if step.verb == "data" and data:
            return b"".join(data_frames(stream_id, data))
        target = OTHER_ADDRESS if step.verb == "packet" else None
        return encode_frame(Frame.keep(stream_id, data, target))

    def _end(self, stream_id: int, step: Step) -> bytes:
        error = step.verb == "reset"
        stream = self.streams.get(stream_id) or StreamModel(0, "")
        data = stream.next_bytes(step.size) if step.size else None
        stream.ended = True
        stream.excused |= error
        if data is None:
            return encode_end(stream_id, error=error)
        option = DATA | (ERROR if error else 0)
        return encode_frame(Frame(stream_id, FrameStatus.END, option, data=data))

    def take(self) -> None:
        """Decode the bytes that have come, and check them against the streams."""
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
                self.wrong = self._count_end(frame) or self._check(frame)
        except ProtocolError as error:
            self.wrong = f"the server's bytes are no mux frames: {error}"

    @property
    def missing(self) -> str:
        """The first thing that has not come although the target has settled; or empty."""
        if self._excused:
            return ""
        if self.peer.ended:
            return "the server ended it, without cause" if not self._header else ""
        for stream_id, stream in self.streams.items():
            if not stream.excused and stream.owed:
                expected = len(stream.promise)
                return f"stream {stream_id}: expected {expected} bytes, got {stream.received}"
        return ""

    @property
    def unanswered(self) -> str:
        """The first stream that the server has not ended or refused, when settled; or empty."""
        if self._excused or self.peer.ended:
            return ""
        for stream_id, stream in self.streams.items():
            if stream.unanswered:
                return f"stream {stream_id}: expected its End, got none"
        for stream_id in self._never:
            return f"stream {stream_id}: expected its End, got none"
        return ""

    @property
    def _excused(self) -> bool:
        return self.over or self.lossy or (self.strained and self.peer.ended)

    def _weigh(self) -> None:
        owed = 0
        for stream in self.streams.values():
            owed += len(stream.promise) - stream.received
        if owed > LIMITS.backlog_bytes // 2:
            self.strained = True

    def _count_end(self, frame: Frame) -> str:
        """Count a frame that ends or refuses a stream; say if that is one too many."""
        if frame.status is not FrameStatus.END:
            return ""
        self._ends[frame.stream_id] -= 1
        if frame.is_error:
            self._never.pop(frame.stream_id, None)
        too_many = self._ends[frame.stream_id] < 0 and not self.lossy
        return f"stream {frame.stream_id}: ended by the server once too often" if too_many else ""

    def _check(self, frame: Frame) -> str:
        """Check a frame against its stream; return the fault in it, or ""."""
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
        # The End may be that of an old stream of this id, sent just before it was replaced.
        has_cause = any(each.excused or each.ended for each in (*before, stream))
        # The error bit tells the peer that the rest will not come.
        stream.excused |= frame.is_error
        if has_cause or self.over or self.lossy:
            return ""
        # Limits end a stream with the error bit, never without.
        if frame.is_error:
            return (
                "" if self.strained else f"stream {stream_id}: reset by the server, without cause"
            )
        return f"stream {stream_id}: ended by the server, without cause"


@lru_cache(maxsize=16)
def _request(user: UUID) -> bytes:
    return encode_request(Request(user, Command.MUX, None))


@lru_cache(maxsize=256)
def _new_head(
    stream_id: int, network: NetworkType, host: str, global_id: bytes | None, *, has_data: bool
) -> bytes:
    """Return a New up to the length of its data."""
    data = b"" if has_data else None
    frame = encode_frame(Frame.new(stream_id, network, Address.of(host, 7), data, global_id))
    return frame[:-2] if has_data else frame


def _show(data: bytes) -> str:
    return f"{len(data)} bytes ({data[:8].hex(' ')})"
