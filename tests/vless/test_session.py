"""The mux session against raw bytes, in virtual time: its rules, events and limits.

The server's end of every connection here is a real session on a real link; the client's end is a
script. After every test the connection is closed and must have left nothing: no task, no timer, no
stream, and nothing for the collector.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from muxleak import Ledger, VirtualLoop, memory_pair
from muxleak_vless.address import Address, AddressType, NetworkType
from muxleak_vless.context import Context
from muxleak_vless.errors import (
    FrameError,
    IdleTimeout,
    LinkLost,
    PeerClosed,
    ServerStopped,
    StreamClosed,
    StreamReplaced,
    StreamReset,
    StreamStalled,
    TruncatedError,
    WriteStalled,
)
from muxleak_vless.frames import DATA, ERROR, Frame, FrameDecoder, FrameStatus, encode_frame
from muxleak_vless.header import ResponseDecoder
from muxleak_vless.lifecycle import Lifecycle
from muxleak_vless.limits import Limits
from muxleak_vless.link import Link
from muxleak_vless.session import MuxSession

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from muxleak_vless import Handler, Stream

    Connect = Callable[..., "Connection"]

LIMITS = Limits(
    idle_seconds=300,
    write_seconds=30,
    stall_seconds=20,
    close_seconds=5,
    inbox_bytes=1000,
    backlog_bytes=100_000,
    max_streams=8,
)
TARGET = Address.of("127.0.0.1", 80)
OTHER = Address.of("8.8.8.8", 53)
ERRORS = DATA | ERROR


class Script(asyncio.Protocol):
    """The client's end: collects bytes and notes how the connection ends."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.ended = False
        self.lost = False

    def data_received(self, data: bytes) -> None:
        """Collect."""
        self.received += data

    def eof_received(self) -> bool:
        """Note it; our direction stays open."""
        self.ended = True
        return True

    def connection_lost(self, _exc: Exception | None) -> None:
        """Note it."""
        self.ended = self.lost = True


