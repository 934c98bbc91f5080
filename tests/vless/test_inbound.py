"""The server over real loopback TCP: headers good and bad, the three commands, and shutdown."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from muxleak import VirtualLoop, memory_pair, settle
from muxleak_vless.address import Address, AddressType, NetworkType
from muxleak_vless.client import Client
from muxleak_vless.context import Context
from muxleak_vless.errors import ServerStopped
from muxleak_vless.frames import Frame, encode_frame
from muxleak_vless.header import Addons, Command, Request, encode_request
from muxleak_vless.inbound import Inbound, User
from muxleak_vless.limits import Limits
from muxleak_vless.link import Link

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from muxleak_vless import Handler, MuxSession, Stream

    Server = tuple[Inbound, tuple[str, int]]
    Serve = Callable[..., Awaitable[Server]]

TARGET = Address.of("127.0.0.1", 80)
SHORT = Limits(
    header_seconds=0.05,
    write_seconds=0.05,
    stall_seconds=0.05,
    close_seconds=0.05,
    backlog_bytes=10_000,
)
pytestmark = pytest.mark.asyncio


def header(uuid: UUID, command: int = Command.MUX, target: Address | None = None) -> bytes:
    """Write a request header."""
    return encode_request(Request(uuid, command, target))


def new(data: bytes | None = None) -> bytes:
    """Open stream 1."""
    return encode_frame(Frame.new(1, NetworkType.TCP, TARGET, data))


async def talk(address: tuple[str, int], *pieces: bytes, eof: bool = False) -> bytes:
    """Connect, send the pieces one per segment, and read until the server has closed."""
    reader, writer = await asyncio.open_connection(*address)
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    received = b""
    with suppress(ConnectionError):
        for number, piece in enumerate(pieces):
            if number:
                await settle()
            writer.write(piece)
            await writer.drain()
        if eof:
            writer.write_eof()
        while data := await asyncio.wait_for(reader.read(1000), 5):
            received += data
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    return received


async def gone(inbound: Inbound) -> bool:
    """Wait until the server has no connection; it must have forgotten all about it."""
    ended = await settle(limit=5, until=lambda: inbound.connections == 0)
    return ended and not inbound.context._registered


async def deaf(_stream: Stream, _context: Context) -> None:
    """Read nothing and never return."""
    await asyncio.get_running_loop().create_future()


# Before the header: events 1 to 6.


@pytest.mark.parametrize("cut", range(19))
async def test_inbound_header_cut_then_fin(
    cut: int, serve: Serve, uuid: UUID, caplog: pytest.LogCaptureFixture
) -> None:
    """A connection that ends inside its header, at any byte, is closed without a word."""
    sessions: list[MuxSession] = []
    inbound, address = await serve(deaf, on_session=sessions.append)

    assert await talk(address, header(uuid)[:cut], eof=True) == b""

    assert await gone(inbound)
    assert not sessions
    lines = [each.getMessage() for each in caplog.records if each.name == "muxleak_vless"]
    assert len(lines) == 1
    assert lines[0].startswith("connection closed: ")


async def test_inbound_connection_without_a_byte(serve: Serve) -> None:
    """A port scan, which connects and closes or resets, leaves nothing."""
    inbound, address = await serve(deaf)
    for linger in (None, struct.pack("ii", 1, 0)):
        with socket.create_connection(address) as sock:
            if linger is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            await settle(limit=5, until=lambda: inbound.connections == 1)

        assert await gone(inbound)
    assert inbound.accepted == 2


async def test_inbound_header_byte_by_byte(serve: Serve, uuid: UUID, echo: Handler) -> None:
    """Header and first frames give the same answer, one byte per segment or all in one."""
    _, address = await serve(echo)
    wire = header(uuid) + new(b"hi")

    whole = await talk(address, wire, eof=True)
    bytewise = await talk(address, *(wire[at : at + 1] for at in range(len(wire))), eof=True)

    assert whole == bytewise == bytes.fromhex("0000 0004 0001 02 01 0002 6869")


@pytest.mark.parametrize("sent", [0, 1, 18])
async def test_inbound_slow_header_is_given_up(
    sent: int, serve: Serve, uuid: UUID, caplog: pytest.LogCaptureFixture
) -> None:
    """A peer that does not finish its header in time is closed, by us."""
    inbound, address = await serve(deaf, limits=SHORT)

    assert await talk(address, header(uuid)[:sent]) == b""

    assert await gone(inbound)
    assert "connection closed: no whole request header within 0.05 s" in caplog.text


async def test_inbound_header_limit_is_for_the_whole_header(uuid: UUID) -> None:
    """A byte now and then does not prolong the time for the header."""
    done = await asyncio.to_thread(_trickle, uuid)

    assert done == pytest.approx(10)


def _trickle(uuid: UUID) -> float:
    """Send one byte per second in virtual time; return when the server closed."""
    with VirtualLoop() as loop:
        inbound = Inbound([User(uuid)], deaf)
        link, client = inbound.protocol(), Link()
        far, _ = memory_pair(loop, client, link)
        for byte in header(uuid)[:-1]:
            loop.advance(1)
            if client.ended:
                break
            far.write(bytes([byte]))
        far.abort()
        loop.run_until_quiescent()
        assert inbound.connections == 0
        return loop.time()


BAD: dict[str, Callable[[UUID], bytes]] = {
    "version": lambda uuid: b"\x01" + header(uuid)[1:],
    "user": lambda _: header(UUID(int=1)),
    "flow": lambda uuid: encode_request(
        Request(uuid, Command.MUX, None, Addons("xtls-rprx-vision"))
    ),
    "command 5": lambda uuid: header(uuid, 5, TARGET),
    "reverse": lambda uuid: header(uuid, Command.REVERSE),
    "address type": lambda uuid: header(uuid, Command.TCP, TARGET)[:21] + b"\x04" + bytes(4),
    "no host": lambda uuid: header(uuid, Command.TCP, Address("", 80, AddressType.DOMAIN)),
    "addons": lambda uuid: b"\x00" + uuid.bytes + b"\x02\x0a\xff\x03",
    "http": lambda _: b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n",
    "tls": lambda _: bytes.fromhex("16030100c8010000c40303") + bytes(200),
    "noise": lambda _: bytes(reversed(range(256))),
}


@pytest.mark.parametrize("wire", BAD.values(), ids=BAD.keys())
async def test_inbound_bad_header_is_closed(
    wire: Callable[[UUID], bytes],
    serve: Serve,
    uuid: UUID,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What cannot be served is closed at once, without an answer, a session or a traceback."""
    called: list[Any] = []

    async def handler(stream: Stream, _context: Context) -> None:
        called.append(stream)

    inbound, address = await serve(handler, on_session=called.append)

    assert await talk(address, wire(uuid)) == b""

    assert await gone(inbound)
    assert not called
    assert caplog.text.count("connection closed: ") == 1


