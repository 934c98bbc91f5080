"""Links: receiving, sending, and every way to end, in virtual time and over loopback."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from muxleak import VirtualLoop, memory_pair, settle
from muxleak_vless.errors import (
    Cause,
    IdleTimeout,
    LinkLost,
    ServerStopped,
    StreamClosed,
    WriteStalled,
)
from muxleak_vless.limits import Limits
from muxleak_vless.link import READ_LIMIT, Link

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from muxleak.sim.memory_transport import MemoryTransport

LIMITS = Limits(write_seconds=30, close_seconds=5, idle_seconds=300)
BIG = bytes(1024 * 1024)


class Peer(asyncio.Protocol):
    """The other end: collects what comes."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.ended = False
        self.error: Exception | None = None
        self.lost = False

    def data_received(self, data: bytes) -> None:
        """Collect."""
        self.received += data

    def eof_received(self) -> bool:
        """Stay half open."""
        self.ended = True
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Note it."""
        self.lost, self.error = True, exc


class Wire:
    """A link and its peer in memory."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.made: list[Link] = []
        self.link = Link(self.made.append, limits=LIMITS)
        self.peer = Peer()
        self.far, self.near = memory_pair(loop, self.peer, self.link)
        loop.run_until_quiescent()

    def receive(self) -> asyncio.Task[bytes]:
        """Begin to receive."""
        task = self.loop.create_task(self.link.receive())
        self.loop.run_until_quiescent()
        return task

    def drain(self) -> asyncio.Task[None]:
        """Begin to drain."""
        task = self.loop.create_task(self.link.drain())
        self.loop.run_until_quiescent()
        return task

    def do(self, action: Callable[..., object], *args: object) -> None:
        """Do something inside the loop."""
        self.loop.call_soon(action, *args)
        self.loop.run_until_quiescent()

    def run(self, seconds: float = 0) -> None:
        """Let time pass."""
        self.loop.advance(seconds)

    def stands(self) -> bool:
        """Tell whether the link has a transport."""
        return self.link.transport is not None


@pytest.fixture
def wire(loop: VirtualLoop) -> Wire:
    """A link that stands, on virtual time."""
    return Wire(loop)


def error_of(task: asyncio.Task[bytes]) -> BaseException | None:
    """Return what a task has raised."""
    assert task.done()
    return task.exception()


def test_link_made_is_reported_once(wire: Wire) -> None:
    """Whoever waits for the connection is told when it stands, with its transport."""
    assert wire.made == [wire.link]
    assert wire.link.transport is wire.near
    assert not wire.link.closing


def test_link_receive_returns_what_came(wire: Wire) -> None:
    """What has come is returned at once and joined; what has not is waited for."""
    wire.far.write(b"one ")
    wire.run()
    wire.far.write(b"two")
    wire.run()
    assert wire.receive().result() == b"one two"

    waiting = wire.receive()
    assert not waiting.done()
    wire.far.write(b"three")
    wire.run()

    assert waiting.result() == b"three"


def test_link_receive_after_cancelled_receive(wire: Wire) -> None:
    """A receive that begins while an earlier one is being cancelled is still woken."""
    old = wire.receive()
    old.cancel()
    new = wire.loop.create_task(wire.link.receive())
    # The new one runs before the old one has ended, as it may when somebody else cancels it.
    wire.loop._ready.reverse()
    wire.run()

    wire.far.write(b"data")
    wire.run()

    assert old.cancelled()
    assert new.done()
    assert new.result() == b"data"