class Connection:
    """One connection: the session, the script on the other side, and the time they share."""

    def __init__(
        self,
        handler: Handler,
        *,
        lifecycle: Lifecycle | None = None,
        received: bytes = b"",
        **limits: Any,
    ) -> None:
        self.loop = VirtualLoop()
        self.ledger = Ledger()
        self.ledger.install(self.loop)
        self.server = Context.background().child("server")
        self.causes: list[BaseException] = []
        self.script = Script()
        self.abandoned = 0
        """How many tasks may be left, in a test that is about them."""
        self._settings: dict[str, Any] = {
            "lifecycle": lifecycle,
            "limits": LIMITS._replace(**limits),
        }
        self._handler = handler
        self._received = received
        link = Link(self._made, limits=self._settings["limits"])
        self.far, _ = memory_pair(self.loop, self.script, link)
        self.loop.run_until_quiescent()

    def _made(self, link: Link) -> None:
        self.session = MuxSession(
            link, self._handler, self.server, on_cleanup=self.causes.append, **self._settings
        )
        self.task = self.loop.create_task(self._serve(link))

    async def _serve(self, link: Link) -> BaseException:
        try:
            return await self.session.run(self._received)
        finally:
            link.close()
            await link.wait_closed()

    def send(self, *frames: Frame | bytes) -> None:
        """Send frames, or any bytes, in one segment, and let the server come to rest."""
        wire = [each if isinstance(each, bytes) else encode_frame(each) for each in frames]
        if not self.script.lost:
            self.far.write(b"".join(wire))
        self.run()

    def run(self, seconds: float = 0) -> None:
        """Let time pass."""
        self.loop.advance(seconds)

    def frames(self) -> list[Frame]:
        """Decode all that has come so far."""
        response, decoder = ResponseDecoder(), FrameDecoder()
        frames: list[Frame] = []
        if self.script.received:
            assert response.receive_data(bytes(self.script.received)) is not None
            decoder.receive_data(response.trailing)
        while (frame := decoder.next_frame()) is not None:
            frames.append(frame)
        return frames

    def data(self, stream_id: int) -> bytes:
        """Join the data that came for an id."""
        return b"".join(f.data or b"" for f in self.frames() if f.stream_id == stream_id)

    def close(self) -> None:
        """Close in good order."""
        self.far.close()
        self.run()

    def forget(self) -> None:
        """Drop every reference to what has ended."""
        del self.session, self.task, self.far
        self.causes.clear()

    def finish(self) -> None:
        """Close, and check that nothing is left."""
        if not hasattr(self, "session"):
            return
        self.close()
        self.run(3 * LIMITS.close_seconds)
        assert self.task.done()
        assert self.session.cleanups == len(self.causes) == 1
        assert not self.session.streams
        assert self.ledger.count == len(self.session._lingering) == self.abandoned
        assert not self.server._registered
        assert self.loop.pending_timers == 0
        assert not self.ledger.errors


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Open connections; at the end each is closed and must have left nothing."""
    connections: list[Connection] = []

    def connect(handler: Handler, **settings: Any) -> Connection:
        connections.append(Connection(handler, **settings))
        return connections[-1]

    yield connect
    for connection in connections:
        try:
            connection.finish()
        finally:
            connection.ledger.uninstall()
            connection.loop.dispose()


class Log:
    """A handler that echoes and notes what it sees, by stream number in order of opening."""

    def __init__(self) -> None:
        self.streams: list[Stream] = []
        self.contexts: list[Context] = []
        self.seen: list[tuple[bytes, Address | None]] = []
        self.ended: list[int] = []
        self.errors: list[StreamClosed] = []
        self.cancelled: list[int] = []

    async def __call__(self, stream: Stream, context: Context) -> None:
        """Echo until the end."""
        number = len(self.streams)
        self.streams.append(stream)
        self.contexts.append(context)
        try:
            while (packet := await stream.read_packet()) is not None:
                self.seen.append(packet)
                await stream.write(*packet)
            self.ended.append(number)
        except StreamClosed as exc:
            self.errors.append(exc)
            raise
        except asyncio.CancelledError:
            self.cancelled.append(number)
            raise


@pytest.fixture
def log() -> Log:
    """An echo that keeps a log."""
    return Log()


async def deaf(_stream: Stream, _context: Context) -> None:
    """Read nothing and never return."""
    await asyncio.get_running_loop().create_future()


def new(stream_id: int = 1, data: bytes | None = None, target: Address = TARGET) -> Frame:
    """Open a TCP stream."""
    return Frame.new(stream_id, NetworkType.TCP, target, data)


def keep(stream_id: int, data: bytes) -> Frame:
    """Send data."""
    return Frame.keep(stream_id, data)


def end(stream_id: int, *, error: bool = False) -> Frame:
    """End a stream."""
    return Frame.end(stream_id, error=error)


# Frames: events 7 to 23.


def test_session_new_starts_handler_with_target(connect: Connect, log: Log) -> None:
    """A New registers a stream and starts its handler, which knows target and network."""
    connection = connect(log)

    connection.send(new(7))

    (stream,) = log.streams
    assert (stream.stream_id, stream.target, stream.network) == (7, TARGET, NetworkType.TCP)
    assert connection.session.streams == {7: stream}
    assert connection.script.received == b""


def test_session_new_with_data(connect: Connect, log: Log) -> None:
    """The data of a New is the first that the handler reads."""
    connection = connect(log)

    connection.send(new(1, b"first"), keep(1, b" second"))

    assert [data for data, _ in log.seen] == [b"first", b" second"]
    assert connection.data(1) == b"first second"


def test_session_domain_that_spells_an_address_is_one(connect: Connect, log: Log) -> None:
    """A domain that is an IP literal is dialled as the address, without a look-up."""
    connection = connect(log)

    connection.send(new(1, target=Address("1.2.3.4", 80, AddressType.DOMAIN)))

    assert log.streams[0].target.kind is AddressType.IPV4


def test_session_udp_keeps_packets_and_addresses(connect: Connect, log: Log) -> None:
    """Packets keep their boundaries; a Global ID is no payload; each may have its own address."""
    connection = connect(log)

    connection.send(
        Frame.new(3, NetworkType.UDP, TARGET, b"a", bytes(range(8))),
        Frame.keep(3, b"bc", OTHER),
        keep(3, b"d"),
        Frame.new(4, NetworkType.UDP, TARGET),
    )

    packets = [(b"a", TARGET), (b"bc", OTHER), (b"d", None)]
    assert log.seen == packets
    assert [(frame.data, frame.target) for frame in connection.frames()] == packets
    assert set(connection.session.streams) == {3, 4}


def test_session_tcp_reply_has_no_address(connect: Connect) -> None:
    """An address that a TCP handler gives is not put on the wire: there only UDP has one."""

    async def handler(stream: Stream, _context: Context) -> None:
        await stream.write(b"x" * 70_000, OTHER)

    connection = connect(handler)

    connection.send(new())

    assert connection.data(1) == b"x" * 70_000
    assert all(frame.target is None for frame in connection.frames())


@pytest.mark.parametrize("data", [None, b""])
def test_session_keep_without_payload_has_no_effect(
    data: bytes | None, connect: Connect, log: Log
) -> None:
    """A Keep without data, or with none of it, changes nothing and keeps the framing."""
    connection = connect(log)
    option = 0 if data is None else DATA

    connection.send(new(), Frame(1, FrameStatus.KEEP, option, data=data), keep(1, b"after"))

    assert [data for data, _ in log.seen] == [b"after"]


def test_session_keep_for_unknown_id(connect: Connect, log: Log) -> None:
    """Data for nobody is dropped and answered with End; without data there is no answer."""
    connection = connect(log)

    connection.send(Frame(9, FrameStatus.KEEP), keep(9, b"lost"), new(1, b"found"))

    assert connection.frames() == [end(9, error=True), keep(1, b"found")]


def test_session_end_is_the_end_of_one_direction(connect: Connect) -> None:
    """After an End the handler reads the end, may still write, and its return gives one End."""
    done = asyncio.Event()

    async def handler(stream: Stream, _context: Context) -> None:
        while await stream.read():
            pass
        await done.wait()
        await stream.write(b"late answer")

    connection = connect(handler)
    connection.send(new(1, b"question"), end(1))
    assert connection.frames() == []
    assert 1 in connection.session.streams

    done.set()
    connection.run()

    assert connection.frames() == [keep(1, b"late answer"), end(1)]
    assert not connection.session.streams


def test_session_end_with_data_delivers_it(connect: Connect, log: Log) -> None:
    """The data of an End is delivered, then the end."""
    connection = connect(log)

    connection.send(new(), Frame(1, FrameStatus.END, DATA, data=b"last"))

    assert connection.data(1) == b"last"
    assert log.ended == [0]
    assert connection.frames()[-1] == end(1)


def test_session_end_with_error_ends_both_directions(connect: Connect, log: Log) -> None:
    """An End with the error bit makes the handler's read raise; nothing is sent for the id."""
    connection = connect(log)

    connection.send(new(1, b"x"))
    connection.send(Frame(1, FrameStatus.END, ERRORS, data=b"dropped"))

    (error,) = log.errors
    assert isinstance(error.__cause__, StreamReset)
    assert connection.frames() == [keep(1, b"x")]
    assert not connection.session.streams


def test_session_end_for_unknown_id_is_ignored(connect: Connect, log: Log) -> None:
    """An End, plain or with error or data, for an id that nobody has, draws no answer."""
    connection = connect(log)

    connection.send(end(9), end(9, error=True), Frame(9, FrameStatus.END, DATA, data=b"x"))

    assert connection.frames() == []
    assert not connection.task.done()


def test_session_second_end_is_ignored(connect: Connect) -> None:
    """An End twice, and data after an End, change nothing for a handler that lives on."""
    seen: list[bytes] = []

    async def handler(stream: Stream, context: Context) -> None:
        while data := await stream.read():
            seen.append(data)
        seen.append(b"END")
        await context.wait()

    connection = connect(handler)

    connection.send(new(1, b"x"), end(1), end(1), keep(1, b"late"), end(1))

    assert seen == [b"x", b"END"]
    assert connection.frames() == []
    assert 1 in connection.session.streams