async def test_inbound_user_with_flow_must_send_it(
    uuid: UUID, all_gone: Callable[[], Awaitable[None]]
) -> None:
    """The flow is compared in both directions: a user who has one may not come without."""
    inbound = Inbound([User(uuid, "with flow", "xtls-rprx-vision")], deaf)
    address = await inbound.listen()

    assert await talk(address, header(uuid)) == b""

    await inbound.shutdown()
    await all_gone()


async def test_inbound_header_then_fin(serve: Serve, uuid: UUID) -> None:
    """A mux header and nothing else opens a session and closes it again."""
    sessions: list[MuxSession] = []
    inbound, address = await serve(deaf, on_session=sessions.append)

    assert await talk(address, header(uuid), eof=True) == b""

    assert await gone(inbound)
    assert [session.cleanups for session in sessions] == [1]
    assert inbound.active == 0


# The commands, end to end.


async def test_inbound_tcp(serve: Serve, uuid: UUID, echo: Handler) -> None:
    """The command TCP is one stream; its half-close is passed on and answered."""
    inbound, address = await serve(echo)
    async with await Client.connect(address, uuid, Command.TCP, TARGET) as client:
        await client.stream.write(b"hello")
        assert await asyncio.wait_for(client.stream.read(), 5) == b"hello"
        client.half_close()
        assert await asyncio.wait_for(client.stream.read(), 5) == b""

    assert await gone(inbound)


async def test_inbound_udp(serve: Serve, uuid: UUID, echo: Handler) -> None:
    """The command UDP keeps the boundaries of packets up to the largest."""
    packets = [b"a", b"bc", bytes(65_535)]
    inbound, address = await serve(echo)
    async with await Client.connect(address, uuid, Command.UDP, TARGET) as client:
        for packet in packets:
            await client.stream.write(packet)
        replies = [await asyncio.wait_for(client.stream.read(), 5) for _ in packets]

    assert replies == packets
    assert await gone(inbound)


async def test_inbound_mux(serve: Serve, uuid: UUID, echo: Handler) -> None:
    """The command Mux carries several streams, and counts as active while it is open."""
    inbound, address = await serve(echo)
    async with await Client.connect(address, uuid) as client:
        streams = [await client.open(TARGET, b"%d" % number) for number in range(5)]
        replies = [await asyncio.wait_for(stream.read(), 5) for stream in streams]
        assert inbound.active == inbound.connections == 1

    assert replies == [b"%d" % number for number in range(5)]
    assert await gone(inbound)
    assert inbound.active == 0