def test_link_pauses_the_transport_above_the_limit(wire: Wire) -> None:
    """More than the limit unread pauses the transport, and taking it resumes it."""
    while wire.near.is_reading():
        wire.far.write(bytes(READ_LIMIT // 4))
        wire.run()
    held = sum(map(len, wire.link._chunks))

    wire.far.write(b"more")
    wire.run()
    assert READ_LIMIT < held <= 2 * READ_LIMIT
    assert held == sum(map(len, wire.link._chunks))
    first = wire.receive().result()
    assert wire.near.is_reading()
    wire.run()

    assert first == bytes(held)
    assert wire.receive().result() == b"more"


def test_link_eof_while_paused_comes_after_the_data(wire: Wire) -> None:
    """The end of a peer whose data is not taken is seen once the data has been."""
    while wire.near.is_reading():
        wire.far.write(bytes(READ_LIMIT // 4))
        wire.run()
    wire.far.write_eof()
    wire.run()

    assert wire.receive().result()
    assert wire.receive().result() == b""


def test_link_eof_leaves_our_direction_open(wire: Wire) -> None:
    """After the peer's end, `receive` returns nothing for ever, and we can still send."""
    ended: list[str] = []
    wire.link.on_eof = lambda: ended.append("eof")
    wire.far.write(b"last words")
    wire.far.write_eof()
    wire.run()

    assert ended == ["eof"]
    assert wire.receive().result() == b"last words"
    assert wire.receive().result() == b""
    assert wire.receive().result() == b""
    wire.do(wire.link.send, b"answer")
    wire.run()
    assert wire.peer.received == b"answer"
    assert not wire.link.closing


@pytest.mark.parametrize("ending", ["eof", "close", "abort", "reset"])
def test_link_every_end_wakes_receiver_once(ending: str, wire: Wire) -> None:
    """However the connection ends, a receiver is woken and `on_eof` is called exactly once."""
    ended: list[str] = []
    wire.link.on_eof = lambda: ended.append(ending)
    waiting = wire.receive()

    endings = {
        "eof": wire.far.write_eof,
        "close": wire.link.close,
        "abort": wire.link.abort,
        "reset": wire.far.abort,
    }
    wire.do(endings[ending])
    wire.do(wire.link.abort)
    wire.run()

    assert waiting.done()
    assert isinstance(error_of(waiting), LinkLost) if ending == "reset" else not waiting.result()
    assert ended == [ending]
    assert wire.link.ended


def test_link_reset_delivers_data_first(wire: Wire) -> None:
    """What came before a reset can still be received; then the loss is raised, each time anew."""
    wire.far.write(b"before")
    wire.run()
    wire.far.abort()
    wire.run()

    assert wire.receive().result() == b"before"
    first, second = error_of(wire.receive()), error_of(wire.receive())
    assert isinstance(first, LinkLost)
    assert "ConnectionResetError" in str(first)
    assert str(first) == str(second)
    assert wire.link.lost is not None
    assert wire.link.lost.__traceback__ is None


def test_link_abort_cause_is_raised(wire: Wire) -> None:
    """The receiver is told why we gave up, by type and text; the first reason stays."""
    waiting = wire.receive()

    wire.do(wire.link.abort, ServerStopped("shutdown"))
    wire.do(wire.link.abort, WriteStalled("later"))
    wire.run()

    error = error_of(waiting)
    assert type(error) is ServerStopped
    assert str(error) == "shutdown"
    assert wire.link.closing
    assert not wire.stands()


def test_link_drain_waits_for_the_peer(wire: Wire) -> None:
    """Above the transport's mark writers wait; all of them go on when the peer has read."""
    wire.far.pause_reading()
    assert wire.drain().done()
    wire.do(wire.link.send, BIG)
    first, second = wire.drain(), wire.drain()
    assert not first.done()
    assert wire.link.backlog == len(BIG)

    wire.far.resume_reading()
    wire.run()

    assert first.done()
    assert second.done()
    assert first.exception() is second.exception() is None
    assert wire.link.backlog == 0
    assert not wire.link._drainers


def test_link_cancelled_drain_is_forgotten(wire: Wire) -> None:
    """A writer that is cancelled while it waits leaves nothing behind."""
    wire.far.pause_reading()
    wire.do(wire.link.send, BIG)
    waiting = wire.drain()

    waiting.cancel()
    wire.run()

    assert waiting.cancelled()
    assert not wire.link._drainers


def test_link_write_stall_ends_the_connection(wire: Wire) -> None:
    """A peer that does not read is given up after the write limit, not before, for everybody."""
    wire.far.pause_reading()
    wire.do(wire.link.send, BIG)
    receiving, draining = wire.receive(), wire.drain()

    wire.run(LIMITS.write_seconds - 1)
    assert not draining.done()
    wire.run(1)

    assert isinstance(error_of(receiving), WriteStalled)
    error = draining.exception()
    assert isinstance(error, StreamClosed)
    assert isinstance(error.__cause__, WriteStalled)
    assert wire.loop.pending_timers == 0


@pytest.mark.parametrize("ending", ["close", "abort", "reset"])
def test_link_every_end_wakes_writers(ending: str, wire: Wire) -> None:
    """A writer that waits for the peer is told at once when the connection ends."""
    wire.far.pause_reading()
    wire.do(wire.link.send, BIG)
    draining = wire.drain()

    wire.do(wire.far.abort if ending == "reset" else getattr(wire.link, ending))

    assert isinstance(draining.exception(), StreamClosed)
    assert wire.loop.time() == 0


def test_link_write_limit_counts_from_each_pause(wire: Wire) -> None:
    """A peer that stops reading twice, each time for less than the limit, is not given up."""
    for _ in range(2):
        wire.far.pause_reading()
        wire.do(wire.link.send, BIG)
        wire.run(LIMITS.write_seconds - 1)
        wire.far.resume_reading()
        wire.run()

    wire.run(LIMITS.write_seconds)

    assert not wire.link.closing
    assert wire.link.lost is None


def test_link_close_flushes(wire: Wire) -> None:
    """What was sent before a close still arrives, and the timer of the close goes."""
    wire.far.pause_reading()
    wire.do(wire.link.send, BIG)
    wire.do(wire.link.close)
    wire.run(LIMITS.close_seconds - 1)
    assert wire.loop.pending_timers

    wire.far.resume_reading()
    wire.run()

    assert len(wire.peer.received) == len(BIG)
    assert wire.peer.ended
    assert not wire.stands()
    assert wire.loop.pending_timers == 0


def test_link_close_lingers_for_the_limit_only(wire: Wire) -> None:
    """A peer that does not read cannot hold a closing connection past the close limit."""
    wire.far.pause_reading()
    wire.do(wire.link.send, BIG)
    closed = wire.loop.create_task(wire.link.wait_closed())
    wire.do(wire.link.close)

    wire.run(LIMITS.close_seconds - 0.5)
    assert not closed.done()
    wire.run(0.5)

    assert closed.done()
    assert wire.loop.pending_timers == 0


def test_link_close_limit_outlives_a_little_reading(wire: Wire) -> None:
    """A peer that takes a part and then stops does not hold a closing connection either."""
    chunk = 256 * 1024
    wire.far.pause_reading()
    wire.do(wire.link.send, bytes(3 * chunk + 10_000))
    wire.do(wire.link.close)
    wire.far.resume_reading()
    while len(wire.peer.received) < 3 * chunk:
        wire.loop.turn()
    wire.far.pause_reading()
    assert 0 < wire.link.backlog <= 10_000

    wire.run(LIMITS.close_seconds)

    assert not wire.stands()


def test_link_close_in_a_stall_uses_the_close_limit(wire: Wire) -> None:
    """Closing replaces the write limit: the shorter of the two does not add to the longer."""
    wire.far.pause_reading()
    wire.do(wire.link.send, BIG)
    draining = wire.drain()
    wire.run(1)

    wire.do(wire.link.close)
    wire.do(wire.link.close)
    wire.run()
    assert isinstance(draining.exception(), StreamClosed)
    wire.run(LIMITS.close_seconds)

    assert not wire.stands()
    assert wire.loop.pending_timers == 0


def test_link_finish_waits_for_the_peers_end(wire: Wire) -> None:
    """Finishing sends our end and drops what comes, until the peer has ended, too."""
    ended: list[str] = []
    wire.link.on_eof = lambda: ended.append("eof")
    waiting = wire.receive()
    wire.do(wire.link.send, b"last words")

    wire.do(wire.link.finish)
    wire.far.write(b"too late")
    wire.run()
    assert wire.peer.received == b"last words"
    assert wire.peer.ended
    assert waiting.result() == b""
    assert ended == ["eof"]
    assert wire.link.closing
    assert wire.stands()
    wire.far.write_eof()
    wire.run()

    assert not wire.stands()
    assert not wire.link._chunks
    assert wire.loop.pending_timers == 0


def test_link_finish_lets_a_reader_take_what_was_sent(wire: Wire) -> None:
    """A peer that is still sending gets all that was sent to it before we ended."""
    wire.far.pause_reading()
    wire.do(wire.link.send, BIG)
    while wire.near.is_reading():
        wire.far.write(bytes(READ_LIMIT // 4))
        wire.run()

    wire.do(wire.link.finish)
    wire.far.resume_reading()
    for _ in range(10):
        wire.far.write(BIG)
        wire.run()

    assert len(wire.peer.received) == len(BIG)
    assert wire.peer.error is None
    wire.far.write_eof()
    wire.run()
    assert not wire.stands()
    assert wire.loop.time() == 0


@pytest.mark.parametrize("reads", [True, False])
def test_link_finish_has_the_close_limit(reads: bool, wire: Wire) -> None:  # noqa: FBT001 - a parameter of the test
    """A peer that does not end, whether it reads or not, is given up at the close limit."""
    if not reads:
        wire.far.pause_reading()
    wire.do(wire.link.send, BIG)
    wire.do(wire.link.finish)
    wire.do(wire.link.finish)

    wire.run(LIMITS.close_seconds - 1)
    assert wire.stands()
    wire.run(1)

    assert not wire.stands()
    assert wire.loop.pending_timers == 0


@pytest.mark.parametrize("then", ["close", "abort", "reset"])
def test_link_finish_can_be_cut_short(then: str, wire: Wire) -> None:
    """A connection that is finishing can still be closed, aborted or reset, at once."""
    wire.do(wire.link.finish)
    wire.do(wire.link.send, b"late")
    wire.do(wire.link.send_eof)

    wire.do(wire.far.abort if then == "reset" else getattr(wire.link, then))

    assert not wire.stands()
    assert not wire.peer.received
    assert wire.loop.pending_timers == 0
    assert wire.loop.time() == 0


def test_link_finish_after_the_peers_end_closes(wire: Wire) -> None:
    """Once the peer has ended there is nothing to wait for."""
    wire.far.write_eof()
    wire.run()

    wire.do(wire.link.finish)

    assert not wire.stands()


def test_link_idle_ends_after_a_whole_interval(wire: Wire) -> None:
    """A connection without a byte for a whole interval ends; a byte either way prolongs it."""
    wire.run(LIMITS.idle_seconds - 1)
    wire.far.write(b"byte")
    wire.run()
    assert wire.receive().result() == b"byte"
    wire.run(LIMITS.idle_seconds)
    wire.do(wire.link.send, b"byte")
    wire.run(LIMITS.idle_seconds)
    assert not wire.link.closing
    waiting = wire.receive()

    wire.run(LIMITS.idle_seconds)

    assert isinstance(error_of(waiting), IdleTimeout)
    assert wire.loop.pending_timers == 0


def test_link_idle_ends_half_closed_connection(wire: Wire) -> None:
    """A peer that has sent its end and then vanished is given up, though nobody receives."""
    wire.far.write_eof()

    wire.run(2 * LIMITS.idle_seconds)

    assert wire.link.closing
    assert wire.loop.pending_timers == 0


def test_link_after_end_is_harmless(wire: Wire) -> None:
    """Sending, closing and waiting after the end do nothing; draining says so."""
    wire.far.close()
    wire.do(wire.link.close)
    wire.run()

    wire.do(wire.link.send, b"late")
    wire.do(wire.link.send_eof)
    wire.do(wire.link.close)
    wire.do(wire.link.abort)
    closed = wire.loop.create_task(wire.link.wait_closed())
    draining = wire.drain()

    assert closed.done()
    assert isinstance(draining.exception(), StreamClosed)
    assert wire.link.backlog == 0


def test_link_before_made_is_harmless(loop: VirtualLoop) -> None:
    """A link whose connection never stood can be closed and waited for."""
    link = Link()

    link.send(b"early")
    link.close()
    link.abort()
    waiting = loop.create_task(link.wait_closed())
    loop.run_until_quiescent()

    assert waiting.done()
    assert link.closing


def test_link_cancelled_wait_does_not_cancel_others(wire: Wire) -> None:
    """Two may wait for the end; one that is cancelled does not take the other with it."""
    first = wire.loop.create_task(wire.link.wait_closed())
    second = wire.loop.create_task(wire.link.wait_closed())
    wire.run()

    first.cancel()
    wire.run()
    wire.do(wire.link.close)
    wire.run()

    assert first.cancelled()
    assert second.done()
    assert second.exception() is None


@pytest.mark.parametrize(
    ("ending", "cause"),
    [("close", b""), ("reset", LinkLost), ("stall", WriteStalled), ("idle", IdleTimeout)],
)
def test_link_leaves_no_cycle(
    ending: str, cause: object, loop: VirtualLoop, no_cycles: Callable[[], None]
) -> None:
    """However it ends, a link is freed with its last reference, without the collector."""

    async def receive(link: Link) -> None:
        try:
            ended.append(await link.receive())
        except Cause as exc:
            ended.append(type(exc))

    wire = Wire(loop)
    ended: list[object] = []
    wire.do(loop.create_task, receive(wire.link))
    if ending == "close":
        wire.do(wire.link.close)
    elif ending == "reset":
        wire.far.abort()
    elif ending == "stall":
        wire.far.pause_reading()
        wire.do(wire.link.send, BIG)
        wire.run(LIMITS.write_seconds)
    else:
        wire.run(2 * LIMITS.idle_seconds)
    wire.run()
    wire.do(loop.create_task, receive(wire.link))
    wire.far.abort()
    wire.run()
    assert ended == [cause, cause]

    del wire

    no_cycles()


async def connected(link: Link) -> tuple[socket.socket, Link]:
    """Join a raw socket and a link over loopback."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        far = socket.socket()
        far.settimeout(0)
        await loop.sock_connect(far, listener.getsockname())
        near, _ = await loop.sock_accept(listener)
    return far, (await loop.connect_accepted_socket(lambda: link, near))[1]


@pytest.mark.asyncio
async def test_link_over_tcp_half_close() -> None:
    """On real TCP, too, we can answer after the peer's end and then end our own direction."""
    loop = asyncio.get_running_loop()
    far, link = await connected(Link(limits=LIMITS))
    await loop.sock_sendall(far, b"question")
    far.shutdown(socket.SHUT_WR)

    question = b""
    while data := await asyncio.wait_for(link.receive(), 5):
        question += data
    link.send(b"answer")
    link.send_eof()
    answer = b""
    while data := await asyncio.wait_for(loop.sock_recv(far, 100), 5):
        answer += data

    assert (question, answer) == (b"question", b"answer")
    link.close()
    await asyncio.wait_for(link.wait_closed(), 5)
    far.close()


@pytest.mark.asyncio
async def test_link_over_tcp_reset_by_peer() -> None:
    """A peer that resets gives a loss that names it."""
    far, link = await connected(Link(limits=LIMITS))
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()

    with pytest.raises(LinkLost, match="ConnectionResetError"):
        await asyncio.wait_for(link.receive(), 5)

    await asyncio.wait_for(link.wait_closed(), 5)


@pytest.mark.asyncio
@pytest.mark.parametrize("end", [Link.send_eof, Link.finish])
async def test_link_over_tcp_ends_while_a_reset_is_on_its_way(end: Callable[[Link], None]) -> None:
    """A reset that the loop has not seen yet does not make our own end fail."""
    far, link = await connected(Link(limits=LIMITS))
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()

    end(link)

    await asyncio.wait_for(link.wait_closed(), 5)
    assert isinstance(link.lost, LinkLost)


@pytest.mark.asyncio
async def test_link_over_tcp_abort_resets() -> None:
    """Aborting says so to the peer: it sees a reset, not an end that looks like success."""
    loop = asyncio.get_running_loop()
    far, link = await connected(Link(limits=LIMITS))
    link.send(b"part of an answer")
    await settle()

    link.abort()
    await asyncio.wait_for(link.wait_closed(), 5)

    assert await loop.sock_recv(far, 100) == b"part of an answer"
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(loop.sock_recv(far, 100), 5)
    far.close()


@pytest.mark.asyncio
async def test_link_over_tcp_stalled_peer() -> None:
    """A peer that does not read ends the connection within the write limit of real time."""
    far, link = await connected(Link(limits=LIMITS._replace(write_seconds=0.05)))
    waiting: Awaitable[bytes] = link.receive()
    link.send(16 * BIG)

    with pytest.raises(WriteStalled):
        await asyncio.wait_for(waiting, 5)

    await asyncio.wait_for(link.wait_closed(), 5)
    far.close()


def test_link_memory_transport_is_what_it_seems(wire: Wire) -> None:
    """The two ends in memory are joined: what the tests above rest on."""
    ends: tuple[MemoryTransport, MemoryTransport] = (wire.far, wire.near)

    wire.do(wire.link.send, b"data")
    wire.run()

    assert wire.peer.received == b"data"
    assert not any(end.is_closing() for end in ends)
