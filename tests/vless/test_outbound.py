"""The outbound through a real server: TCP and UDP targets on loopback that behave and misbehave."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from muxleak import VirtualLoop, settle
from muxleak_vless.address import Address, AddressType, NetworkType
from muxleak_vless.client import Client
from muxleak_vless.context import Context
from muxleak_vless.errors import IdleTimeout, LinkLost, StreamClosed, StreamReset
from muxleak_vless.frames import Frame
from muxleak_vless.header import Command
from muxleak_vless.limits import Limits
from muxleak_vless.outbound import NAMES, Outbound, _DatagramPort, _packets_down, dial_tcp
from muxleak_vless.stream import Stream
from muxleak_vless.versions import VERSIONS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from uuid import UUID

    from muxleak_vless import Inbound
    from muxleak_vless.link import Link

    Server = tuple[Inbound, tuple[str, int]]
    Serve = Callable[..., Awaitable[Server]]
    Reply = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
    Target = Callable[..., Awaitable[Address]]
    Datagram = Callable[..., Awaitable[tuple[Address, "Datagrams"]]]

BIG = bytes(range(256)) * 16384
"""4 MiB: more than the buffers on the way hold."""
RESET = struct.pack("ii", 1, 0)
pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def target(all_gone: Callable[[], Awaitable[None]]) -> AsyncIterator[Target]:
    """Start a TCP target that does what it is given to do; it ends with the test."""
    servers: list[asyncio.Server] = []
    tasks: list[asyncio.Task[Any] | None] = []

    async def start(reply: Reply, host: str = "127.0.0.1") -> Address:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tasks.append(asyncio.current_task())
            try:
                await reply(reader, writer)
            except (ConnectionError, asyncio.CancelledError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(serve, host, 0)
        servers.append(server)
        return Address.of(*server.sockets[0].getsockname()[:2])

    yield start
    for server in servers:
        server.close()
    for task in tasks:
        if task is not None:
            task.cancel()
    await all_gone()


@pytest_asyncio.fixture
async def proxy(serve: Serve) -> Server:
    """A server whose handler is the outbound."""
    limits = Limits(close_seconds=0.2, dial_seconds=2, stall_seconds=5, write_seconds=5)
    return await serve(Outbound(limits=limits), limits=limits)


class Datagrams(asyncio.DatagramProtocol):
    """A UDP target that returns what it gets, with its own name in front."""

    def __init__(self, name: bytes = b"") -> None:
        self.name = name
        self.sources: list[Any] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport: Any = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Answer."""
        self.sources.append(addr)
        self.transport.sendto(self.name + data, addr)


@pytest_asyncio.fixture
async def datagrams() -> AsyncIterator[Datagram]:
    """Start a UDP target."""
    started: list[Datagrams] = []

    async def start(name: bytes = b"", host: str = "127.0.0.1") -> tuple[Address, Datagrams]:
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_datagram_endpoint(
            lambda: Datagrams(name), local_addr=(host, 0)
        )
        started.append(protocol)
        return Address.of(*protocol.transport.get_extra_info("sockname")[:2]), protocol

    yield start
    for each in started:
        each.transport.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Return what comes, then end."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Say nothing, even after the other's end."""
    await reader.read()
    await asyncio.get_running_loop().create_future()


async def read_all(stream: Stream) -> bytes:
    """Read until the end."""
    received = bytearray()
    while data := await asyncio.wait_for(stream.read(), 5):
        received += data
    return bytes(received)


async def write_all(stream: Stream, data: bytes) -> None:
    """Write in pieces, as a client does."""
    for start in range(0, len(data), 65536):
        await stream.write(data[start : start + 65536])


def finish(client: Client) -> None:
    """Send the end of stream 1, or of the whole direction."""
    if 1 in client.streams:
        client.end(1)
    else:
        client.half_close()


async def connect(proxy: Server, uuid: UUID, command: Command, target: Address) -> Client:
    """Connect with a command; for Mux, open stream 1 to the target."""
    if command is Command.TCP:
        return await Client.connect(proxy[1], uuid, command, target)
    client = await Client.connect(proxy[1], uuid)
    await client.open(target)
    return client


