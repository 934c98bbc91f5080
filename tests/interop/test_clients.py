"""Real clients through our server: V2Ray with mux.cool, sing-box with XUDP and without."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest

from muxleak import settle
from muxleak_vless.versions import VERSIONS
from servers import DIGEST, GREETING, PIECE, count, echo, flood, give, greet, payload, reset, take
from socks import SocksConnection, SocksDatagrams

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from proxies import Proxies
    from servers import Endpoint

    Start = Callable[..., Awaitable[Any]]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.interop,
    pytest.mark.asyncio,
    pytest.mark.timeout(15),
]

BOTH = pytest.mark.parametrize("name", ["v2ray", "sing-box"])
LARGE = 8 * 1024 * 1024
STREAMS = 64
CONCURRENCY = 8
PATIENCE = 10.0
"""Seconds to wait for an event that must come; an event that came already is not waited for."""
IDLE_MUX = ["Inbound._serve", "MuxSession._watch"]
"""Tasks of a mux connection without streams."""


async def until_the_end(user: SocksConnection, passed: Counter[str] | None = None) -> bytes:
    """Read until the stream ends in any way; return the bytes, or add their number to a counter."""
    chunks: list[bytes] = []
    with suppress(ConnectionError):
        while data := await user.reader.read(PIECE):
            if passed is None:
                chunks.append(data)
            else:
                passed["down"] += len(data)
    return b"".join(chunks)


@BOTH
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
async def test_client_reaches_any_kind_of_address(
    name: str, host: str, serve: Start, destination: Start, proxies: Proxies
) -> None:
    """The address can be IPv4, a name or IPv6."""
    served = await serve()
    _, (_, port) = await destination(echo, host.replace("localhost", "127.0.0.1"))
    proxy = proxies.client(name, served.address)

    async with await SocksConnection.connect(proxy.address, (host, port)) as user:
        assert await user.ask(b"hello", 5) == b"hello"

    proxy.kill()
    assert await served.gone()


async def test_v2ray_muxes_many_streams_at_once(
    serve: Start, destination: Start, proxies: Proxies
) -> None:
    """As many streams as fit share a connection; each gets its own bytes back, in turns."""
    served = await serve()
    behind, address = await destination(echo)
    proxy = proxies.client("v2ray", served.address)

    async def talk(number: int) -> SocksConnection:
        user = await SocksConnection.connect(proxy.address, address)
        for turn in range(3):
            data = payload(10_000 + number, seed=1_000 * turn + number)
            assert await user.ask(data, len(data)) == data
        return user

    users = await asyncio.gather(*map(talk, range(STREAMS)))
    muxes = served.inbound.active
    assert behind.open == STREAMS
    assert STREAMS // CONCURRENCY <= muxes == served.inbound.connections < STREAMS

    await asyncio.gather(*(user.close() for user in users))
    assert await settle(limit=PATIENCE, until=lambda: behind.open == 0)
    assert await settle(limit=PATIENCE, until=lambda: len(served.tasks) == 2 * muxes)
    assert served.tasks == sorted(IDLE_MUX * muxes)
    proxy.kill()
    assert await served.gone()


async def test_sing_box_opens_a_connection_for_each_stream(
    serve: Start, destination: Start, proxies: Proxies
) -> None:
    """TCP is not muxed: each stream has a connection, and there is no mux session."""
    served = await serve()
    behind, address = await destination(echo)
    proxy = proxies.client("sing-box", served.address)

    async def talk(number: int) -> SocksConnection:
        user = await SocksConnection.connect(proxy.address, address)
        data = payload(10_000, seed=number)
        assert await user.ask(data, len(data)) == data
        return user

    users = await asyncio.gather(*map(talk, range(STREAMS)))
    assert behind.open == served.inbound.connections == STREAMS
    assert served.inbound.active == 0

    await asyncio.gather(*(user.close() for user in users))
    assert await served.gone()


@BOTH
async def test_client_uploads(
    name: str, serve: Start, destination: Start, proxies: Proxies
) -> None:
    """Eight megabytes arrive as they were sent."""
    served = await serve()
    _, address = await destination(take)
    proxy = proxies.client(name, served.address)
    data = payload(LARGE)

    async with await SocksConnection.connect(proxy.address, address) as user:
        answer = await user.ask(LARGE.to_bytes(8) + data, DIGEST)

    assert answer == sha256(data).digest()
    proxy.kill()
    assert await served.gone()


@BOTH
async def test_client_downloads(
    name: str, serve: Start, destination: Start, proxies: Proxies
) -> None:
    """Eight megabytes return as they were sent."""
    served = await serve()
    _, address = await destination(give)
    proxy = proxies.client(name, served.address)

    async with await SocksConnection.connect(proxy.address, address) as user:
        answer = await user.ask(LARGE.to_bytes(8), LARGE + DIGEST)

    assert sha256(answer[:LARGE]).digest() == answer[LARGE:]
    proxy.kill()
    assert await served.gone()


@BOTH
async def test_client_transfers_both_ways_at_once(
    name: str, serve: Start, destination: Start, proxies: Proxies
) -> None:
    """Eight streams of a megabyte each are echoed at the same time."""
    served = await serve()
    _, address = await destination(echo)
    proxy = proxies.client(name, served.address)

    async def talk(number: int) -> None:
        data = payload(LARGE // 8, seed=number)
        async with await SocksConnection.connect(proxy.address, address) as user:
            assert await user.ask(data, len(data)) == data

    await asyncio.gather(*map(talk, range(8)))
    proxy.kill()
    assert await served.gone()


@BOTH
async def test_client_hears_of_a_refused_destination(
    name: str, serve: Start, destination: Start, refused: Endpoint, proxies: Proxies
) -> None:
    """The user's connection ends without a byte, and the next one works."""
    served = await serve()
    _, address = await destination(echo)
    proxy = proxies.client(name, served.address)

    async with await SocksConnection.connect(proxy.address, address) as neighbour:
        assert await neighbour.ask(b"before", 6) == b"before"
        async with await SocksConnection.connect(proxy.address, refused) as user:
            await user.send(b"is anybody there")
            assert await until_the_end(user) == b""
        assert await neighbour.ask(b"after", 5) == b"after"

    proxy.kill()
    assert await served.gone()


