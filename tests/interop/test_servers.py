"""Our client against real servers; where the two answer differently, each answers as measured."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from muxleak import settle
from muxleak_scenarios.cli.serve import USER
from muxleak_vless.address import Address, NetworkType
from muxleak_vless.errors import StreamClosed, StreamReset
from muxleak_vless.frames import DATA, Frame, FrameStatus, encode_frame
from muxleak_vless.header import Command, Request, encode_request
from servers import DIGEST, GREETING, count, echo, flood, give, greet, payload, reset, take

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from muxleak_vless import Client, Stream
    from proxies import Proxy
    from servers import Endpoint

    Start = Callable[..., Awaitable[Any]]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.interop,
    pytest.mark.asyncio,
    pytest.mark.timeout(15),
]

LARGE = 4 * 1024 * 1024
STREAMS = 100
PATIENCE = 10.0
"""Seconds to wait for an event that must come; an event that came already is not waited for."""


async def read(stream: Stream, size: int) -> bytes:
    """Read so many bytes, fewer if the stream ends before."""
    chunks, left = [], size
    while left > 0 and (data := await stream.read()):
        chunks.append(data)
        left -= len(data)
    return b"".join(chunks)


async def exchange(stream: Stream, data: bytes) -> bytes:
    """Send in pieces, and read as much."""
    sending = asyncio.ensure_future(write(stream, data))
    answer = await read(stream, len(data))
    await sending
    return answer


async def write(stream: Stream, data: bytes) -> None:
    """Send in pieces."""
    for start in range(0, len(data), 100_000):
        await stream.write(data[start : start + 100_000])


def answers(client: Client, stream_id: int) -> list[tuple[FrameStatus, int]]:
    """Return status and option of the frames without data that the server has sent for an id."""
    frames = client.frames or []
    return [(f.status, f.option) for f in frames if f.stream_id == stream_id and not f.data]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
async def test_server_dials_any_kind_of_address(
    host: str, server: Proxy, connect: Start, destination: Start
) -> None:
    """The address can be IPv4, a name or IPv6; the first bytes are part of New."""
    _, (_, port) = await destination(echo, host.replace("localhost", "127.0.0.1"))
    client = await connect(server)

    stream = await client.open(Address.of(host, port), b"first ")

    assert await read(stream, 6) == b"first "
    assert await exchange(stream, b"then") == b"then"


async def test_server_serves_many_streams_of_a_connection(
    server: Proxy, connect: Start, destination: Start
) -> None:
    """A hundred streams at once get their own bytes back, in three turns."""
    behind, address = await destination(echo)
    client = await connect(server)

    async def talk(number: int) -> None:
        stream = await client.open(Address.of(*address))
        for turn in range(3):
            data = payload(5_000 + number, seed=1_000 * turn + number)
            assert await exchange(stream, data) == data

    await asyncio.gather(*map(talk, range(STREAMS)))
    assert behind.open == STREAMS
    await client.close()
    assert await settle(limit=PATIENCE, until=lambda: behind.open == 0)


@pytest.mark.parametrize("command", [Command.MUX, Command.TCP])
async def test_server_takes_an_upload(
    command: Command, server: Proxy, connect: Start, destination: Start
) -> None:
    """Four megabytes arrive as they were sent, in the longest frames and in ordinary ones."""
    _, address = await destination(take)
    target, data = Address.of(*address), payload(LARGE)
    client = await connect(server, command, target if command is Command.TCP else None)
    stream = client.stream if command is Command.TCP else await client.open(target)

    await write(stream, LARGE.to_bytes(8) + data)

    assert await read(stream, DIGEST) == sha256(data).digest()


@pytest.mark.parametrize("command", [Command.MUX, Command.TCP])
async def test_server_gives_a_download(
    command: Command, server: Proxy, connect: Start, destination: Start
) -> None:
    """Four megabytes return, in the server's own framing."""
    _, address = await destination(give)
    target = Address.of(*address)
    client = await connect(server, command, target if command is Command.TCP else None)
    stream = client.stream if command is Command.TCP else await client.open(target)

    await stream.write(LARGE.to_bytes(8))
    answer = await read(stream, LARGE + DIGEST)

    assert sha256(answer[:LARGE]).digest() == answer[LARGE:]