def stream_of(client: Client) -> Stream:
    """Return the one stream that was opened."""
    return next(iter(client.streams.values()))


BOTH = pytest.mark.parametrize("command", [Command.TCP, Command.MUX])


# TCP.


@BOTH
async def test_outbound_large_transfer_both_ways(
    command: Command, proxy: Server, uuid: UUID, target: Target
) -> None:
    """Four megabytes go to an echo and come back at the same time, and the ends are passed on."""
    async with await connect(proxy, uuid, command, await target(echo)) as client:
        stream = stream_of(client)

        async def upload() -> None:
            await write_all(stream, BIG)
            finish(client)

        _, received = await asyncio.gather(upload(), read_all(stream))

    assert received == BIG


@BOTH
async def test_outbound_half_close_is_passed_on(
    command: Command, proxy: Server, uuid: UUID, target: Target
) -> None:
    """The client's end reaches the target, whose answer to it, and end, reach the client."""

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        question = await reader.read()
        writer.write(b"you said " + question)
        await writer.drain()

    async with await connect(proxy, uuid, command, await target(reply)) as client:
        stream = stream_of(client)
        await stream.write(b"hello")
        finish(client)

        assert await read_all(stream) == b"you said hello"


@BOTH
async def test_outbound_target_that_closes_first(
    command: Command, proxy: Server, uuid: UUID, target: Target
) -> None:
    """All that the target said arrives before its end, and what the client says is dropped."""

    async def reply(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(BIG)
        await writer.drain()

    async with await connect(proxy, uuid, command, await target(reply)) as client:
        stream = stream_of(client)

        assert await read_all(stream) == BIG


@BOTH
async def test_outbound_answer_is_whole_though_the_client_goes_on(
    command: Command, proxy: Server, uuid: UUID, target: Target
) -> None:
    """A target may answer and close while the client is still sending: the answer is complete."""

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(100_000)
        writer.write(BIG)
        await writer.drain()
        writer.write_eof()
        await reader.read()

    async with await connect(proxy, uuid, command, await target(reply)) as client:
        stream = stream_of(client)

        async def upload() -> None:
            while not client.link.ended:
                try:
                    await stream.write(bytes(10_000))
                except StreamClosed:
                    return
                await asyncio.sleep(0)

        uploading = asyncio.create_task(upload())
        received = await read_all(stream)
        uploading.cancel()

    assert received == BIG


async def test_outbound_refused_target(proxy: Server, uuid: UUID) -> None:
    """A target that refuses costs its stream, with the error bit, and not the connection."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        async with await Client.connect(proxy[1], uuid, record=True) as client:
            stream = await client.open(Address.of(*bound.getsockname()), b"data")
            with pytest.raises(StreamClosed) as caught:
                await asyncio.wait_for(stream.read(), 5)

            assert isinstance(caught.value.__cause__, StreamReset)
            assert client.frames == [Frame.end(1, error=True)]
            assert client.cause is None


@pytest.mark.parametrize("version", ["V2", "REF"])
@pytest.mark.parametrize("answers", ["nothing", "refusal", "end", "reset"])
async def test_outbound_closes_its_stream_whatever_the_session_does(
    version: str, answers: str, serve: Serve, uuid: UUID, target: Target
) -> None:
    """The sessions of sing-vmess leave that to the layer above them: here, to the outbound."""

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        if answers == "reset":
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    async def dial(address: Address, limits: Limits) -> Link:
        if answers == "nothing":
            await asyncio.get_running_loop().create_future()
        return await dial_tcp(address, limits)

    limits = Limits(dial_seconds=0.05, close_seconds=0.05)
    outbound = Outbound(limits=limits, dial=dial)
    _, address = await serve(outbound, lifecycle=VERSIONS[version](), limits=limits)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        at = Address.of(*bound.getsockname()) if answers == "refusal" else await target(reply)
        async with await Client.connect(address, uuid, record=True) as client:
            stream = await client.open(at, b"data")
            with suppress(StreamClosed):
                await asyncio.wait_for(stream.read(), 5)

            assert client.frames == [Frame.end(1, error=answers != "end")]


async def test_outbound_refused_target_of_whole_connection(proxy: Server, uuid: UUID) -> None:
    """With the command TCP a refused target resets the connection."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        target = Address.of(*bound.getsockname())
        async with await Client.connect(proxy[1], uuid, Command.TCP, target) as client:
            assert isinstance(await asyncio.wait_for(client.ended(), 5), LinkLost)


@BOTH
async def test_outbound_target_that_resets(
    command: Command, proxy: Server, uuid: UUID, target: Target
) -> None:
    """A target's reset is passed on as such: a broken transfer does not look complete."""

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(5))
        await writer.drain()
        await reader.read(1)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    async with await connect(proxy, uuid, command, await target(reply)) as client:
        stream = stream_of(client)
        await stream.write(b"hello")
        assert await asyncio.wait_for(stream.read(), 5) == b"hello"
        await stream.write(b"!")

        with pytest.raises(StreamClosed) as caught:
            await asyncio.wait_for(stream.read(), 5)

    assert isinstance(caught.value.__cause__, StreamReset | LinkLost)


