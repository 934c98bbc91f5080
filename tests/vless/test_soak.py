"""Ten thousand connections in one process: tasks, descriptors and memory stay where they were."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import struct
import sys
import tracemalloc
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest

from muxleak import settle
from muxleak_scenarios import SimTarget
from muxleak_scenarios.targets.target import USER
from muxleak_vless import Lifecycle
from muxleak_vless.address import Address, NetworkType
from muxleak_vless.frames import Frame, encode_frame
from muxleak_vless.header import Command, Request, encode_request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from uuid import UUID

    from muxleak_vless import Handler, Inbound

    Serve = Callable[..., Awaitable[tuple[Inbound, tuple[str, int]]]]

CONNECTIONS = 10_000
STEP = 1_000
PREFIXES = 1_000
WARM = 2_000
TOLERANCE = 16 * 1024
"""Bytes: a leak of three per connection would show; the looks themselves cost less than one."""
STREAMS = 100_000
BLOCKS = 200
"""Allocated blocks: one in fifty streams of one tenth."""
PAYLOAD = b"is anybody there"
DESCRIPTORS = Path("/proc/self/fd")


async def converse(address: tuple[str, int], request: bytes, answer: bytes) -> None:
    """Connect, send all, check all that comes back, and close."""
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.settimeout(0)
        await loop.sock_connect(sock, address)
        await loop.sock_sendall(sock, request)
        received = b""
        while len(received) < len(answer):
            received += await loop.sock_recv(sock, 100)
    assert received == answer


@pytest.mark.slow
@pytest.mark.asyncio
async def test_soak_ten_thousand_connections(
    serve: Serve,
    uuid: UUID,
    echo: Handler,
    request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each connection opens a stream to an echo and closes; after every thousand all is flat."""
    caplog.set_level(logging.WARNING)  # What is logged is kept, which would look like a leak.
    inbound, address = await serve(echo)
    request_bytes = encode_request(Request(uuid, Command.MUX)) + encode_frame(
        Frame.new(1, NetworkType.TCP, Address.of("127.0.0.1", 80), PAYLOAD)
    )
    answer = b"\x00\x00" + encode_frame(Frame.keep(1, PAYLOAD))
    tasks, descriptors = len(asyncio.all_tasks()), _descriptors()
    levels: dict[int, int] = {}

    tracemalloc.start()
    request.addfinalizer(tracemalloc.stop)
    for number in range(1, CONNECTIONS + 1):
        await converse(address, request_bytes, answer)
        if number % STEP == 0:
            assert await settle(limit=5, until=lambda: inbound.connections == 0)
            await settle()
            assert inbound.accepted == number
            assert inbound.active == 0
            assert len(asyncio.all_tasks()) == tasks
            assert _descriptors() == descriptors
            gc.collect()
            levels[number], _ = tracemalloc.get_traced_memory()

    growth = levels[CONNECTIONS] - levels[WARM]
    print(f"memory after every {STEP}: {levels}, growth since {WARM}: {growth} bytes")  # noqa: T201 - the figures of the run, shown by -s
    assert growth < TOLERANCE
    if descriptors is None:
        pytest.skip("no /proc/self/fd on this system: all but the descriptors was checked")


@pytest.mark.slow
@pytest.mark.asyncio
async def test_soak_random_prefixes(
    serve: Serve, uuid: UUID, echo: Handler, caplog: pytest.LogCaptureFixture
) -> None:
    """A thousand connections cut anywhere in a valid script, by FIN or RST, leave nothing."""
    caplog.set_level(logging.WARNING)
    inbound, address = await serve(echo)
    target = Address.of("127.0.0.1", 80)
    script = encode_request(Request(uuid, Command.MUX)) + b"".join(
        encode_frame(frame)
        for stream_id in (1, 2, 1)
        for frame in (
            Frame.new(stream_id, NetworkType.TCP, target, PAYLOAD),
            Frame.keep(stream_id, PAYLOAD),
            Frame.end(stream_id, error=stream_id == 2),
        )
    )
    tasks, descriptors = len(asyncio.all_tasks()), _descriptors()
    loop, random = asyncio.get_running_loop(), Random(1)

    for number in range(1, PREFIXES + 1):
        with socket.socket() as sock:
            sock.settimeout(0)
            await loop.sock_connect(sock, address)
            await loop.sock_sendall(sock, script[: random.randrange(len(script) + 1)])
            if random.random() < 0.5:
                await settle(limit=0.01)
            if random.random() < 0.5:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if number % 100 == 0:
            assert await settle(limit=5, until=lambda: inbound.connections == 0)
            await settle()
            assert inbound.accepted == number
            assert inbound.active == 0
            assert len(asyncio.all_tasks()) == tasks
            assert _descriptors() == descriptors


@pytest.mark.slow
def test_soak_one_connection_of_very_many_streams(request: pytest.FixtureRequest) -> None:
    """A hundred thousand streams, one after the other, on one connection that stays open."""
    world = SimTarget(Lifecycle())
    request.addfinalizer(world.dispose)
    peer = world.connect()
    peer.send(encode_request(Request(USER, Command.MUX)))
    world.settle()
    (session,) = world.sessions.values()
    tasks, levels, header = peer.scope.live, [], b"\x00\x00"
    target = Address.of("echo.test", 80)
    gc.collect()

    for number in range(1, STREAMS + 1):
        stream_id = number & 0xFFFF
        new = Frame.new(stream_id, NetworkType.TCP, target, PAYLOAD)
        peer.send(encode_frame(new) + encode_frame(Frame.end(stream_id)))
        world.settle()
        answer = encode_frame(Frame.keep(stream_id, PAYLOAD)) + encode_frame(Frame.end(stream_id))
        assert peer.take() == header + answer
        header = b""
        if number % (STREAMS // 10) == 0:
            assert (peer.scope.live, session.load, len(session.streams)) == (tasks, 0, 0)
            assert world.pending_timers <= 1
            gc.collect()
            levels.append(sys.getallocatedblocks())

    assert levels[-1] - levels[0] < BLOCKS


def _descriptors() -> int | None:
    return len(list(DESCRIPTORS.iterdir())) if DESCRIPTORS.exists() else None