@pytest.mark.parametrize("stream_id", [0, 1, 0xABCD])
def test_session_keep_alive_is_dropped(stream_id: int, connect: Connect, log: Log) -> None:
    """A KeepAlive, with or without data and under any id, reaches no handler."""
    connection = connect(log)

    connection.send(
        new(),
        Frame(stream_id, FrameStatus.KEEP_ALIVE),
        Frame(stream_id, FrameStatus.KEEP_ALIVE, DATA, data=b"dropped", padding=b"pad"),
        keep(1, b"x"),
    )

    assert log.seen == [(b"x", None)]
    assert connection.frames() == [keep(1, b"x")]


def test_session_keep_alive_prolongs_idle_connection(connect: Connect, log: Log) -> None:
    """A KeepAlive within each interval keeps an idle connection; silence ends it."""
    connection = connect(log)
    for _ in range(3):
        connection.run(LIMITS.idle_seconds - 1)
        connection.send(Frame(0, FrameStatus.KEEP_ALIVE))
        assert not connection.task.done()

    connection.run(2 * LIMITS.idle_seconds)

    assert isinstance(connection.task.result(), IdleTimeout)


def test_session_padding_is_ignored(connect: Connect, log: Log) -> None:
    """Padding in the metadata of an End does not hurt the other streams."""
    connection = connect(log)

    connection.send(
        new(1), new(2), Frame(1, FrameStatus.END, padding=b"\x02\x00"), keep(2, b"still there")
    )

    assert connection.data(2) == b"still there"
    assert log.ended == [0]


@pytest.mark.parametrize("cut", [1, 5, 11, 40])
def test_session_segmentation_does_not_matter(cut: int, connect: Connect, log: Log) -> None:
    """Frames cut anywhere give the same streams and the same answers."""
    wire = b"".join(map(encode_frame, (new(1, b"one"), new(2, b"two"), keep(1, b"!"), end(1))))
    connection = connect(log)

    for start in range(0, len(wire), cut):
        connection.send(wire[start : start + cut])

    assert (connection.data(1), connection.data(2)) == (b"one!", b"two")
    assert connection.frames()[-1] == end(1)


def test_session_serves_what_came_with_the_header(connect: Connect, log: Log) -> None:
    """Frames that shared a segment with the request header are served first."""
    connection = connect(log, received=encode_frame(new(1, b"early")))

    connection.send(keep(1, b" late"))

    assert connection.data(1) == b"early late"


def test_session_response_header_leaves_with_first_frame(connect: Connect, log: Log) -> None:
    """The response header is sent once, glued to the first frame, and not before."""
    connection = connect(log)
    connection.send(new(1))
    assert connection.script.received == b""

    connection.send(keep(1, b"OK"))
    first = bytes(connection.script.received)
    connection.send(keep(1, b"OK"))

    assert first.hex() == "0000" + "0004000102010002" + b"OK".hex()
    assert bytes(connection.script.received) == first + first[2:]


# What is malformed: events 24 to 32, rule 3.

MALFORMED = {
    "status": "0004 0001 05 00",
    "network": "000c 0001 01 00 03 0050 01 7f000001",
    "address type": "000c 0001 01 00 01 0050 04 7f000001",
    "short new": "0004 0001 01 00",
    "domain past metadata": "000a 0001 01 00 01 0050 02 0b 65",
    "length 0": "0000",
    "length 3": "0003 0001 02",
    "length 513": "0201",
    "length 65535": "ffff",
}


@pytest.mark.parametrize("wire", MALFORMED.values(), ids=MALFORMED.keys())
def test_session_malformed_frame_is_fatal(wire: str, connect: Connect, log: Log) -> None:
    """A malformed frame ends the connection at once, from our side, and every stream with it."""
    connection = connect(log)
    connection.send(new(1, b"x"), new(2))

    connection.send(bytes.fromhex(wire))

    assert isinstance(connection.task.result(), FrameError)
    assert connection.script.ended
    assert log.cancelled == [0, 1]
    assert all(stream.cause is connection.session.cause for stream in log.streams)
    assert connection.ledger.count == 0


def test_session_bad_new_on_live_id_releases_the_old_stream(connect: Connect, log: Log) -> None:
    """A New with a bad network under an id in use touches nothing before the end of all (R3)."""
    connection = connect(log)
    connection.send(new(5))

    connection.send(bytes.fromhex("000c 0005 0100 03 0050 01 7f000001"))

    assert len(log.streams) == 1
    assert isinstance(log.streams[0].cause, FrameError)


def test_session_frames_before_a_malformed_one_are_served(connect: Connect, log: Log) -> None:
    """What came in one segment before the malformed frame has its effect."""
    connection = connect(log)

    connection.send(keep(9, b"x"), bytes.fromhex(MALFORMED["status"]), new(1))

    assert connection.frames() == [end(9, error=True)]
    assert not log.streams


@pytest.mark.parametrize("cut", range(1, 27))
def test_session_truncated_frame_is_an_error(cut: int, connect: Connect, log: Log) -> None:
    """A connection that ends inside a frame ends with that cause, and all is released."""
    connection = connect(log)
    wire = bytes.fromhex("0014 0002 01 01 01 01bb 02 0b 6578616d706c652e636f6d 0003 474554")
    connection.send(new(1), wire[:cut])
    assert not connection.task.done()

    connection.close()

    assert isinstance(connection.task.result(), TruncatedError)
    assert log.cancelled == [0]


def test_session_cut_frame_blocks_nobody(connect: Connect) -> None:
    """A peer that falls silent in a frame blocks no handler; the idle limit ends it."""

    async def handler(stream: Stream, _context: Context) -> None:
        for number in range(3):
            await stream.write(b"%d" % number)

    connection = connect(handler)

    connection.send(new(1), b"\x00")

    assert connection.data(1) == b"012"
    connection.run(2 * LIMITS.idle_seconds)
    assert isinstance(connection.task.result(), IdleTimeout)


def test_session_empty_domain_is_refused(connect: Connect, log: Log) -> None:
    """A New without a host is refused by an End with error; the connection lives."""
    connection = connect(log)

    connection.send(bytes.fromhex("0009 0001 01 01 01 0050 02 00 0002 6869"), new(2, b"x"))

    assert connection.frames() == [end(1, error=True), keep(2, b"x")]
    assert len(log.streams) == 1


