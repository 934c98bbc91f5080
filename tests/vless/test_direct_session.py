"""A whole connection as one stream: bytes, packets, back-pressure, every end; in virtual time."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from muxleak import Ledger, VirtualLoop, memory_pair
from muxleak_vless.address import Address, NetworkType
from muxleak_vless.context import Context
from muxleak_vless.direct_session import PIECE, DirectSession
from muxleak_vless.errors import (
    IdleTimeout,
    LinkLost,
    ServerStopped,
    StreamClosed,
    StreamStalled,
    TruncatedError,
    WriteStalled,
)
from muxleak_vless.limits import Limits
from muxleak_vless.link import Link

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from muxleak_vless import Handler, Stream

    Connect = Callable[..., "Connection"]

LIMITS = Limits(
    idle_seconds=300, write_seconds=30, stall_seconds=20, close_seconds=5, inbox_bytes=1000
)
TARGET = Address.of("127.0.0.1", 80)
BIG = bytes(range(256)) * 4096


class Script(asyncio.Protocol):
    """The client's end."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.ended = False
        self.error: Exception | None = None

    def data_received(self, data: bytes) -> None:
        """Collect."""
        self.received += data

    def eof_received(self) -> bool:
        """Note it."""
        self.ended = True
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Note it."""
        self.ended, self.error = True, exc


class Connection:
    """A session on a link, a script on the other side, and the time they share."""

    def __init__(
        self, handler: Handler, network: NetworkType = NetworkType.TCP, *, received: bytes = b""
    ) -> None:
        self.loop = VirtualLoop()
        self.ledger = Ledger()
        self.ledger.install(self.loop)
        self.context = Context.background().child("server")
        self.script = Script()
        self.abandoned = 0
        self._opening = (handler, network, received)
        self.far, _ = memory_pair(self.loop, self.script, Link(self._made, limits=LIMITS))
        self.run()

    def _made(self, link: Link) -> None:
        handler, network, received = self._opening
        self.session = DirectSession(link, network, TARGET, limits=LIMITS)
        self.stream = self.session.stream
        self.task = self.loop.create_task(self.session.run(received, handler, self.context))

    def send(self, data: bytes) -> None:
        """Send, and let the server come to rest."""
        self.far.write(data)
        self.run()

    def run(self, seconds: float = 0) -> None:
        """Let time pass."""
        self.loop.advance(seconds)

    def finish(self) -> None:
        """Close, and check that nothing is left."""
        self.far.abort()
        self.run(4 * LIMITS.close_seconds)
        assert self.task.done()
        assert self.ledger.count == self.abandoned
        assert self.session.link.transport is None
        assert not self.context._registered
        assert self.loop.pending_timers == 0
        assert not self.ledger.errors


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Open connections; at the end each is closed and must have left nothing."""
    connections: list[Connection] = []

    def connect(*settings: object, **named: object) -> Connection:
        connections.append(Connection(*settings, **named))  # type: ignore[arg-type]
        return connections[-1]

    yield connect
    for connection in connections:
        try:
            connection.finish()
        finally:
            connection.ledger.uninstall()
            connection.loop.dispose()


async def deaf(_stream: Stream, _context: Context) -> None:
    """Read nothing and never return."""
    await asyncio.get_running_loop().create_future()


async def closes(_stream: Stream, _context: Context) -> None:
    """Return at once."""


def test_direct_bytes_both_ways(connect: Connect, echo: Handler) -> None:
    """Bytes pass as they are; the response header precedes the first and only the first."""
    connection = connect(echo, received=b"with the header ")
    connection.send(b"and ")
    connection.send(b"after")

    assert connection.script.received == b"\x00\x00with the header and after"


def test_direct_packets_both_ways(connect: Connect, echo: Handler) -> None:
    """Packets keep their boundaries however they are cut, and empty ones are dropped."""
    connection = connect(echo, NetworkType.UDP, received=b"\x00")
    for byte in b"\x02hi\x00\x00\x00\x05hello":
        connection.send(bytes([byte]))

    assert connection.script.received == b"\x00\x00\x00\x02hi\x00\x05hello"


def test_direct_half_close_of_the_peer(connect: Connect) -> None:
    """After its end the peer still gets the answer, then our end."""

    async def handler(stream: Stream, _context: Context) -> None:
        question = b""
        while data := await stream.read():
            question += data
        await stream.write(b"you said " + question)

    connection = connect(handler)
    connection.send(b"hello")
    assert not connection.script.received

    connection.far.write_eof()
    connection.run()

    assert connection.script.received == b"\x00\x00you said hello"
    assert connection.script.ended
    assert connection.script.error is None
    connection.far.close()
    connection.run()
    assert connection.task.done()