async def test_server_echoes_large_transfers_side_by_side(
    server: Proxy, connect: Start, destination: Start
) -> None:
    """Both directions of four streams are full at the same time."""
    _, address = await destination(echo)
    client = await connect(server)

    async def talk(number: int) -> None:
        data = payload(LARGE // 4, seed=number)
        assert await exchange(await client.open(Address.of(*address)), data) == data

    await asyncio.gather(*map(talk, range(4)))


async def test_server_reads_what_comes_byte_by_byte(
    server: Proxy, connect: Start, destination: Start
) -> None:
    """Header and frames may be cut anywhere."""
    _, address = await destination(echo)
    client = await connect(server, header=b"", record=True)
    opening = Frame.new(1, NetworkType.TCP, Address.of(*address), b"hel")
    whole = encode_request(Request(UUID(USER), Command.MUX)) + b"".join(
        map(encode_frame, (opening, Frame.keep(1, b"lo"), Frame.keep(1, b""), Frame.keep(1, b"!")))
    )

    for byte in whole:
        client.send(bytes((byte,)))
        await asyncio.sleep(0)

    def echoed() -> bytes:
        return b"".join(frame.data or b"" for frame in client.frames)

    assert await settle(limit=PATIENCE, until=lambda: echoed() == b"hello!")


async def test_server_ignores_keep_alive(server: Proxy, connect: Start, destination: Start) -> None:
    """With and without data, for any id, nothing is answered, and the streams go on."""
    _, address = await destination(echo)
    client = await connect(server, record=True)
    stream = await client.open(Address.of(*address), b"before")
    assert await read(stream, 6) == b"before"

    for stream_id in (0, 1, 9):
        client.send_frame(Frame(stream_id, FrameStatus.KEEP_ALIVE))
        client.send_frame(Frame(stream_id, FrameStatus.KEEP_ALIVE, DATA, data=b"lost"))

    assert await exchange(stream, b"after") == b"after"
    assert {frame.status for frame in client.frames} == {FrameStatus.KEEP}


async def test_server_tells_of_a_refused_destination(
    server: Proxy, connect: Start, destination: Start, refused: Endpoint
) -> None:
    """V2Ray ends the stream with an error, sing-box without; both go on with the others."""
    _, address = await destination(echo)
    client = await connect(server, record=True)
    neighbour = await client.open(Address.of(*address), b"before")
    assert await read(neighbour, 6) == b"before"

    stream = await client.open(Address.of(*refused), b"is anybody there")

    if "v2ray" in server.title:
        with pytest.raises(StreamClosed) as caught:
            await stream.read()
        assert isinstance(caught.value.__cause__, StreamReset)
    else:
        assert await stream.read() == b""
    assert len(answers(client, stream.stream_id)) == 1
    assert await exchange(neighbour, b"after") == b"after"


async def test_server_ends_a_stream_after_all_its_destination_said(
    server: Proxy, connect: Start, destination: Start
) -> None:
    """A destination speaks first, without a byte of ours, and closes."""
    _, address = await destination(greet)
    client = await connect(server)

    stream = await client.open(Address.of(*address))

    assert await read(stream, len(GREETING) + 1) == GREETING


async def test_server_survives_the_reset_of_a_destination(
    server: Proxy, connect: Start, destination: Start
) -> None:
    """The stream ends, and the next one is served."""
    _, resetting = await destination(reset)
    _, address = await destination(echo)
    client = await connect(server, record=True)

    stream = await client.open(Address.of(*resetting), b"x")
    assert await settle(limit=PATIENCE, until=lambda: bool(answers(client, stream.stream_id)))

    other = await client.open(Address.of(*address), b"hello")
    assert await read(other, 5) == b"hello"


async def test_server_passes_our_end_on(server: Proxy, connect: Start, destination: Start) -> None:
    """The destination gets our End after all our data.

    sing-box half-closes the destination, so that its answer comes, and ends the stream. V2Ray waits
    a second for its end, then closes it and ends the stream with an error.
    """
    behind, address = await destination(count)
    client = await connect(server, record=True)
    stream = await client.open(Address.of(*address), bytes(1_000))

    client.end(stream.stream_id)

    if "v2ray" in server.title:
        with pytest.raises(StreamClosed) as caught:
            await stream.read()
        assert isinstance(caught.value.__cause__, StreamReset)
    else:
        assert await stream.read() == b"1000 bytes"
    assert await settle(limit=PATIENCE, until=lambda: behind.open == 0)
    assert behind.accepted == 1


async def test_server_drops_a_destination_at_our_error(
    server: Proxy, connect: Start, destination: Start
) -> None:
    """End with an error also ends the destination's connection, and no other."""
    behind, address = await destination(echo)
    client = await connect(server)
    stream = await client.open(Address.of(*address), b"hello")
    assert await read(stream, 5) == b"hello"

    stream.close(error=True)

    assert await settle(limit=PATIENCE, until=lambda: behind.accepted == 1 and behind.open == 0)
    other = await client.open(Address.of(*address), b"again")
    assert await read(other, 5) == b"again"


@pytest.mark.parametrize("data", [None, b"lost"])
async def test_server_answers_a_keep_of_an_unknown_stream(
    data: bytes | None, server: Proxy, connect: Start, destination: Start
) -> None:
    """sing-box always answers with an error; V2Ray without one, and only if there was data."""
    _, address = await destination(echo)
    client = await connect(server, record=True)
    stream = await client.open(Address.of(*address), b"before")
    assert await read(stream, 6) == b"before"
    expected = [(FrameStatus.END, 2)]
    if "v2ray" in server.title:
        expected = [(FrameStatus.END, 0)] if data else []

    client.send_frame(Frame.keep(9, data) if data else Frame(9, FrameStatus.KEEP))
    assert await exchange(stream, b"after") == b"after"

    assert await settle(limit=PATIENCE, until=lambda: answers(client, 9) == expected)


@pytest.mark.parametrize("size", [1, 1_400, 2_000])
async def test_server_exchanges_datagrams_in_a_stream(
    size: int, server: Proxy, connect: Start, datagrams: list[Endpoint]
) -> None:
    """Datagrams keep their bounds; sing-box names the source of each, V2Ray need not."""
    client = await connect(server)
    target, data = Address.of(*datagrams[0]), payload(size)
    stream = await client.open(target, data, network=NetworkType.UDP)

    for _ in range(3):
        packet = await stream.read_packet()
        assert packet is not None
        assert packet[0] == data
        assert packet[1] == (None if "v2ray" in server.title else target)
        await stream.write(data, target)


async def test_sing_box_serves_xudp(
    servers: Callable[[str], Proxy], connect: Start, datagrams: list[Endpoint]
) -> None:
    """A stream with a Global ID, on id 0, reaches two destinations."""
    client = await connect(servers("sing-box"))
    first, second = (Address.of(*each) for each in datagrams)
    stream = await client.open(
        first, b"one", network=NetworkType.UDP, stream_id=0, global_id=bytes(range(8))
    )

    assert await stream.read_packet() == (b"one", first)
    await stream.write(b"two", second)
    assert await stream.read_packet() == (b"two", second)
    await stream.write(b"three", first)
    assert await stream.read_packet() == (b"three", first)


async def test_server_exchanges_datagrams_in_a_connection_of_their_own(
    server: Proxy, connect: Start, datagrams: list[Endpoint]
) -> None:
    """The UDP command: packets with their length, all of one destination."""
    client = await connect(server, Command.UDP, Address.of(*datagrams[0]))

    for size in (1, 1_400, 2_000):
        data = payload(size)
        await client.stream.write(data)
        assert await client.stream.read() == data


async def test_server_passes_our_half_close_on(
    server: Proxy, connect: Start, destination: Start
) -> None:
    """The same with the TCP command; here V2Ray, too, ends without an error."""
    behind, address = await destination(count)
    client = await connect(server, Command.TCP, Address.of(*address))
    await client.stream.write(bytes(1_000))

    client.half_close()

    answer = await read(client.stream, 11)
    assert answer == (b"" if "v2ray" in server.title else b"1000 bytes")
    assert await settle(limit=PATIENCE, until=lambda: behind.open == 0)
    assert behind.accepted == 1


@pytest.mark.parametrize("way", ["close", "reset"])
async def test_server_drops_its_destinations_when_we_go(
    way: str, server: Proxy, connect: Start, destination: Start
) -> None:
    """The client ends in the middle of a download, by FIN or RST."""
    behind, address = await destination(flood)
    client = await connect(server)
    stream = await client.open(Address.of(*address))
    assert len(await read(stream, 100_000)) >= 100_000

    if way == "reset":
        client.reset()
    await client.close()

    assert await settle(limit=PATIENCE, until=lambda: behind.accepted == 1 and behind.open == 0)


async def test_server_drops_an_unknown_user(
    server: Proxy, connect: Start, destination: Start
) -> None:
    """Not a byte comes back, and nothing is dialled."""
    behind, address = await destination(echo)
    stranger = UUID("ffffffff-0000-4000-8000-000000000000")
    header = encode_request(Request(stranger, Command.MUX))
    client = await connect(server, header=header, record=True)

    await client.open(Address.of(*address), b"let me in")
    # V2Ray waits for some time, in order not to reveal how far it has read.
    client.half_close()
    await client.ended()

    assert client.frames == []
    assert behind.accepted == 0