@pytest.mark.parametrize("ending", ["close", "reset"])
async def test_outbound_client_that_leaves_frees_the_target(
    ending: str, proxy: Server, uuid: UUID, target: Target
) -> None:
    """When the client has gone, streams that it ended too, silent targets are let go (R4)."""
    ended: list[bool] = []

    async def reply(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()
        ended.append(True)

    address = await target(silent)
    client = await Client.connect(proxy[1], uuid)
    await client.open(address, b"x")
    await client.open(await target(reply), b"x")
    client.end(1)
    assert await settle(limit=5, until=lambda: proxy[0].active == 1)

    client.reset() if ending == "reset" else client.link.close()
    await client.close()

    assert await settle(limit=5, until=lambda: bool(ended) and proxy[0].connections == 0)


@pytest.mark.parametrize("kind", [AddressType.DOMAIN, AddressType.IPV4])
async def test_outbound_name(kind: AddressType, proxy: Server, uuid: UUID, target: Target) -> None:
    """A target may be a name, or an address that is spelled as a name."""
    port = (await target(echo)).port
    host = "localhost" if kind is AddressType.DOMAIN else "127.0.0.1"
    async with await Client.connect(proxy[1], uuid) as client:
        stream = await client.open(Address(host, port, AddressType.DOMAIN), b"by name")

        assert await asyncio.wait_for(stream.read(), 5) == b"by name"


@pytest.mark.parametrize("host", ["a" * 70, "nul\x00.test", "\xff\xfe", "no such name.invalid"])
async def test_outbound_impossible_name(host: str, proxy: Server, uuid: UUID) -> None:
    """A name that cannot be looked up, for whatever reason, costs its stream only."""
    for network in NetworkType:
        async with await Client.connect(proxy[1], uuid) as client:
            target = Address(host, 80, AddressType.DOMAIN)
            stream = await client.open(target, b"x", network=network)
            with pytest.raises(StreamClosed, match="reset by the server"):
                await asyncio.wait_for(stream.read(), 10)


async def test_outbound_ipv6(proxy: Server, uuid: UUID, target: Target) -> None:
    """IPv6 targets are reached where the machine has it."""
    try:
        address = await target(echo, "::1")
    except OSError:
        pytest.skip("no IPv6 on this machine")

    async with await Client.connect(proxy[1], uuid) as client:
        stream = await client.open(address, b"six")
        assert await asyncio.wait_for(stream.read(), 5) == b"six"


async def test_outbound_dial_limit(serve: Serve, uuid: UUID) -> None:
    """A dial that hangs ends at its limit, and its stream with the error bit."""

    async def dial(address: Address, limits: Limits) -> Link:
        del address, limits
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    _, address = await serve(Outbound(limits=Limits(dial_seconds=0.05), dial=dial))
    async with await Client.connect(address, uuid) as client:
        stream = await client.open(Address.of("192.0.2.1", 80))
        with pytest.raises(StreamClosed, match="reset by the server"):
            await asyncio.wait_for(stream.read(), 5)


async def test_outbound_dial_ends_with_the_connection(serve: Serve, uuid: UUID) -> None:
    """A client that leaves during a dial takes the dial with it."""
    log: list[str] = []

    async def dial(address: Address, limits: Limits) -> Link:
        del address, limits
        try:
            log.append("dialled")
            return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]
        except asyncio.CancelledError:
            log.append("cancelled")
            raise

    _, address = await serve(Outbound(dial=dial))
    client = await Client.connect(address, uuid)
    await client.open(Address.of("192.0.2.1", 80))
    assert await settle(limit=5, until=lambda: log == ["dialled"])

    await client.close()

    assert await settle(limit=5, until=lambda: log == ["dialled", "cancelled"])