def test_direct_upload_to_slow_handler_is_complete(connect: Connect) -> None:
    """A peer that sends much and ends at once loses nothing to a handler that is only slow."""
    received = bytearray()
    turn = asyncio.Event()

    async def handler(stream: Stream, _context: Context) -> None:
        while data := await stream.read():
            received.extend(data)
            await turn.wait()
            turn.clear()
        await stream.write(b"thanks")

    connection = connect(handler)
    connection.far.write(BIG)
    connection.far.write_eof()
    connection.run()
    for _ in range(100):
        connection.run(LIMITS.stall_seconds - 1)
        turn.set()
        connection.run()
        if connection.script.ended:
            break

    assert received == BIG
    assert connection.script.received == b"\x00\x00thanks"
    assert connection.script.error is None


def test_direct_peers_end_lifts_the_stall_limit(connect: Connect) -> None:
    """Once the peer has ended its direction, a handler may take all the time it needs."""
    received = bytearray()

    async def handler(stream: Stream, _context: Context) -> None:
        await asyncio.sleep(2 * LIMITS.stall_seconds)
        while data := await stream.read():
            received.extend(data)

    connection = connect(handler)
    connection.send(bytes(5000))
    connection.send(bytes(5000))

    connection.far.write_eof()
    connection.run(3 * LIMITS.stall_seconds)

    assert len(received) == 10_000
    assert connection.script.error is None


def test_direct_peers_end_may_come_with_the_header() -> None:
    """Data and end that came before the session began are delivered to a slow handler, too."""
    received = bytearray()

    async def handler(stream: Stream, _context: Context) -> None:
        await asyncio.sleep(2 * LIMITS.stall_seconds)
        while data := await stream.read():
            received.extend(data)

    with VirtualLoop() as loop:
        link, script = Link(limits=LIMITS), Script()
        far, _ = memory_pair(loop, script, link)
        far.write_eof()
        loop.run_until_quiescent()
        assert link.ended
        session = DirectSession(link, NetworkType.TCP, TARGET, limits=LIMITS)

        context = Context.background().child("server")
        task = loop.create_task(session.run(bytes(5000), handler, context))
        loop.advance(3 * LIMITS.stall_seconds)

        assert task.done()
        assert len(received) == 5000
        assert script.error is None


def test_direct_stalled_handler_ends_the_connection(connect: Connect) -> None:
    """A handler that does not read is given up after one limit, and the peer sees a reset."""
    connection = connect(deaf)
    for _ in range(20):
        connection.send(bytes(50_000))

    connection.run(LIMITS.stall_seconds - 1)
    assert not connection.task.done()
    connection.run(1)

    assert connection.task.done()
    assert isinstance(connection.stream.cause, StreamStalled)
    assert isinstance(connection.script.error, ConnectionResetError)


def test_direct_slow_peer_gets_everything(connect: Connect) -> None:
    """A large write goes out as the peer takes it: bounded in between, whole in the end."""

    async def handler(stream: Stream, _context: Context) -> None:
        await stream.write(BIG + await stream.read())

    connection = connect(handler)
    connection.far.pause_reading()
    connection.send(b"!")
    assert PIECE < connection.session.link.backlog <= 2 * PIECE + 2

    connection.far.resume_reading()
    connection.run()

    assert connection.script.received == b"\x00\x00" + BIG + b"!"
    assert connection.script.ended


def test_direct_peer_that_stops_reading_is_given_up(connect: Connect) -> None:
    """A writer waits for the write limit, then the connection is gone with that cause."""

    async def handler(stream: Stream, _context: Context) -> None:
        await stream.write(BIG + await stream.read())

    connection = connect(handler)
    connection.far.pause_reading()
    connection.send(b"!")

    connection.run(LIMITS.write_seconds - 1)
    assert not connection.task.done()
    connection.run(1)

    assert connection.task.done()
    assert isinstance(connection.stream.cause, WriteStalled)


@pytest.mark.parametrize("network", NetworkType)
def test_direct_handler_that_returns_closes(network: NetworkType, connect: Connect) -> None:
    """A handler that returns ends our direction, and the connection once the peer has ended."""
    connection = connect(closes, network)
    assert connection.script.ended
    assert not connection.task.done()

    connection.far.close()
    connection.run()

    assert connection.task.done()
    assert connection.script.error is None
    assert isinstance(connection.stream.cause, StreamClosed)


def test_direct_handler_that_raises_resets(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """A handler's error is one line of the log, and the peer can tell it from a good end."""

    async def handler(stream: Stream, _context: Context) -> None:
        await stream.read()
        raise RuntimeError("on purpose")

    connection = connect(handler)
    connection.send(b"x")

    assert connection.task.done()
    assert isinstance(connection.script.error, ConnectionResetError)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "muxleak_vless"]
    assert line.endswith("RuntimeError: on purpose")