async def test_inbound_ipv6(serve: Serve, uuid: UUID, echo: Handler) -> None:
    """The server listens on IPv6 where the machine has it."""
    try:
        _, address = await serve(echo, host="::1")
    except OSError:
        pytest.skip("no IPv6 on this machine")

    async with await Client.connect(address, uuid) as client:
        stream = await client.open(Address.of("::1", 80), b"six")
        assert await asyncio.wait_for(stream.read(), 5) == b"six"


async def test_inbound_fatal_frame_closes_tcp(serve: Serve, uuid: UUID) -> None:
    """After a fatal frame it is the server that closes, without waiting for more (event 24)."""
    inbound, address = await serve(deaf)

    received = await talk(address, header(uuid) + new(), bytes.fromhex("0004 0001 05 00"))

    assert received == b""
    assert await gone(inbound)


async def test_inbound_peer_that_vanishes(uuid: UUID) -> None:
    """The kernel is asked to probe a silent peer."""
    probes: list[int] = []

    def seen(_session: MuxSession) -> None:
        (link,) = inbound._connections.values()
        assert link.transport is not None
        sock = link.transport.get_extra_info("socket")
        probes.append(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))

    inbound = Inbound([User(uuid)], deaf, on_session=seen)
    address = await inbound.listen()
    await talk(address, header(uuid), eof=True)
    await inbound.shutdown()

    assert probes
    assert all(probes)


async def test_inbound_handler_error_is_not_the_servers(
    serve: Serve, uuid: UUID, caplog: pytest.LogCaptureFixture
) -> None:
    """A handler that fails costs its stream, for each command, and one line of the log."""

    async def handler(stream: Stream, _context: Context) -> None:
        await stream.read()
        raise RuntimeError("on purpose")

    inbound, address = await serve(handler)
    await talk(address, header(uuid, Command.TCP, TARGET) + b"x")
    received = await talk(address, header(uuid) + new(b"x"), eof=True)

    assert received == bytes.fromhex("0000 0004 0001 03 02")
    assert await gone(inbound)
    assert caplog.text.count("RuntimeError: on purpose") == 2


# Shutdown: events 50 and 54, sequence S18.


async def test_inbound_shutdown_with_everything_half_done(serve: Serve, uuid: UUID) -> None:
    """Half-read headers, idle sessions and stalled writers end in the limit, and leave nothing."""
    count = 10

    async def flood(stream: Stream, _context: Context) -> None:
        while True:
            await stream.write(bytes(1024 * 1024))

    limits = SHORT._replace(header_seconds=60, write_seconds=60, stall_seconds=60)
    inbound, address = await serve(flood, limits=limits)
    peers = [await asyncio.open_connection(*address) for _ in range(3 * count)]
    for _, writer in peers[:count]:
        writer.write(header(uuid)[:10])
    for _, writer in peers[count : 2 * count]:
        writer.write(header(uuid))
    for reader, writer in peers[2 * count :]:
        writer.write(header(uuid) + new())
        reader._transport.pause_reading()  # type: ignore[attr-defined]
    assert await settle(limit=5, until=lambda: inbound.active == 2 * count)
    assert await settle(
        limit=5, until=lambda: sum(link._paused for link in inbound._connections.values()) == count
    )
    loop = asyncio.get_running_loop()
    started = loop.time()

    assert await inbound.shutdown() == []

    assert loop.time() - started < 3 * SHORT.close_seconds + 0.5
    assert inbound.connections == inbound.active == 0
    for _, writer in peers:
        writer.transport.abort()


async def test_inbound_shutdown_of_idle_server_is_immediate(serve: Serve) -> None:
    """Without connections there is nothing to wait for; a second shutdown is as good."""
    inbound, address = await serve(deaf)

    assert await inbound.shutdown() == []
    assert await inbound.shutdown() == []

    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*address)
    assert isinstance(inbound.context.cause, ServerStopped)


async def test_inbound_shutdown_under_the_background(uuid: UUID) -> None:
    """A server whose context cannot be cancelled ends its connections all the same."""
    sessions: list[MuxSession] = []
    inbound = Inbound(
        [User(uuid)],
        deaf,
        context=Context.background(),
        limits=SHORT,
        on_session=sessions.append,
    )
    address = await inbound.listen()
    client = await Client.connect(address, uuid)
    await client.open(TARGET)
    assert await settle(limit=5, until=lambda: inbound.active == 1)

    assert await asyncio.wait_for(inbound.shutdown(), 5) == []

    assert inbound.connections == inbound.active == 0
    assert [type(session.cause) for session in sessions] == [ServerStopped]
    await client.close()