async def test_outbound_real_dial_cancelled(all_gone: Callable[[], Awaitable[None]]) -> None:
    """A real connection attempt that is cancelled, at any moment, leaves no socket open."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as server:
        target = Address.of(*server.getsockname())
        for turns in range(6):
            stream = Stream(_Nobody(), 1, NetworkType.TCP, target, inbox=100)
            task = loop.create_task(_call(Outbound(), stream))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            server.settimeout(0)
            await settle()
            try:
                far, _ = server.accept()
            except BlockingIOError:
                continue
            far.settimeout(5)
            assert far.recv(1) == b""
            far.close()
    await all_gone()


class _Nobody:
    async def write(self, stream: Stream, data: bytes, address: Address | None) -> None:
        """Drop it."""

    def close_stream(self, stream: Stream, *, error: bool) -> None:
        """Do nothing."""


async def _call(outbound: Outbound, stream: Stream) -> None:
    await outbound(stream, Context.background())


# UDP.


async def test_outbound_udp_command(proxy: Server, uuid: UUID, datagrams: Datagram) -> None:
    """The command UDP relays packets to the one target, and back."""
    address, protocol = await datagrams()
    async with await Client.connect(proxy[1], uuid, Command.UDP, address) as client:
        for packet in (b"one", b"", bytes(40_000)):
            await client.stream.write(packet)
        replies = [await asyncio.wait_for(client.stream.read(), 5) for _ in range(2)]

    assert replies == [b"one", bytes(40_000)]
    assert len(set(protocol.sources)) == 1


async def test_outbound_udp_other_address_per_packet(
    proxy: Server, uuid: UUID, datagrams: Datagram
) -> None:
    """One stream talks to many targets from one port, by address or name (XUDP)."""
    (first, one), (second, two) = await datagrams(b"1:"), await datagrams(b"2:")
    named = Address("localhost", second.port, AddressType.DOMAIN)
    async with await Client.connect(proxy[1], uuid) as client:
        stream = await client.open(first, b"a", network=NetworkType.UDP, global_id=bytes(range(8)))
        replies = [await asyncio.wait_for(stream.read_packet(), 5)]
        for address, data in ((second, b"b"), (None, b"c"), (first, b"d"), (named, b"e")):
            await stream.write(data, address)
            replies.append(await asyncio.wait_for(stream.read_packet(), 5))

    assert replies == [
        (b"1:a", first),
        (b"2:b", second),
        (b"1:c", first),
        (b"1:d", first),
        (b"2:e", second),
    ]
    assert len(set(one.sources + two.sources)) == 1


async def test_outbound_udp_ends_with_its_stream(
    proxy: Server, uuid: UUID, datagrams: Datagram
) -> None:
    """The End of a UDP stream is the end of both directions: an End comes back, the port goes."""
    address, _ = await datagrams()
    async with await Client.connect(proxy[1], uuid, record=True) as client:
        stream = await client.open(address, b"a", network=NetworkType.UDP)
        assert await asyncio.wait_for(stream.read(), 5) == b"a"
        client.end(1)

        assert await asyncio.wait_for(stream.read(), 5) == b""
        assert client.frames is not None
        assert client.frames[-1] == Frame.end(1)


async def test_outbound_udp_ipv6(proxy: Server, uuid: UUID, datagrams: Datagram) -> None:
    """UDP over IPv6 works where the machine has it."""
    try:
        address, _ = await datagrams(host="::1")
    except OSError:
        pytest.skip("no IPv6 on this machine")

    async with await Client.connect(proxy[1], uuid) as client:
        stream = await client.open(address, b"six", network=NetworkType.UDP)
        assert await asyncio.wait_for(stream.read_packet(), 5) == (b"six", address)


async def test_outbound_udp_idle(serve: Serve, uuid: UUID, datagrams: Datagram) -> None:
    """A UDP stream on a busy connection ends by being idle; a packet either way prolongs it."""
    address, protocol = await datagrams()
    _, server = await serve(Outbound(limits=Limits(idle_seconds=0.1)))
    loop = asyncio.get_running_loop()
    async with await Client.connect(server, uuid) as client:
        stream = await client.open(address, b"a", network=NetworkType.UDP)
        started = loop.time()
        assert await asyncio.wait_for(stream.read(), 5) == b"a"

        with pytest.raises(StreamClosed, match="reset by the server"):
            await asyncio.wait_for(stream.read(), 5)

        assert 0.1 <= loop.time() - started < 1
    assert len(protocol.sources) == 1


async def test_outbound_udp_sending_is_not_idle() -> None:
    """A stream that only sends is not idle: what a silent target gets counts as well."""
    assert 250 <= await asyncio.to_thread(_send_only) <= 350


def _send_only() -> float:
    """Send for a while in virtual time, then stop; return when the relay gave up."""
    with VirtualLoop() as loop:
        stream = Stream(_Nobody(), 1, NetworkType.UDP, Address.of("1.2.3.4", 53), inbox=100)
        port = _DatagramPort()
        task = loop.create_task(_packets_down(stream, port, 100))
        for _ in range(3):
            loop.advance(50)
            port.send(b"x", ("1.2.3.4", 53))
        assert not task.done()
        while not task.done():
            loop.advance(10)
        assert isinstance(task.exception(), IdleTimeout)
        return loop.time()


async def test_outbound_udp_names_are_bounded(
    proxy: Server, uuid: UUID, datagrams: Datagram, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that names ever new targets does not make the server remember them all."""
    address, _ = await datagrams()
    looked_up: list[str] = []

    async def resolve(name: str, _port: int, **_settings: object) -> list[Any]:
        looked_up.append(name)
        return [(None, None, None, None, (address.host, address.port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    async with await Client.connect(proxy[1], uuid) as client:
        stream = await client.open(address, network=NetworkType.UDP)
        for number in (*range(NAMES + 1), 0, 0):
            name = Address(f"{number}.test", 53, AddressType.DOMAIN)
            await stream.write(b"%d" % number, name)
            assert await asyncio.wait_for(stream.read(), 5) == b"%d" % number

    assert looked_up.count("0.test") == 2
    assert len(looked_up) == NAMES + 2


async def test_outbound_udp_resolves_as_it_is_told(
    serve: Serve, uuid: UUID, datagrams: Datagram
) -> None:
    """A `Resolve` says where the target's packets go, and those for any other address."""
    place, _ = await datagrams()
    asked: list[str] = []

    async def resolve(address: Address) -> tuple[str, int]:
        asked.append(address.host)
        return place.host, place.port

    _, server = await serve(Outbound(resolve=resolve))
    async with await Client.connect(server, uuid) as client:
        target = Address.of("one.invalid", 7)
        stream = await client.open(target, b"a", network=NetworkType.UDP)
        assert await asyncio.wait_for(stream.read(), 5) == b"a"
        await stream.write(b"b", Address.of("two.invalid", 7))
        assert await asyncio.wait_for(stream.read(), 5) == b"b"

    assert asked == ["one.invalid", "two.invalid"]


async def test_outbound_leaves_no_cycle(
    proxy: Server, uuid: UUID, target: Target, no_cycles: Callable[[], None]
) -> None:
    """Relays that end well or badly are freed with their connection, without the collector."""

    async def reset(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    good, bad = await target(echo), await target(reset)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        refused = Address.of(*bound.getsockname())
        found: list[str] = []
        for address in (good, bad, refused):
            client = await Client.connect(proxy[1], uuid)
            stream = await client.open(address, b"x")
            try:
                async with asyncio.timeout(5):
                    await stream.read()
            except StreamClosed as exc:
                found.append(str(exc))
            await client.close()
            del client, stream
    assert await settle(limit=5, until=lambda: proxy[0].connections == 0)
    assert len(found) == 2

    no_cycles()