@BOTH
async def test_client_hears_the_end_of_a_destination_after_all_it_said(
    name: str, serve: Start, destination: Start, proxies: Proxies
) -> None:
    """A destination speaks first and closes: nothing is lost, and the end arrives."""
    served = await serve()
    behind, address = await destination(greet)
    proxy = proxies.client(name, served.address)

    async with await SocksConnection.connect(proxy.address, address) as user:
        assert await until_the_end(user) == GREETING

    assert await settle(limit=PATIENCE, until=lambda: behind.open == 0)
    proxy.kill()
    assert await served.gone()


@BOTH
async def test_client_survives_the_reset_of_a_destination(
    name: str, serve: Start, destination: Start, proxies: Proxies
) -> None:
    """That stream ends and no other."""
    served = await serve()
    _, resetting = await destination(reset)
    _, address = await destination(echo)
    proxy = proxies.client(name, served.address)

    async with await SocksConnection.connect(proxy.address, address) as neighbour:
        assert await neighbour.ask(b"before", 6) == b"before"
        async with await SocksConnection.connect(proxy.address, resetting) as user:
            await user.send(b"x")
            assert await until_the_end(user) == b""
        assert await neighbour.ask(b"after", 5) == b"after"

    proxy.kill()
    assert await served.gone()


async def test_sing_box_half_closes_and_is_answered(
    serve: Start, destination: Start, proxies: Proxies
) -> None:
    """The user's end reaches the destination as an end, and the answer to it reaches the user."""
    served = await serve()
    _, address = await destination(count)
    proxy = proxies.client("sing-box", served.address)

    async with await SocksConnection.connect(proxy.address, address) as user:
        await user.send(bytes(100_000))
        user.writer.write_eof()
        assert await until_the_end(user) == b"100000 bytes"

    assert await served.gone()