@pytest.mark.parametrize(
    ("ending", "cause"),
    [("reset", LinkLost), ("idle", LinkLost), ("server", ServerStopped), ("eof", LinkLost)],
)
def test_direct_every_end_cancels_the_handler(
    ending: str, cause: type[BaseException], connect: Connect
) -> None:
    """However the connection ends, a handler that does not notice is cancelled.

    The peer's end alone is not the end of the connection, which then ends by being idle.
    """
    connection = connect(deaf)

    if ending == "reset":
        connection.far.abort()
    elif ending == "server":
        connection.context.cancel(ServerStopped("reload"))
    elif ending == "eof":
        connection.far.write_eof()
        connection.run()
        assert not connection.task.done()
    if ending in {"idle", "eof"}:
        connection.run(2 * LIMITS.idle_seconds)
    connection.run()

    assert connection.task.done()
    assert isinstance(connection.stream.cause, IdleTimeout if ending == "idle" else cause)
    assert connection.ledger.count == 0


def test_direct_server_that_has_ended_serves_nothing(echo: Handler) -> None:
    """A session that begins under a context that has ended closes at once."""
    with VirtualLoop() as loop:
        context = Context.background().child("server")
        context.cancel(ServerStopped("reload"))
        link, script = Link(limits=LIMITS), Script()
        memory_pair(loop, script, link)
        loop.run_until_quiescent()
        session = DirectSession(link, NetworkType.TCP, TARGET, limits=LIMITS)

        task = loop.create_task(session.run(b"data", echo, context))
        loop.run_until_quiescent()

        assert task.done()
        assert isinstance(session.stream.cause, ServerStopped | StreamClosed)
        assert script.ended


def test_direct_truncated_packet_is_an_error(connect: Connect) -> None:
    """A connection that ends inside a packet ends its stream with that cause."""
    connection = connect(deaf, NetworkType.UDP)
    connection.send(b"\x00\x05he")

    connection.far.write_eof()
    connection.run()

    assert isinstance(connection.stream.cause, TruncatedError)
    assert connection.task.done()


def test_direct_handler_may_bid_farewell(connect: Connect) -> None:
    """A handler that spends its first cancellation is asked again before it is abandoned."""
    said: list[str] = []

    async def handler(_stream: Stream, _context: Context) -> None:
        for what in ("farewell", "really"):
            with suppress(asyncio.CancelledError):
                await asyncio.get_running_loop().create_future()
            said.append(what)

    connection = connect(handler)
    connection.far.abort()
    connection.run(LIMITS.close_seconds)

    assert said == ["farewell", "really"]
    assert connection.task.done()


def test_direct_handler_is_cancelled_again_if_that_raises(connect: Connect) -> None:
    """Its first cancellation raises; its connection ends all the same, and so does it."""

    class Fragile(asyncio.Future[None]):
        asked = 0

        def cancel(self, msg: object = None) -> bool:
            self.asked += 1
            if self.asked == 1:
                raise OSError(24, "no descriptor left")
            return super().cancel(msg)

    async def handler(_stream: Stream, _context: Context) -> None:
        await Fragile(loop=asyncio.get_running_loop())

    connection = connect(handler)
    connection.far.abort()
    connection.run(LIMITS.close_seconds)

    assert connection.task.done()


def test_direct_handler_that_ignores_cancellation_is_reported(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """A handler that cannot be ended holds its connection for two limits, and is named."""

    async def handler(_stream: Stream, _context: Context) -> None:
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.get_running_loop().create_future()

    connection = connect(handler)
    connection.abandoned = 1
    connection.far.abort()
    connection.run(2 * LIMITS.close_seconds - 1)
    assert not connection.task.done()
    connection.run(1)

    assert connection.task.done()
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "ignored its cancellation" in warning.getMessage()


@pytest.mark.parametrize("ending", ["returns", "raises", "reset", "server"])
def test_direct_leaves_no_cycle(
    ending: str, connect: Connect, no_cycles: Callable[[], None]
) -> None:
    """The session and its stream are freed when it ends, without the collector."""

    async def handler(stream: Stream, _context: Context) -> None:
        await stream.read()
        if ending == "raises":
            raise RuntimeError("on purpose")
        if ending != "returns":
            await stream.read()

    connection = connect(handler)
    connection.send(b"x")
    if ending == "reset":
        connection.far.abort()
    elif ending == "server":
        connection.context.cancel(ServerStopped("reload"))
    elif ending == "returns":
        connection.far.close()
    connection.run()
    assert connection.task.done()

    session = connection.session
    connection.__dict__.update(session=None, stream=None, task=None, far=None)
    assert session.link.transport is None
    del session
    connection.finish = lambda: None  # type: ignore[method-assign]

    no_cycles()