async def test_inbound_shutdown_reports_who_stays(
    uuid: UUID, caplog: pytest.LogCaptureFixture
) -> None:
    """Handlers that cannot be ended do not hold a shutdown, and are named in the log."""
    release = asyncio.Event()

    async def stubborn(_stream: Stream, _context: Context) -> None:
        while not release.is_set():
            with suppress(asyncio.CancelledError):
                await release.wait()

    inbound = Inbound([User(uuid)], stubborn, limits=SHORT)
    address = await inbound.listen()
    mux = await Client.connect(address, uuid)
    await mux.open(TARGET)
    tcp = await Client.connect(address, uuid, Command.TCP, TARGET)
    assert await settle(limit=5, until=lambda: inbound.connections == 2)
    await settle()

    left = await asyncio.wait_for(inbound.shutdown(), 5)

    release.set()
    await mux.close()
    await tcp.close()
    await settle()
    assert left == []
    assert caplog.text.count("ignored its cancellation") == 2


async def test_inbound_refuses_after_its_context_has_ended(
    serve: Serve, uuid: UUID, caplog: pytest.LogCaptureFixture
) -> None:
    """A connection that is accepted after the end is closed at once, whatever the cause is."""
    called: list[Any] = []
    inbound, address = await serve(deaf, on_session=called.append)
    cause = KeyError("any exception may be a cause")
    inbound.context.cancel(cause)

    for _ in range(3):
        assert await talk(address, header(uuid) + new()) == b""

    assert await gone(inbound)
    assert not called
    assert cause.__traceback__ is None
    assert caplog.text.count("connection closed: 'any exception may be a cause'") == 3


async def test_inbound_refuses_a_header_that_is_there_already(uuid: UUID) -> None:
    """After the end not even a whole header that came with the connection is served."""
    called = await asyncio.to_thread(_late_header, uuid)

    assert called == []


def _late_header(uuid: UUID) -> list[MuxSession]:
    """Connect to a server that has ended, in virtual time; return the sessions it began."""
    called: list[MuxSession] = []
    with VirtualLoop() as loop:
        inbound = Inbound([User(uuid)], deaf, on_session=called.append)
        inbound.context.cancel()
        far, _ = memory_pair(loop, Link(), inbound.protocol())
        far.write(header(uuid) + new())
        loop.run_until_quiescent()
        assert inbound.accepted == 1
        assert inbound.connections == 0
    return called


async def test_inbound_end_in_the_middle_of_headers(
    serve: Serve, uuid: UUID, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that ends while headers are being read closes those connections, too."""
    inbound, address = await serve(deaf)
    cause = KeyError("any exception may be a cause")
    talks = [asyncio.create_task(talk(address, header(uuid)[:cut])) for cut in (0, 7)]
    # Both have read what came and wait for more.
    assert await settle(limit=5, until=lambda: len(inbound.context._registered) == 2)

    inbound.context.cancel(cause)

    assert await asyncio.gather(*talks) == [b"", b""]
    assert await gone(inbound)
    assert cause.__traceback__ is None
    assert caplog.text.count("connection closed: 'any exception may be a cause'") == 2
    assert not inbound.context._registered


async def test_inbound_peer_resets_everywhere(serve: Serve, uuid: UUID) -> None:
    """A reset before, inside and after the header, idle or with data unsent, leaves nothing."""

    async def flood(stream: Stream, _context: Context) -> None:
        while True:
            await stream.write(bytes(100_000))

    inbound, address = await serve(flood)
    wires = [b"", header(uuid)[:5], header(uuid), header(uuid) + new(), header(uuid) + b"\x00"]
    for number, wire in enumerate(wires):
        with socket.create_connection(address) as sock:
            sock.sendall(wire)
            await settle(limit=5, until=lambda number=number: inbound.accepted > number)  # type: ignore[misc]
            await settle(limit=0.05)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        assert await gone(inbound)


async def test_inbound_many_at_once(serve: Serve, uuid: UUID, echo: Handler) -> None:
    """Connections do not disturb each other: good ones are served among bad ones."""
    inbound, address = await serve(echo)
    good = [talk(address, header(uuid) + new(b"%02d" % n), eof=True) for n in range(20)]
    bad = [talk(address, b"\x01" * n, eof=True) for n in range(20)]

    replies = await asyncio.gather(*good, *bad)

    assert [reply[-2:] for reply in replies[:20]] == [b"%02d" % n for n in range(20)]
    assert replies[20:] == [b""] * 20
    assert await gone(inbound)


async def test_inbound_logs_nothing_above_info_for_bad_peers(
    serve: Serve, uuid: UUID, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing that a peer sends is worth more than a line of information."""
    inbound, address = await serve(deaf)
    for wire in BAD.values():
        await talk(address, wire(uuid))
    await talk(address, header(uuid) + bytes.fromhex("0004 0001 05 00"))
    assert await gone(inbound)

    assert {each.levelno for each in caplog.records if each.name == "muxleak_vless"} <= {
        logging.DEBUG,
        logging.INFO,
    }