# Ids: rules 1, 2 and 12.


def test_session_live_id_ends_the_old_stream_first(connect: Connect, log: Log) -> None:
    """A New under an id in use ends its stream and handler, quietly, and opens another (R2)."""
    connection = connect(log)
    connection.send(new(5, b"old"))

    connection.send(new(5, b"new"))

    old, young = log.streams
    assert isinstance(old.cause, StreamReplaced)
    assert log.cancelled == [0]
    assert connection.session.streams == {5: young}
    assert connection.frames() == [keep(5, b"old"), keep(5, b"new")]


def test_session_live_id_in_one_segment(connect: Connect, log: Log) -> None:
    """A stream that is replaced before its handler's first step does not linger for ever."""
    connection = connect(log, max_streams=30)

    for _ in range(3):
        connection.send(*[new(5)] * 20)
    connection.send(new(6, b"x"))

    assert connection.frames() == [keep(6, b"x")]
    assert len(connection.session.reachable()) == 2
    assert connection.ledger.count == 2 + 2


def test_session_old_handler_never_writes_to_new_stream(connect: Connect) -> None:
    """Identity is the stream, not the number: an old handler's bytes and close go nowhere (R1)."""
    errors: list[BaseException] = []
    go = asyncio.Event()

    async def handler(stream: Stream, _context: Context) -> None:
        first = await stream.read()
        if first != b"old":
            await stream.write(first)
            await asyncio.get_running_loop().create_future()
        while not go.is_set():
            with suppress(asyncio.CancelledError):
                await go.wait()
        try:
            await stream.write(b"from the old one")
        except StreamClosed as exc:
            errors.append(exc)
        stream.close(error=True)

    connection = connect(handler)
    connection.send(new(5, b"old"))
    connection.send(end(5), new(5, b"new"))

    go.set()
    connection.run()

    assert connection.frames() == [keep(5, b"new")]
    assert len(errors) == 1
    assert 5 in connection.session.streams


def test_session_old_writer_that_waited_never_writes_to_new_stream(connect: Connect) -> None:
    """A write that began under the old stream, in a task of its own, ends with that stream."""
    writing: list[asyncio.Task[None]] = []

    async def handler(stream: Stream, context: Context) -> None:
        if not writing:
            writing.append(asyncio.create_task(stream.write(b"old" * 100_000)))
        else:
            await stream.write(b"new")
        await context.wait()

    connection = connect(handler)
    connection.far.pause_reading()
    connection.send(new(5))
    connection.send(new(5))
    connection.far.resume_reading()
    connection.run()

    assert isinstance(writing[0].exception(), StreamClosed)
    assert connection.data(5).endswith(b"new")
    assert b"new" not in connection.data(5)[:-3]
    assert len(connection.data(5)) < 300_000


def test_session_retiring_the_old_stream_leaves_the_new(connect: Connect, log: Log) -> None:
    """Whatever ends an old stream frees the id only if it is still its own (R1)."""
    connection = connect(log)
    connection.send(new(5))
    connection.send(new(5))
    old, young = log.streams

    connection.session.retire(old, ServerStopped("by hand"))

    assert connection.session.streams == {5: young}


def test_session_id_can_be_used_again(connect: Connect, log: Log) -> None:
    """An id is free once its stream has ended, as often as the peer likes, without a trace."""
    connection = connect(log)

    for number in range(100):
        connection.send(new(1, b"%d" % number), end(1))

    assert len(log.ended) == 100
    assert not connection.session.reachable()
    assert connection.ledger.count == 2


def test_session_every_id_is_possible(connect: Connect, log: Log) -> None:
    """The lowest and the highest id are ids like others."""
    connection = connect(log)

    connection.send(new(0, b"a"), new(0xFFFF, b"b"))

    assert (connection.data(0), connection.data(0xFFFF)) == (b"a", b"b")


def test_session_caps_streams(connect: Connect, log: Log) -> None:
    """Streams above the cap are refused; those that end make room (R12)."""
    connection = connect(log, max_streams=2)
    connection.send(new(1), new(2), new(3))
    assert connection.frames() == [end(3, error=True)]

    connection.send(end(1))
    connection.send(new(3, b"x"))

    assert connection.data(3) == b"x"


def test_session_cap_counts_handlers_that_linger(connect: Connect) -> None:
    """A stream that the peer ended counts until its handler has ended, or the cap caps nothing."""
    connection = connect(deaf, max_streams=2)

    connection.send(new(1), end(1, error=True), new(1), end(1, error=True), new(1))

    assert connection.frames() == [end(1, error=True)]
    assert connection.ledger.count == 2 + 2


@pytest.mark.parametrize("refused", [TARGET, Address("", 80, AddressType.DOMAIN)])
def test_session_refused_new_on_live_id_ends_the_old_stream(
    refused: Address, connect: Connect, log: Log
) -> None:
    """Once the peer has been told that an id has failed, no stream goes on under it."""
    connection = connect(log, max_streams=1)
    connection.send(new(1))

    connection.send(new(1, target=refused))

    assert connection.frames() == [end(1, error=True)]
    assert not connection.session.streams
    assert log.cancelled == [0]


# Handlers: events 38 to 49, rules 4 to 6.


def test_session_handler_that_returns_closes_its_stream(connect: Connect) -> None:
    """A handler that returns without closing ends its stream; late data for it is dropped (R6)."""

    async def handler(_stream: Stream, _context: Context) -> None:
        pass

    connection = connect(handler)

    connection.send(new(1, b"unread"), new(2))
    connection.send(keep(1, b"late"))

    assert connection.frames() == [end(1), end(2), end(1, error=True)]
    assert not connection.task.done()


