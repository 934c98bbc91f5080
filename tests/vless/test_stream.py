"""Streams: what a handler sees of one, and how long its owner waits for the handler."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from muxleak_vless.address import Address, NetworkType
from muxleak_vless.errors import LinkLost, StreamClosed, StreamReset
from muxleak_vless.stream import MANY, Stream, Unread

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine

    from muxleak import VirtualLoop

    Start = Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]]

INBOX = 10
TARGET = Address.of("127.0.0.1", 80)
OTHER = Address.of("8.8.8.8", 53)


class Owner:
    """Writes down what a stream asks of it."""

    def __init__(self) -> None:
        self.log: list[object] = []

    async def write(self, stream: Stream, data: bytes, address: Address | None) -> None:
        """Note it."""
        del stream
        self.log.append((data, address))

    def close_stream(self, stream: Stream, *, error: bool) -> None:
        """End it, as owners do."""
        self.log.append(error)
        stream.fail(StreamClosed("closed by its handler"))


@pytest.fixture
def owner() -> Owner:
    """An owner that only takes notes."""
    return Owner()


@pytest.fixture
def stream(owner: Owner) -> Stream:
    """A stream that lives, with an inbox of ten bytes."""
    return Stream(owner, 1, NetworkType.TCP, TARGET, inbox=INBOX)


@pytest.fixture
def start(loop: VirtualLoop) -> Start:
    """Start a coroutine and run it until it waits or ends."""

    def start(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = loop.create_task(coroutine)
        loop.run_until_quiescent()
        return task

    return start


def test_stream_read_returns_pieces_in_order(stream: Stream, start: Start) -> None:
    """What was fed is read piece by piece, with the address of each; then the end."""
    stream.feed(b"one", OTHER)
    stream.feed(b"two")
    stream.feed_eof()

    assert start(stream.read_packet()).result() == (b"one", OTHER)
    assert start(stream.read()).result() == b"two"
    assert start(stream.read()).result() == b""
    assert start(stream.read_packet()).result() is None


@pytest.mark.parametrize("what", ["data", "eof", "failure"])
def test_stream_read_wakes(what: str, stream: Stream, start: Start, loop: VirtualLoop) -> None:
    """A reader that waits is woken by data, by the peer's end and by the stream's end."""
    reading = start(stream.read())
    assert not reading.done()

    if what == "data":
        stream.feed(b"data")
    elif what == "eof":
        stream.feed_eof()
    else:
        stream.fail(StreamReset("reset by the peer"))
    loop.run_until_quiescent()

    if what == "failure":
        assert isinstance(reading.exception(), StreamClosed)
    else:
        assert reading.result() == (b"data" if what == "data" else b"")


def test_stream_read_after_cancelled_read(stream: Stream, loop: VirtualLoop) -> None:
    """A read that begins before a cancelled one has ended is still woken."""
    old = loop.create_task(stream.read())
    loop.run_until_quiescent()
    old.cancel()
    new = loop.create_task(stream.read())
    # The new one runs before the old one has ended, as it may when somebody else cancels it.
    loop._ready.reverse()
    loop.run_until_quiescent()

    stream.feed(b"data")
    loop.run_until_quiescent()

    assert old.cancelled()
    assert new.done()
    assert new.result() == b"data"


def test_stream_end_drops_what_was_not_read(stream: Stream, start: Start) -> None:
    """A stream that has ended gives nothing more but its cause, chained to what is raised."""
    cause = LinkLost("connection lost")
    stream.feed(b"unread")

    stream.fail(cause)
    stream.fail(StreamClosed("later"))

    error = start(stream.read()).exception()
    assert isinstance(error, StreamClosed)
    assert error.__cause__ is cause
    assert str(error) == "stream 1: connection lost"
    assert stream.cause is cause


@pytest.mark.parametrize("end", ["eof", "failure"])
def test_stream_feed_after_end_is_dropped(end: str, stream: Stream, start: Start) -> None:
    """Data that comes after the end of a stream, or of its direction, is not kept."""
    if end == "eof":
        stream.feed_eof()
    else:
        stream.fail(StreamReset("reset"))

    stream.feed(b"late")

    assert not stream._inbox
    assert start(stream.read()).exception() is None or end == "failure"


def test_stream_feed_of_nothing_is_no_end(stream: Stream, start: Start, loop: VirtualLoop) -> None:
    """Empty data wakes nobody: to a reader it would look like the end."""
    reading = start(stream.read())

    stream.feed(b"")
    loop.run_until_quiescent()

    assert not reading.done()
    stream.feed_eof()
    loop.run_until_quiescent()
    assert reading.result() == b""


def test_stream_write_goes_to_owner(stream: Stream, owner: Owner, start: Start) -> None:
    """Writing hands data and address to whoever carries the stream, until it has ended."""
    assert start(stream.write(b"data", OTHER)).done()
    assert start(stream.write(b"more")).done()
    stream.fail(StreamReset("reset"))
    late = start(stream.write(b"late"))

    assert owner.log == [(b"data", OTHER), (b"more", None)]
    assert isinstance(late.exception(), StreamClosed)


@pytest.mark.parametrize("error", [False, True])
def test_stream_close_tells_owner_once(error: bool, stream: Stream, owner: Owner) -> None:  # noqa: FBT001 - a parameter of the test
    """Closing tells the owner whether it was a failure; closing again does nothing."""
    stream.close(error=error)
    stream.close()

    assert owner.log == [error]


def test_stream_room_waits_for_the_reader(stream: Stream, start: Start, loop: VirtualLoop) -> None:
    """A full inbox makes the owner wait until the handler has read enough."""
    stream.feed(b"x" * (INBOX - 1))
    assert start(stream.room(1)).result() is True
    stream.feed(b"y")
    waiting = start(stream.room(1))
    assert not waiting.done()

    assert start(stream.read()).done()
    loop.run_until_quiescent()

    assert waiting.result() is True
    assert loop.pending_timers == 0
    assert not stream._watchers


def test_stream_room_has_a_limit(stream: Stream, start: Start, loop: VirtualLoop) -> None:
    """A handler that does not read makes the owner wait for the limit and no longer."""
    stream.feed(b"x" * INBOX)
    waiting = start(stream.room(30))

    loop.advance(29)
    assert not waiting.done()
    loop.advance(1)

    assert waiting.result() is False
    assert not stream._watchers


def test_stream_room_of_ended_stream(stream: Stream, start: Start, loop: VirtualLoop) -> None:
    """The stream's end is as good as room: what comes is dropped."""
    stream.feed(b"x" * INBOX)
    waiting = start(stream.room(30))

    stream.fail(StreamReset("reset"))
    loop.run_until_quiescent()

    assert waiting.result() is True
    assert start(stream.room(30)).result() is True
    assert loop.time() == 0