async def test_v2ray_takes_a_half_close_for_the_end(
    serve: Start, destination: Start, proxies: Proxies
) -> None:
    """The client closes both directions, with any server; its End reaches the destination."""
    served = await serve()
    behind, address = await destination(echo)
    proxy = proxies.client("v2ray", served.address)

    async with await SocksConnection.connect(proxy.address, address) as user:
        assert await user.ask(b"hello", 5) == b"hello"
        assert behind.open == 1
        user.writer.write_eof()
        assert await until_the_end(user) == b""
        assert await settle(limit=PATIENCE, until=lambda: behind.open == 0)

    assert await settle(limit=PATIENCE, until=lambda: served.tasks == IDLE_MUX)


@BOTH
@pytest.mark.parametrize("end", ["kill", "terminate"])
async def test_client_ends_in_the_middle_of_transfers(
    name: str, end: str, serve: Start, destination: Start, proxies: Proxies
) -> None:
    """Both directions are busy when the client ends: our tasks end, and so do the destinations."""
    passed = Counter(up=0, down=0)

    async def sink(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(PIECE):
            passed["up"] += len(data)

    served = await serve()
    above, up = await destination(sink)
    below, down = await destination(flood)
    proxy = proxies.client(name, served.address)
    async with (
        await SocksConnection.connect(proxy.address, up) as uploader,
        await SocksConnection.connect(proxy.address, down) as downloader,
    ):
        traffic = [
            asyncio.ensure_future(uploader.send(bytes(16 * LARGE))),
            asyncio.ensure_future(until_the_end(downloader, passed)),
        ]
        assert await settle(limit=PATIENCE, until=lambda: min(passed.values()) > LARGE // 8)
        assert not any(each.done() for each in traffic)
        getattr(proxy, end)()

        assert await served.gone()
        assert await settle(limit=PATIENCE, until=lambda: above.open == below.open == 0)
        await asyncio.gather(*traffic, return_exceptions=True)


@pytest.mark.parametrize("version", VERSIONS)
async def test_v2ray_leaves_in_each_version_what_that_version_leaves(
    version: str, serve: Start, destination: Start, proxies: Proxies
) -> None:
    """V1 keeps one task for each mux connection of a real client, the others keep none.

    The users end their streams before the client ends, so V0, which has no cleanup, keeps nothing
    either.
    """
    served = await serve(version)
    behind, address = await destination(echo)
    proxy = proxies.client("v2ray", served.address, mux={"enabled": True, "concurrency": 1})

    async def talk() -> None:
        async with await SocksConnection.connect(proxy.address, address) as user:
            assert await user.ask(b"hello", 5) == b"hello"

    await asyncio.gather(*(talk() for _ in range(8)))
    assert await settle(limit=PATIENCE, until=lambda: behind.open == 0)
    accepted = served.inbound.accepted
    proxy.kill()

    assert accepted > 1
    assert await served.gone(left=accepted if version == "V1" else 0), served.tasks
    assert set(served.tasks) <= {"MuxSession._watch"}


async def test_v1_grows_by_one_task_with_each_mux_connection_of_v2ray(
    serve: Start, destination: Start, proxies: Proxies
) -> None:
    """Clients come, speak and go one after the other: one more task each time."""
    served = await serve("V1")
    _, address = await destination(echo)

    for number in range(1, 6):
        proxy = proxies.client("v2ray", served.address)
        async with await SocksConnection.connect(proxy.address, address) as user:
            assert await user.ask(b"hello", 5) == b"hello"
        proxy.kill()
        assert await served.gone(left=number), served.tasks
        assert served.inbound.accepted == number


@pytest.mark.parametrize(("version", "left"), [("V1", 1), ("REF", 0)])
async def test_xudp_connections_of_sing_box_leak_as_those_of_v2ray(
    version: str, left: int, serve: Start, datagrams: list[Endpoint], proxies: Proxies
) -> None:
    """XUDP uses the mux command, so the same watcher stays."""
    served = await serve(version)
    proxy = proxies.client("sing-box", served.address)

    async with await SocksDatagrams.associate(proxy.address) as user:
        assert await user.ask(b"hello", datagrams[0]) == (b"hello", datagrams[0])
        assert served.inbound.active == 1
    proxy.kill()

    assert await served.gone(left), served.tasks


@BOTH
async def test_client_exchanges_datagrams_in_a_mux_connection(
    name: str, serve: Start, datagrams: list[Endpoint], proxies: Proxies
) -> None:
    """Datagrams of all sizes keep their bounds and their source, with two destinations in turns."""
    served = await serve()
    proxy = proxies.client(name, served.address)

    async with await SocksDatagrams.associate(proxy.address) as user:
        for size in (1, 100, 1_400, 2_000):
            for address in datagrams:
                data = payload(size)
                assert await user.ask(data, address) == (data, address)
        assert served.inbound.active == served.inbound.accepted == 1

    proxy.kill()
    assert await served.gone()


async def test_sing_box_exchanges_datagrams_in_a_connection_of_their_own(
    serve: Start, datagrams: list[Endpoint], proxies: Proxies
) -> None:
    """Without a packet encoding it sends the UDP command, which has one destination only."""
    served = await serve()
    proxy = proxies.client("sing-box", served.address, packet_encoding="")

    async with await SocksDatagrams.associate(proxy.address) as user:
        for size in (1, 1_400, 9_000):
            data = payload(size)
            assert await user.ask(data, datagrams[0]) == (data, datagrams[0])
        assert (served.inbound.active, served.inbound.accepted) == (0, 1)

    proxy.kill()
    assert await served.gone()


async def test_xudp_stream_serves_all_destinations(
    serve: Start, datagrams: list[Endpoint], proxies: Proxies
) -> None:
    """One stream has two destinations, each with answers from its own address, large ones too."""
    served = await serve()
    proxy = proxies.client("sing-box", served.address)
    data = payload(9_000)

    async with await SocksDatagrams.associate(proxy.address) as user:
        for address in datagrams * 2:
            assert await user.ask(data, address) == (data, address)
        assert (served.inbound.accepted, served.tasks.count("MuxSession._serve")) == (1, 1)


@BOTH
async def test_client_of_an_unknown_user_is_refused(
    name: str, serve: Start, destination: Start, proxies: Proxies
) -> None:
    """Nothing is dialled, the user's connection ends, and nothing is left."""
    served = await serve()
    behind, address = await destination(echo)
    proxy = proxies.client(name, served.address, user="ffffffff-0000-4000-8000-000000000000")

    async with await SocksConnection.connect(proxy.address, address) as user:
        await user.send(b"let me in")
        assert await until_the_end(user) == b""

    assert await served.gone()
    assert (behind.accepted, served.inbound.active) == (0, 0)


@BOTH
async def test_client_of_a_server_that_restarts(
    name: str, serve: Start, destination: Start, proxies: Proxies
) -> None:
    """The server stops at once while data flows; started again, it serves the same client."""
    passed: Counter[str] = Counter()
    served = await serve()
    _, flooding = await destination(flood)
    _, address = await destination(echo)
    proxy = proxies.client(name, served.address)
    async with await SocksConnection.connect(proxy.address, flooding) as user:
        traffic = asyncio.ensure_future(until_the_end(user, passed))
        assert await settle(limit=PATIENCE, until=lambda: passed["down"] > LARGE // 8)

        assert await served.inbound.shutdown() == []
        assert served.tasks == []
        await traffic
    again = await serve(address=served.address)

    async with await SocksConnection.connect(proxy.address, address) as user:
        assert await user.ask(b"hello", 5) == b"hello"
    assert again.inbound.accepted == 1
    proxy.kill()
    assert await again.gone()