@pytest.mark.parametrize("reads", [0, 1])
def test_session_handler_that_raises_is_logged_once(
    reads: int, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """A handler's error ends its stream with the error bit and is one line of the log (R6)."""

    async def handler(stream: Stream, _context: Context) -> None:
        for _ in range(reads):
            await stream.read()
        raise RuntimeError("on purpose")

    connection = connect(handler)

    connection.send(new(1, b"x"), new(2, b"y"))

    assert connection.frames() == [end(1, error=True), end(2, error=True)]
    lines = [record.getMessage() for record in caplog.records if record.name == "muxleak_vless"]
    assert [line for line in lines if "RuntimeError: on purpose" in line] == lines
    assert len(lines) == 2
    assert not connection.task.done()


def test_session_handler_may_close_early(connect: Connect) -> None:
    """Closing tells the peer at once, once; the handler may go on, but not on the stream."""
    errors: list[BaseException] = []

    async def handler(stream: Stream, context: Context) -> None:
        stream.close()
        stream.close(error=True)
        for operation in (stream.read(), stream.write(b"late")):
            try:
                await operation
            except StreamClosed as exc:
                errors.append(exc)
        await context.wait()

    connection = connect(handler)

    connection.send(new(1, b"x"))

    assert connection.frames() == [end(1)]
    assert len(errors) == 2
    assert len(connection.session._lingering) == 1


@pytest.mark.parametrize("first", ["end", "close"])
def test_session_end_and_close_in_the_same_turn(first: str, connect: Connect) -> None:
    """The peer's End and the handler's close, in either order, give one End and no error."""
    streams: list[Stream] = []

    async def handler(stream: Stream, _context: Context) -> None:
        streams.append(stream)
        await stream.read()

    connection = connect(handler)
    connection.send(new(1))

    if first == "close":
        connection.loop.call_soon(streams[0].close)
    connection.far.write(encode_frame(end(1)))
    connection.loop.turn()
    if first == "end":
        connection.loop.call_soon(streams[0].close)
    connection.run()

    assert connection.frames() == [end(1)]
    assert connection.ledger.count == 2


def test_session_handler_that_ignores_the_end_is_cancelled_with_the_connection(
    connect: Connect,
) -> None:
    """A handler may live on after its stream's end, but not after its connection's (R4)."""
    connection = connect(deaf)
    connection.send(new(1), end(1), new(2), end(2, error=True))
    assert connection.ledger.count == 2 + 2

    connection.close()

    assert connection.ledger.count == 0


def test_session_handler_may_bid_farewell(connect: Connect) -> None:
    """A handler that spends its first cancellation on a farewell is waited for, then asked again.

    The session returns when it has ended, which is before the limit.
    """
    said: list[str] = []

    async def handler(_stream: Stream, _context: Context) -> None:
        for what in ("farewell", "really"):
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                said.append(what)

    connection = connect(handler)
    connection.send(new(1))

    connection.close()
    assert not connection.task.done()
    connection.run(LIMITS.close_seconds)

    assert said == ["farewell", "really"]
    assert isinstance(connection.task.result(), PeerClosed)


def test_session_handler_that_ignores_cancellation_is_reported(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """A handler that cannot be ended holds its connection for two limits, and is named."""

    async def handler(_stream: Stream, _context: Context) -> None:
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.get_running_loop().create_future()

    connection = connect(handler)
    connection.abandoned = 1
    connection.send(new(3), new(4, target=Address("", 1, AddressType.DOMAIN)))

    connection.close()
    connection.run(2 * LIMITS.close_seconds - 1)
    assert not connection.task.done()
    connection.run(1)

    assert connection.task.done()
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "<Stream 3 to 127.0.0.1:80" in warning.getMessage()
    assert "ignored its cancellation" in warning.getMessage()


class Fragile(asyncio.Future[None]):
    """A future whose first `times` cancellations raise."""

    times = 1

    def cancel(self, msg: Any = None) -> bool:
        """Raise, or end."""
        if self.times:
            self.times -= 1
            raise OSError(24, "no descriptor left")
        return super().cancel(msg)


def test_session_release_that_raises_keeps_no_other_stream(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """Each stream is released whatever the others raise, and each failure is named."""
    connection: Connection

    async def handler(stream: Stream, _context: Context) -> None:
        if stream.stream_id % 2:
            await Fragile(loop=connection.loop)
        await connection.loop.create_future()

    connection = connect(handler)
    connection.send(*map(new, range(1, 7)))

    connection.close()
    assert connection.ledger.count == 3 + 1  # those that raised, and the task of the connection
    connection.run(LIMITS.close_seconds)

    assert connection.task.done()
    assert connection.ledger.count == 0
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [text.partition(" to ")[0] for text in warnings] == [f"<Stream {i}" for i in (1, 3, 5)]
    assert all("cannot be released: OSError: [Errno 24] no desc" in text for text in warnings)


def test_session_release_that_always_raises_is_abandoned(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """It holds its connection for two limits, as one that ignores its cancellation."""
    connection: Connection

    async def handler(_stream: Stream, _context: Context) -> None:
        await forever

    connection = connect(handler)
    forever = Fragile(loop=connection.loop)
    forever.times = 3
    connection.abandoned = 1
    connection.send(new(1))

    connection.close()
    connection.run(2 * LIMITS.close_seconds)

    assert connection.task.done()
    assert "is abandoned" in caplog.records[-1].getMessage()


def test_session_replaced_stream_that_cannot_be_cancelled_is_survived(
    connect: Connect, log: Log
) -> None:
    """The connection goes on, and ends its handler later."""
    connection: Connection

    async def handler(stream: Stream, context: Context) -> None:
        if stream.target == OTHER:
            await Fragile(loop=connection.loop)
        await log(stream, context)

    connection = connect(handler)
    connection.send(new(1, target=OTHER), new(1, b"abc"))

    assert connection.data(1) == b"abc"


def test_session_cleanup_goes_on_after_a_step_that_raises(
    connect: Connect, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streams, link and caller are each told, whatever the one before raises."""

    class Raising(Lifecycle):
        def release(self, session: MuxSession, cause: BaseException) -> None:
            super().release(session, cause)
            raise OSError("release")

        def end_link(self, session: MuxSession) -> None:
            super().end_link(session)
            raise OSError("end_link")

    connection = connect(log, lifecycle=Raising())
    connection.send(new(1))
    errors: list[str] = []
    logger = logging.getLogger("muxleak_vless")
    monkeypatch.setattr(logger, "exception", lambda *_: errors.append(str(sys.exception())))
    connection.close()

    assert errors == ["release", "end_link"]
    assert connection.session.context.cancelled
    assert len(connection.causes) == 1


def test_session_no_warning_for_handler_that_never_began(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """A connection that opens and ends in one segment is no handler's fault."""
    connection = connect(deaf)

    connection.send(new(1), bytes.fromhex(MALFORMED["status"]))

    assert connection.task.done()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_session_slow_handler_gets_everything(connect: Connect) -> None:
    """A handler that is slow, within the limit, loses nothing: the receive loop waits for it."""
    go = asyncio.Event()
    sizes: list[int] = []

    async def handler(stream: Stream, _context: Context) -> None:
        await go.wait()
        while data := await stream.read():
            sizes.append(len(data))

    connection = connect(handler)
    connection.send(new(1), *[keep(1, bytes(400))] * 10, end(1))
    connection.run(LIMITS.stall_seconds - 1)

    go.set()
    connection.run()

    assert sum(sizes) == 4000
    assert connection.frames() == [end(1)]


def test_session_stalled_handler_is_reset(connect: Connect) -> None:
    """A handler that does not read costs the others its limit; then it alone is ended (R5)."""
    streams: list[Stream] = []

    async def handler(stream: Stream, _context: Context) -> None:
        streams.append(stream)
        if stream.stream_id == 1:
            await asyncio.get_running_loop().create_future()
        while data := await stream.read():
            await stream.write(data)

    connection = connect(handler)
    connection.send(new(1), new(2), keep(1, bytes(2000)), keep(2, b"waits"))
    assert connection.frames() == []

    connection.run(LIMITS.stall_seconds)

    assert connection.frames() == [end(1, error=True), keep(2, b"waits")]
    assert isinstance(streams[0].cause, StreamStalled)
    assert connection.ledger.count == 2 + 1
    assert not connection.task.done()


@pytest.mark.parametrize("ending", ["close", "reset", "cancel"])
def test_session_end_is_seen_while_a_handler_stalls(ending: str, connect: Connect) -> None:
    """Full streams, however many, delay the end of the connection by nothing (R5)."""
    streams: list[Stream] = []

    async def handler(stream: Stream, context: Context) -> None:
        streams.append(stream)
        await deaf(stream, context)

    connection = connect(handler)
    connection.send(*map(new, range(1, 6)), *[keep(each, bytes(2000)) for each in range(1, 6)])

    if ending == "close":
        connection.far.write_eof()
    elif ending == "reset":
        connection.far.abort()
    else:
        connection.server.cancel(ServerStopped("stop"))
    connection.run()

    assert connection.task.done()
    assert connection.loop.time() == 0
    expected = {"close": PeerClosed, "reset": LinkLost, "cancel": ServerStopped}[ending]
    assert {type(stream.cause) for stream in streams} == {expected}
    assert connection.frames() == []


async def by_id(stream: Stream, context: Context) -> None:
    """Read nothing of odd streams, all of even ones."""
    if stream.stream_id % 2:
        await deaf(stream, context)
    while await stream.read():
        pass


def test_session_unread_data_of_all_streams_is_bounded(connect: Connect) -> None:
    """Each stream is below its own limit; the connection resets the largest, and goes on."""
    connection = connect(by_id, inbox_bytes=1000, unread_bytes=1500)
    connection.send(new(1, bytes(600)), new(3, bytes(700)), new(5, bytes(100)))
    assert connection.session.unread.size == 1400
    connection.send(new(2, bytes(900)))
    assert connection.session.unread.size == 1400  # taken as soon as it came

    connection.send(keep(1, bytes(150)))
    assert connection.session.unread.size == 1550
    assert connection.frames() == []
    connection.run(LIMITS.stall_seconds)

    assert connection.frames() == [end(1, error=True)]
    assert connection.session.unread.size == 800
    assert set(connection.session.streams) == {2, 3, 5}
    connection.send(keep(2, bytes(10)), end(2))
    assert connection.frames()[1:] == [end(2)]


def test_session_resets_the_fullest_stream_not_the_one_that_receives(connect: Connect) -> None:
    """The data that fills the connection may be that of a handler that reads."""
    connection = connect(by_id, inbox_bytes=1000, unread_bytes=1500)
    connection.send(new(1, bytes(800)), new(3, bytes(650)), new(2, bytes(100)))
    connection.run(2 * LIMITS.stall_seconds)
    assert set(connection.session.streams) == {1, 2, 3}

    connection.send(new(5, bytes(100)), keep(3, bytes(5)))
    connection.run(LIMITS.stall_seconds)

    assert set(connection.session.streams) == {2, 3, 5}


def test_session_handler_that_reads_again_makes_room(connect: Connect) -> None:
    """Within the stall limit nothing is reset, and what waited comes after."""
    connection: Connection
    received: list[int] = []

    async def slow(stream: Stream, _context: Context) -> None:
        await asyncio.sleep(LIMITS.stall_seconds / 2)
        while data := await stream.read():
            received.append(len(data))

    connection = connect(slow, inbox_bytes=1000, unread_bytes=1500)
    connection.send(*(new(i, bytes(800)) for i in (1, 2, 3)))
    assert connection.session.unread.size == 1600
    connection.run(LIMITS.stall_seconds)

    assert received == [800, 800, 800]
    assert connection.frames() == []
    assert connection.session.unread.size == 0


@pytest.mark.parametrize("ending", ["reset", "replaced", "returned"])
def test_session_ended_stream_makes_room(ending: str, connect: Connect) -> None:
    """Data that a stream leaves unread when it ends does not count any more."""
    connection: Connection
    done: asyncio.Future[None]

    async def handler(_stream: Stream, _context: Context) -> None:
        await done

    connection = connect(handler, inbox_bytes=1000, unread_bytes=1500)
    done = connection.loop.create_future()
    connection.send(new(1, bytes(700)), new(2, bytes(700)))
    if ending == "returned":
        done.set_result(None)
        connection.run()
    else:
        connection.send(*([end(1, error=True), end(2, error=True)] if ending == "reset" else []))
        connection.send(*([new(1), new(2)] if ending == "replaced" else []))

    assert connection.session.unread.size == 0


def test_session_peers_end_is_seen_while_the_connection_is_full(connect: Connect) -> None:
    """The limit over all streams is lifted as that of one is: nothing hides the end."""
    connection = connect(by_id, inbox_bytes=1000, unread_bytes=1500)
    connection.send(new(1, bytes(800)), new(3, bytes(800)), new(5, bytes(800)))
    assert set(connection.session.streams) == {1, 3}

    connection.close()

    assert connection.task.done()


def test_session_stream_opened_after_the_peers_end_does_not_wait(connect: Connect) -> None:
    """A stream whose New was read after the peer's end has no reason for patience either."""
    connection = connect(deaf)
    connection.send(new(1), keep(1, bytes(2000)), *[keep(2, b"")] * 3)
    connection.send(new(2, bytes(2000)), new(3, bytes(2000)))

    connection.close()

    assert isinstance(connection.task.result(), PeerClosed)
    assert connection.loop.time() == 0


SIZES = [0, 1, 65_535, 65_536, 1024 * 1024]


@pytest.mark.parametrize("size", SIZES)
def test_session_large_writes_are_split(size: int, connect: Connect) -> None:
    """Whatever a handler writes at once arrives, in frames that fit; nothing gives no frame."""

    async def handler(stream: Stream, _context: Context) -> None:
        await stream.write(bytes(size))

    connection = connect(handler)

    connection.send(new(1))

    *frames, last = connection.frames()
    assert [len(frame.data or b"") for frame in frames] == [
        min(65_535, size - start) for start in range(0, size, 65_535)
    ]
    assert last == end(1)
    assert not connection.task.done()


def test_session_large_write_is_no_backlog(connect: Connect) -> None:
    """A write above the backlog's bound to a peer that is only slow does not end the connection."""
    wrote: list[bool] = []

    async def handler(stream: Stream, _context: Context) -> None:
        await stream.write(bytes(10 * LIMITS.backlog_bytes))
        wrote.append(True)

    connection = connect(handler)
    connection.far.pause_reading()
    connection.send(new(1), keep(9, b"draws a reply"))
    assert connection.session.link.backlog < 2 * 65_536 + 1000
    assert not wrote

    connection.far.resume_reading()
    connection.run()

    assert len(connection.data(1)) == 10 * LIMITS.backlog_bytes
    assert connection.frames()[-1] == end(1)
    assert not connection.task.done()


def test_session_write_after_the_end_raises(connect: Connect) -> None:
    """Nothing can be written once the connection has ended; the true cause is chained."""
    errors: list[StreamClosed] = []

    async def handler(stream: Stream, context: Context) -> None:
        with suppress(asyncio.CancelledError):
            await context.wait()
        try:
            await stream.write(b"late")
        except StreamClosed as exc:
            errors.append(exc)

    connection = connect(handler)
    connection.send(new(1))

    connection.close()

    (error,) = errors
    assert isinstance(error.__cause__, PeerClosed)
    assert connection.frames() == []


def test_session_concurrent_writers_all_arrive(connect: Connect) -> None:
    """Many streams that write at once, with nothing after them, all arrive (no lost flush)."""

    async def handler(stream: Stream, context: Context) -> None:
        await stream.read()
        for number in range(40):
            await stream.write(b"%02d" % number)
        await context.wait()

    connection = connect(handler)
    connection.far.pause_reading()
    connection.send(*[new(each, b"go") for each in range(8)])

    connection.far.resume_reading()
    connection.run()

    expected = b"".join(b"%02d" % number for number in range(40))
    assert [connection.data(each) for each in range(8)] == [expected] * 8


# The end of the connection: events 33 to 37 and 50 to 53, rules 7 to 11.

ENDINGS: dict[str, tuple[Callable[[Connection], object], type[BaseException]]] = {
    "close": (lambda c: c.far.close(), PeerClosed),
    "half close": (lambda c: c.far.write_eof(), PeerClosed),
    "reset": (lambda c: c.far.abort(), LinkLost),
    "vanish": (lambda c: c.run(2 * LIMITS.idle_seconds), IdleTimeout),
    "bad frame": (lambda c: c.send(bytes.fromhex(MALFORMED["status"])), FrameError),
    "server's end": (lambda c: c.server.cancel(ServerStopped("reload")), ServerStopped),
}


@pytest.mark.parametrize(("action", "cause"), ENDINGS.values(), ids=ENDINGS.keys())
def test_session_every_end_has_its_cause(
    action: Callable[[Connection], object],
    cause: type[BaseException],
    connect: Connect,
    log: Log,
) -> None:
    """However it ends: one cleanup, the true cause to the caller, handlers and context (R9, R11).

    The transport is closed from our side too.
    """
    connection = connect(log)
    connection.send(new(1), new(2), end(2, error=True))

    action(connection)
    connection.run()

    assert isinstance(connection.task.result(), cause)
    assert connection.causes == [connection.session.cause] == [connection.session.context.cause]
    assert log.streams[0].cause is log.contexts[0].cause is connection.session.cause
    assert log.cancelled == [0]
    assert connection.session.link.transport is None
    assert connection.ledger.count == 0


@pytest.mark.parametrize("frames", [0, 1])
def test_session_connection_that_only_opens(frames: int, connect: Connect, log: Log) -> None:
    """A mux connection that closes without a frame, or with one New, leaves nothing."""
    connection = connect(log)
    connection.send(*[new(1)] * frames)

    connection.close()

    assert isinstance(connection.task.result(), PeerClosed)
    assert connection.ledger.count == 0


def test_session_half_close_flushes_what_is_queued(connect: Connect) -> None:
    """A peer that ends its direction still gets what was queued for it, within the limit."""

    async def handler(stream: Stream, context: Context) -> None:
        await stream.write(b"x" * 60_000)
        await context.wait()

    connection = connect(handler)
    connection.far.pause_reading()
    connection.send(new(1))

    connection.far.write_eof()
    connection.run(LIMITS.close_seconds - 1)
    assert not connection.task.done()
    connection.far.resume_reading()
    connection.run()

    assert len(connection.data(1)) == 60_000
    assert connection.task.done()


def test_session_peer_that_stops_reading_is_given_up(connect: Connect, log: Log) -> None:
    """The writer waits for the write limit while the receive loop goes on; then all is released."""
    connection = connect(log)
    connection.far.pause_reading()
    connection.send(new(1), new(2))
    for _ in range(200):
        connection.send(keep(1, bytes(900)))
    connection.send(keep(2, b"still received"))
    assert connection.session.link._paused
    assert len(log.seen) >= 2

    connection.run(LIMITS.write_seconds)

    assert isinstance(connection.task.result(), WriteStalled)
    assert connection.ledger.count == 0


def test_session_replies_to_deaf_peer_are_bounded(connect: Connect, log: Log) -> None:
    """Data for unknown ids from a peer that does not read makes no task and no endless buffer.

    Replies leave through the one writer, whose backlog has a bound (R7).
    """
    connection = connect(log)
    connection.far.pause_reading()
    wire = encode_frame(keep(9, b"x")) * 1000

    most = 0
    for _ in range(100):
        connection.send(wire)
        most = max(most, connection.ledger.count)
        if connection.task.done():
            break

    assert connection.task.done()
    assert isinstance(connection.task.result(), WriteStalled)
    assert most == 2
    assert connection.loop.time() == 0


def test_session_parent_ended_before_the_first_frame(connect: Connect, log: Log) -> None:
    """A session under a context that has ended serves nothing and returns that cause."""
    connection = connect(log)
    connection.server.cancel(ServerStopped("reload"))

    connection.send(new(1))

    assert isinstance(connection.task.result(), ServerStopped)
    assert not log.streams
    assert connection.script.ended


def test_session_parent_ended_with_frames_at_hand(log: Log, connect: Connect) -> None:
    """Frames that came before the end of the server was noticed are not left behind by it."""
    connection = connect(log)

    connection.far.write(encode_frame(new(1)) * 3)
    connection.loop.turn()
    connection.server.cancel(ServerStopped("reload"))
    connection.run()

    assert isinstance(connection.task.result(), ServerStopped)
    assert connection.ledger.count == 0


def test_session_new_while_closing_is_refused(connect: Connect) -> None:
    """Closing is a state: a New that arrives in it is not registered, whoever still waits (R8)."""
    opened: list[int] = []

    async def handler(stream: Stream, _context: Context) -> None:
        opened.append(stream.stream_id)
        with suppress(asyncio.CancelledError):
            await asyncio.get_running_loop().create_future()
        await asyncio.get_running_loop().create_future()

    connection = connect(handler)
    connection.send(new(1), keep(1, bytes(2000)), new(2), keep(3, b"x"))
    assert opened == [1]

    connection.server.cancel(ServerStopped("reload"))
    connection.run()

    assert opened == [1]
    assert not connection.session.streams
    connection.run(LIMITS.close_seconds)
    assert connection.task.done()


@pytest.mark.parametrize("order", ["end first", "cancel first"])
def test_session_racing_ends_clean_up_once(order: str, connect: Connect, log: Log) -> None:
    """The peer's end, a bad frame and the server's end in one turn: one cleanup, one cause."""
    connection = connect(log)
    connection.send(new(1))

    if order == "cancel first":
        connection.server.cancel(ServerStopped("reload"))
    connection.far.write(bytes.fromhex(MALFORMED["status"]))
    connection.far.write_eof()
    connection.loop.turn()
    if order == "end first":
        connection.server.cancel(ServerStopped("reload"))
    connection.run()

    assert len(connection.causes) == 1
    assert connection.task.result() is connection.causes[0] is log.streams[0].cause


def test_session_cleanup_acts_once(connect: Connect, log: Log) -> None:
    """The cleanup may be called from any path, at any time; it acts once (R9)."""
    connection = connect(log)
    connection.send(new(1))
    session = connection.session

    def clean_up() -> None:
        for _ in range(3):
            session.cleanup(ServerStopped("by hand"))

    connection.loop.call_soon(clean_up)
    connection.run()
    session.cleanup(ServerStopped("afterwards"))

    assert session.cleanups == 1
    assert str(connection.task.result()) == "by hand"


@pytest.mark.parametrize("blocked", [False, True])
def test_session_cancelled_run_releases_everything(
    blocked: bool,  # noqa: FBT001 - a parameter of the test
    connect: Connect,
) -> None:
    """The caller may cancel `run`, also while it waits for a handler: nothing is left."""
    connection = connect(deaf)
    connection.send(new(1), *[keep(1, bytes(2000))] * blocked)

    connection.task.cancel()
    connection.run()

    assert connection.task.cancelled()
    assert connection.session.cleanups == 1
    assert connection.ledger.count == 0


def test_session_returns_after_its_handlers(connect: Connect) -> None:
    """When `run` returns, the handlers have ended: there is nothing left to wait for (R9)."""
    left: list[int] = []

    async def handler(_stream: Stream, _context: Context) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            for _ in range(5):
                await asyncio.sleep(0)

    connection = connect(handler)
    connection.send(new(1), new(2))
    streams = list(connection.session.streams.values())
    connection.task.add_done_callback(
        lambda _: left.append(sum(not s.task.done() for s in streams if s.task is not None))
    )

    connection.close()

    assert left == [0]


def test_session_repr_names_state(connect: Connect, log: Log) -> None:
    """The text of a session counts its streams and says whether it is closing."""
    connection = connect(log)
    connection.send(new(1))
    assert repr(connection.session) == "<MuxSession 1 streams, open>"

    connection.close()

    assert repr(connection.session) == "<MuxSession 0 streams, closing>"


@pytest.mark.parametrize(("action", "cause"), ENDINGS.values(), ids=ENDINGS.keys())
def test_session_leaves_no_cycle(
    action: Callable[[Connection], object],
    cause: type[BaseException],
    connect: Connect,
    no_cycles: Callable[[], None],
) -> None:
    """A connection's session, streams and cause are freed when it ends, without the collector."""

    async def handler(stream: Stream, _context: Context) -> None:
        data = await stream.read()
        if data == b"raise":
            raise RuntimeError("on purpose")
        await stream.read()

    connection = connect(handler)
    connection.send(new(1, b"raise"), new(2, b"wait"), new(2, b"wait"), new(3, b"x"), end(3))
    action(connection)
    connection.run()
    assert isinstance(connection.task.result(), cause)

    connection.forget()

    no_cycles()