def test_stream_stop_waiting_lifts_the_limit(
    stream: Stream, start: Start, loop: VirtualLoop
) -> None:
    """Once the peer has gone nobody waits for room any more, and nothing that came is lost."""
    stream.feed(b"x" * INBOX)
    waiting = start(stream.room(30))

    stream.stop_waiting()
    loop.run_until_quiescent()
    stream.feed(b"y" * INBOX)

    assert waiting.result() is True
    assert start(stream.room(30)).result() is True
    assert start(stream.read()).result() == b"x" * INBOX
    assert start(stream.read()).result() == b"y" * INBOX


def test_stream_cancelled_room_is_forgotten(
    stream: Stream, start: Start, loop: VirtualLoop
) -> None:
    """An owner that is cancelled while it waits leaves neither waiter nor timer."""
    stream.feed(b"x" * INBOX)
    tasks = [start(stream.room(30)), start(stream.drained())]

    for task in tasks:
        task.cancel()
    loop.run_until_quiescent()

    assert all(task.cancelled() for task in tasks)
    assert not stream._watchers
    assert loop.pending_timers == 0


@pytest.mark.parametrize("end", ["read", "failure"])
def test_stream_drained_waits_for_the_last_piece(
    end: str, stream: Stream, start: Start, loop: VirtualLoop
) -> None:
    """`drained` returns when everything is read or the stream has ended, and not before."""
    assert start(stream.drained()).done()
    stream.feed(b"one")
    stream.feed(b"two")
    waiting = start(stream.drained())
    assert start(stream.read()).done()
    stream.stop_waiting()
    loop.run_until_quiescent()
    assert not waiting.done()

    if end == "read":
        assert start(stream.read()).done()
    else:
        stream.fail(StreamReset("reset"))
    loop.run_until_quiescent()

    assert waiting.done()


@pytest.mark.parametrize("network", [NetworkType.TCP, NetworkType.UDP])
def test_stream_small_pieces_take_no_more_memory_than_counted(
    network: NetworkType, owner: Owner, start: Start
) -> None:
    """A peer sends its data byte by byte; the limits are on memory, not on data alone."""
    unread = Unread(1 << 30)
    stream = Stream(owner, 1, network, TARGET, inbox=1 << 30, connection=unread)
    pieces = [bytes([at % 256]) for at in range(5_000)]

    async def read_all() -> list[bytes]:
        return [await stream.read() for _ in iter(lambda: stream.unread, 0)]

    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for piece in pieces:
        stream.feed(piece)
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()

    # With room for the few pieces that are not joined.
    assert taken < 1.2 * unread.size + 128 * MANY
    assert stream.unread == unread.size
    received = start(read_all()).result()
    assert b"".join(received) == b"".join(pieces)
    assert received == pieces or network is NetworkType.TCP
    assert unread.size == 0


class Mute(Exception):  # noqa: N818 - a test's own
    """Has no text that can be had."""

    def __str__(self) -> str:
        raise OSError(24, "no descriptor left")


def test_stream_texts_cannot_fail(owner: Owner, start: Start) -> None:
    """A cause that has no text is named by its class, in the stream's own text and its errors."""
    stream = Stream(owner, 1, NetworkType.TCP, TARGET, inbox=INBOX)
    stream.fail(Mute())

    assert repr(stream).endswith(" ended: Mute>")
    assert str(start(stream.read()).exception()) == "stream 1: Mute"
    assert str(start(stream.write(b"x")).exception()) == "stream 1: Mute"


def test_stream_repr_is_one_line_without_address(owner: Owner) -> None:
    """The text names id, target and state, and a hostile domain cannot forge a line of a log."""
    stream = Stream(owner, 7, NetworkType.TCP, Address.of("a\nERROR b", 80), inbox=INBOX)
    live = repr(stream)
    stream.fail(StreamReset("reset"))

    assert live == r"<Stream 7 to a\nERROR b:80 live>"
    assert repr(stream) == r"<Stream 7 to a\nERROR b:80 ended: reset>"
