"""Tests of V2Ray's counts over gRPC, with fake servers and the real one."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from muxleak_scenarios.hunt import v2ray
from muxleak_scenarios.hunt.counters import GOROUTINES, CounterError, Snapshot, Together
from muxleak_scenarios.hunt.remote_server import RemoteServer
from muxleak_scenarios.hunt.v2ray import V2RayStats, read_stats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOST = "127.0.0.1"
ANSWER = bytes.fromhex("080f100118e089232088ba352890f8aa0630f142388f2140e22148d3d2085001")
"""Answer of V2Ray 4.34.0 with 15 goroutines."""
COUNTS = Snapshot(Counter({GOROUTINES: 15}), 574_688)


@contextmanager
def serving(answer: Callable[[bytes, Any], bytes], service: str = v2ray.SERVICE) -> Iterator[str]:
    """Yield a gRPC server with one method, on a free port."""
    grpc = pytest.importorskip("grpc", reason=f"needs: {v2ray.HOW}")
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        handlers = {"GetSysStats": grpc.unary_unary_rpc_method_handler(answer)}
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])
        port = server.add_insecure_port(f"{HOST}:0")
        server.start()
        try:
            yield f"{HOST}:{port}"
        finally:
            server.stop(0).wait()


def read(address: str) -> Snapshot:
    """Take a sample."""
    stats = V2RayStats(address)
    try:
        return asyncio.run(stats.read())
    finally:
        stats.close()


def test_v2ray_answer_is_read() -> None:
    """Goroutines and heap are read; fields of other types, as in later versions, are skipped."""
    more = bytes.fromhex("5a03616263" + "61" + "00" * 8 + "6d" + "00" * 4)

    for answer in (ANSWER, more + ANSWER, ANSWER + more):
        assert read_stats(answer) == COUNTS


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"", "no number of goroutines, in nothing"),
        (bytes.fromhex("0800"), "no number of goroutines, in 08 00"),
        (bytes.fromhex("08"), "a number that does not end"),
        (bytes.fromhex("08" + "ff" * 11), "a number that does not end"),
        (bytes.fromhex("080f5a7f"), "a message that is cut short"),
        (bytes.fromhex("080f0c"), "no protobuf message"),
        (b"HTTP/1.0 400 Bad Request", "a message that is cut short|no protobuf"),
    ],
)
def test_v2ray_answer_may_be_anything(answer: bytes, says: str) -> None:
    """Another message is an error that shows it."""
    with pytest.raises(ValueError, match=says):
        read_stats(answer)


def test_v2ray_is_asked_over_grpc() -> None:
    """All samples use one channel; a mere number gives way to stacks."""

    async def samples(stats: V2RayStats) -> list[Snapshot]:
        return [await stats.read() for _ in range(3)]

    peers = set()

    def answer(_request: bytes, context: Any) -> bytes:
        peers.add(context.peer())
        return ANSWER

    class Stacks:
        async def read(self) -> Snapshot:
            return Snapshot(Counter({("main.run",): 4}), 1)

    with serving(answer) as address:
        stats = V2RayStats(address)
        try:
            assert asyncio.run(samples(stats)) == [COUNTS] * 3
            both = asyncio.run(Together([stats, Stacks()]).read())
            assert both == Snapshot(Counter({("main.run",): 4}), 574_688)
        finally:
            stats.close()
    assert len(peers) == 1


def test_v2ray_that_answers_nonsense_says_what_it_said() -> None:
    """Garbage, an error or another service is an error with a remedy."""

    def fails(_request: bytes, _context: Any) -> bytes:
        raise ValueError("broken")

    with serving(lambda *_: b"\xff\xff") as address, pytest.raises(CounterError) as caught:
        read(address)
    assert f"{address}: expected the counts of V2Ray's" in str(caught.value)
    assert "got: a number that does not end: ff ff; check that its conf" in str(caught.value)

    with serving(fails) as address, pytest.raises(CounterError, match=r"UNKNOWN: .*broken"):
        read(address)
    with serving(fails, "other") as address, pytest.raises(CounterError, match="UNIMPLEMENTED"):
        read(address)


def test_v2ray_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that never answers, is not there or speaks no gRPC ends the wait."""
    monkeypatch.setattr(v2ray, "SECONDS", 0.03)
    end = threading.Event()

    def never(_request: bytes, _context: Any) -> bytes:
        end.wait(10)
        return ANSWER

    with serving(never) as address:
        with pytest.raises(CounterError, match=r"none within 0\.03 s"):
            read(address)
        end.set()
    with pytest.raises(CounterError, match=r"UNAVAILABLE|none within"):
        read(address)

    async def noisy() -> str:
        async def handle(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + bytes(range(256)))
            writer.close()

        async with await asyncio.start_server(handle, HOST, 0) as server:
            stats = V2RayStats("{}:{}".format(*server.sockets[0].getsockname()))
            try:
                with pytest.raises(CounterError) as caught:
                    await stats.read()
            finally:
                stats.close()
        return str(caught.value)

    assert "expected the counts of V2Ray's" in asyncio.run(noisy())


def test_v2ray_without_the_extra_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error comes before anything is sent."""
    monkeypatch.setitem(sys.modules, "grpc", None)

    with pytest.raises(ImportError, match=r"pip install 'muxleak\[v2ray\]'"):
        RemoteServer((HOST, 1), v2ray=[f"{HOST}:2"])
