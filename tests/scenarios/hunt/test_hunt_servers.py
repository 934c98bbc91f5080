"""Tests of hunts against servers in this process: hostile, dying, and with false counts."""

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from os import getpid
from random import Random
from typing import cast
from uuid import UUID

import pytest

from muxleak_scenarios.hunt import batch, counters, findings, measure, remote_server
from muxleak_scenarios.hunt import hunt as hunts
from muxleak_scenarios.hunt.batch import Driver, Spending
from muxleak_scenarios.hunt.counters import DESCRIPTORS, CounterError, Pprof, Process, Snapshot
from muxleak_scenarios.hunt.destinations import Destinations
from muxleak_scenarios.hunt.hunt import Hunt, HuntBudget, HuntResult
from muxleak_scenarios.hunt.measure import Meter
from muxleak_scenarios.hunt.peers import HuntPeer, encode
from muxleak_scenarios.hunt.remote_server import RemoteServer, StartError
from muxleak_scenarios.sequence.steps import Sequence, Step
from muxleak_vless import Address, Inbound, NetworkType, Outbound, User
from muxleak_vless.frames import FrameDecoder

USER = UUID(int=1)
HOST = "127.0.0.1"
POLL = ("io.Read",)
IDLE = ("idle",)
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the waits to the little that these servers need."""
    monkeypatch.setattr(measure, "QUICK", 0.005)
    monkeypatch.setattr(measure, "_POLL", 0.0005)
    monkeypatch.setattr(batch, "SETTLE_SECONDS", 0.002)
    monkeypatch.setattr(measure, "SETTLE_SECONDS", 0.002)
    monkeypatch.setattr(remote_server, "_PAUSE", 0.001)


class Counted(RemoteServer):
    """A server in this process, with counts that the test sets."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(address, pid=getpid())
        self.held: Counter[tuple[str, ...]] = Counter()

    async def read(self) -> Snapshot:
        """Return the counts."""
        return Snapshot(self.held.copy())


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[tuple[asyncio.Server, Counted]]:
    """Serve for the length of a block."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await handler(reader, writer)
        writer.close()

    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(handle, HOST, 0)
    try:
        yield server, Counted(server.sockets[0].getsockname())
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        # An aborted transport closes in the next iteration; its peer reads the end one later.
        for _ in range(3):
            await asyncio.sleep(0)


async def hunt(
    target: RemoteServer, *lines: str, connections: int = 60, patience: float = 0.01
) -> HuntResult:
    """Hunt a server until something is found, or measure given lines."""
    limits = HuntBudget(seconds=20, connections=connections, patience=patience, findings=1)
    replays = [Sequence.parse(line) for line in lines] or None
    async with Destinations() as destinations:
        return await Hunt(target, USER, destinations, limits=limits).run(replays)


async def noise(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer with meaningless bytes."""
    writer.write(Random(1).randbytes(1000))
    await writer.drain()


async def nothing(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Never answer."""
    await reader.read()


async def gone(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Close at once."""


async def resets(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Reset at once."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def megabytes(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer with more bytes than asked for."""
    for _ in range(2):
        writer.write(bytes(1 << 20))
        await writer.drain()


async def variant(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Close one direction and read on."""
    writer.write_eof()
    await reader.read()


async def deaf(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read nothing and stay."""
    cast("asyncio.Transport", writer.transport).pause_reading()
    with suppress(TimeoutError):
        await asyncio.wait_for(writer.wait_closed(), 0.05)


@pytest.mark.parametrize("handler", [noise, nothing, gone, resets, megabytes, variant, deaf])
def test_hunt_survives_any_answer(handler: Handler) -> None:
    """All answers are discarded; the hunt ends when its connections are used up."""
    errors: list[dict[str, object]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with serving(handler) as (_, target):
            loop.set_exception_handler(lambda _, context: errors.append(context))
            result = await hunt(target)
        assert (result.ended, result.findings, result.trouble) == ("connections", [], "")
        assert result.connections >= 60

    asyncio.run(main())
    assert errors == []


def test_hunt_survives_counts_that_mean_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts that differ in every sample do not keep the hunt from ending, and are not exact."""
    monkeypatch.setattr(measure, "_LIMIT", 1)

    class Noisy(Counted):
        random = Random(1)

        async def read(self) -> Snapshot:
            counts = {("wait", str(each)): self.random.randrange(99) for each in range(5)}
            return Snapshot(Counter(counts))

    async def main() -> None:
        async with serving(nothing) as (_, counted):
            result = await hunt(Noisy(counted.address), connections=20)
        assert result.ended in {"connections", "enough"}
        assert not any(each.outcome.growth.exact for each in result.findings)

    asyncio.run(main())


@pytest.mark.asyncio
@pytest.mark.parametrize(("user", "reached"), [(USER, True), (UUID(int=2), False)])
async def test_server_is_reached_by_a_user_that_it_knows(
    user: UUID,
    reached: bool,  # noqa: FBT001 - a parameter
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server dials a destination of ours for a stream of a known user."""
    monkeypatch.setattr(batch, "REACH_SECONDS", 60 if reached else 0.05)
    inbound = Inbound([User(USER)], Outbound())
    address = await inbound.listen(HOST, 0)
    async with Destinations() as destinations:
        driver = Driver(address, user, destinations, Spending(1e6))
        assert await driver.reaches() == reached
    await inbound.shutdown()


def test_hunt_reports_a_server_that_accepts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose queue is full counts as dead, after a short wait."""
    monkeypatch.setattr(batch, "CONNECT_SECONDS", 0.02)
    monkeypatch.setattr(remote_server, "_ANSWER_SECONDS", 0.01)

    async def main() -> None:
        async with Destinations() as black_hole:
            address = black_hole.address("@hang")
            result = await hunt(Counted((address.host, address.port)))
        found = result.findings[0].outcome
        assert (result.ended, found.died) == ("died", "accepts nothing within 0.01 s")

    asyncio.run(main())


def test_peer_ends_a_connection_that_is_gone_already() -> None:
    """The server has reset the connection unnoticed: neither FIN nor RST raises an error."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server((HOST, 0)) as listener:
            for verb in ("half", "close", "abort"):
                _, peer = await loop.create_connection(
                    lambda: HuntPeer(USER, lambda: None), *listener.getsockname()
                )
                accepted, _ = listener.accept()
                accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                accepted.close()
                for each in (verb, "data", "abort"):
                    peer.perform(Step(each, "a", 1, size=5), lambda *_: Address.of(HOST, 7))
                peer.close()
                await asyncio.sleep(0)

    asyncio.run(main())


@pytest.mark.asyncio
async def test_replay_is_measured_however_little_time_a_search_would_have() -> None:
    """Otherwise a leak would be reported as nothing found."""

    async def leaks(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        target.held[POLL] += 1
        await reader.read()

    limits = HuntBudget(seconds=1e-9, patience=0.01)
    async with serving(leaks) as (_, target), Destinations() as destinations:
        one = Hunt(target, USER, destinations, limits=limits)
        result = await one.run([Sequence.parse("a:open a:close")])
    assert result.ended == "replayed"
    assert [each.outcome.growth.tasks for each in result.findings] == [(1, 1)]


def test_hunt_finds_a_leak_of_every_connection() -> None:
    """A count grows by two with each connection, and one of them stays: two steps."""

    async def main() -> None:
        async def leaky(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
            target.held[("wait", "serve")] += 1
            await reader.read()

        async with serving(leaky) as (_, target):
            result = await hunt(target, connections=400)
        assert [str(each.outcome.sequence) for each in result.findings] == ["a:open a:close"]
        found = result.findings[0].outcome
        assert (found.shrunk, found.confirmed, found.growth.exact) == (True, True, True)
        assert found.growth.tasks == (1, 1)

    asyncio.run(main())


class Idling(Counted):
    """A server that ends idle objects by itself, after so many samples."""

    def __init__(self, address: tuple[str, int], limit: int = 40) -> None:
        super().__init__(address)
        self.samples, self.limit = 0, limit

    async def read(self) -> Snapshot:
        """Return the counts."""
        self.samples += 1
        if self.samples > self.limit:
            del self.held[("idle",)]
        return await super().read()

    async def serve(self, reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        """Keep an object for a while, whatever the client does."""
        self.samples = 0
        self.held[("idle",)] += 1
        await reader.read()


def test_hunt_separates_passing_growth_from_a_leak() -> None:
    """Growth that goes during the wait is no finding, and is reported with its time."""

    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await target.serve(reader, writer)

        async with serving(serve) as (_, counted):
            target = Idling(counted.address)
            result = await hunt(target, "a:open a:close", patience=2)
        (passing,) = result.passing
        assert (result.ended, result.findings) == ("replayed", [])
        assert (passing.growth.held, passing.gone > 0) == ({("idle",): 1}, True)
        assert passing.freed.startswith("the server itself")
        (known,) = findings.read(findings.write(result.passing))
        assert known.gone == pytest.approx(passing.gone, abs=0.1)

    asyncio.run(main())


def test_hunt_finds_a_leak_beside_passing_growth() -> None:
    """One object stays and more go during the wait: the one is measured exactly."""

    async def main() -> None:
        async def leaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            target.held[("stays",)] += 1
            await target.serve(reader, writer)

        async with serving(leaks) as (_, counted):
            target = Idling(counted.address)
            result = await hunt(target, "a:open a:close", patience=0.05)
        found = result.findings[0].outcome
        assert (result.passing, found.gone) == ([], 0)
        assert (found.growth.held[("stays",)], found.growth.kept[("stays",)]) == (1, 1)

    asyncio.run(main())


@pytest.mark.slow
def test_hunt_searches_on_without_passing_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Growth that outlasts every quick measurement is filed once, shrunk, and left out later."""
    monkeypatch.setattr(hunts, "_LONGEST_QUICK", 0.001)

    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            # A header, and a first frame that opens a stream.
            if (await reader.readexactly(19 + 5))[-1] == 1:
                await target.serve(reader, writer)

        async with serving(serve) as (_, counted):
            target = Idling(counted.address, 100)
            result = await hunt(target, connections=400, patience=5)
        (passing,) = result.passing
        assert (result.ended, result.findings) == ("connections", [])
        assert [step.verb for step in passing.sequence] == ["open", "new", "close"]

    asyncio.run(main())


def test_hunt_reports_a_server_that_dies() -> None:
    """The server stops accepting at the first bytes: a finding, and the end of the hunt."""

    async def main() -> None:
        async def dies(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
            if len(await reader.read(1000)) > 19:
                server.close()

        async with serving(dies) as (server, target):
            result = await hunt(target, connections=500)
        found = result.findings[0].outcome
        assert (result.ended, found.died, found.shrunk) == ("died", "refuses connections", False)

    asyncio.run(main())


@pytest.mark.asyncio
async def test_death_between_two_measurements_belongs_to_no_sequence() -> None:
    """While the hunt waits for growth to go, it sends nothing that could kill the server."""

    class Dying(Counted):
        samples = 0

        async def read(self) -> Snapshot:
            self.samples += 1
            if self.samples > 60:
                server.close()
                raise CounterError("expected a profile, got none")
            return await super().read()

    async def leaks(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        target.samples = 0
        target.held[POLL] += 1
        await reader.read()

    async with serving(leaks) as (server, counted):
        target = Dying(counted.address)
        result = await hunt(target, connections=500, patience=1)
    assert (result.ended, result.findings) == ("trouble", [])
    assert result.trouble == "the server died between two measurements: it refuses connections"


def test_hunt_ends_when_the_server_cannot_be_counted() -> None:
    """A server that lives without counts ends the hunt with an error and not with a finding."""

    async def main() -> None:
        async def read() -> Snapshot:
            raise CounterError("expected a profile, got none")

        async with serving(nothing) as (_, target):
            target.read = read  # type: ignore[method-assign]
            result = await hunt(target)
        assert (result.ended, result.findings) == ("trouble", [])
        assert result.trouble == "expected a profile, got none"

    asyncio.run(main())


def test_hunt_keeps_its_candidate_when_it_is_stopped() -> None:
    """The shortest candidate so far is kept as a suspicion and not as a finding."""

    async def main() -> None:
        async def leaky(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
            target.held[("wait",)] += 1
            await reader.read()

        async with serving(leaky) as (_, target), Destinations() as destinations:
            one = Hunt(target, USER, destinations, stopped=lambda: one.result.measurements > 1)
            result = await one.run()
        suspicion = result.suspicion
        assert (result.ended, result.findings) == ("stopped", [])
        assert suspicion is not None
        assert (suspicion.shrunk, suspicion.confirmed) == (False, False)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("answer", "got"),
    [
        (b"", "got: an empty answer;"),
        (b"HTTP/1.0 200 OK\r\n\r\n", "got: an empty page ('');"),
        (b'HTTP/1.0 200 OK\r\n\r\n{"a": 1}', "got: JSON ('{\"a\": 1}');"),
        (b"HTTP/1.0 404 Not Found\r\n\r\n", "404 Not Found"),
        (b"HTTP/1.0 200 OK\r\n\r\n<html>", "got: an HTML page ('<html>');"),
        (bytes(range(256)), "expected a goroutine profile, got:"),
        (b"x" * 5000, "more than 0 MiB"),
    ],
)
def test_pprof_error_has_the_answer(
    answer: bytes, got: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any other answer is an error that shows it and names the remedy."""
    monkeypatch.setattr(counters, "MAX_BYTES", 4000)

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    async def main() -> None:
        async with serving(handler) as (_, target):
            with pytest.raises(CounterError, match="check that the debug listener") as caught:
                await Pprof("http://{}:{}".format(*target.address)).read()
        assert got in str(caught.value)

    asyncio.run(main())


def test_pprof_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that never answers and one that does not listen end the wait."""
    monkeypatch.setattr(counters, "SECONDS", 0.01)

    async def main() -> None:
        async with serving(nothing) as (server, target):
            pprof = Pprof("http://{}:{}".format(*target.address))
            with pytest.raises(CounterError, match="none within"):
                await pprof.read()
            server.close()
            with pytest.raises(CounterError, match="refused"):
                await pprof.read()

    asyncio.run(main())


def test_process_is_counted_from_proc() -> None:
    """Descriptors and memory of this process are counted; a missing process is an error."""

    async def main() -> None:
        before = await Process(getpid()).read()
        with open("/dev/null", "rb"):  # noqa: ASYNC230, PTH123 - a descriptor
            now = await Process(getpid()).read()
        assert now.counts[DESCRIPTORS] == before.counts[DESCRIPTORS] + 1
        assert (now.memory or 0) > 1 << 20
        with pytest.raises(CounterError, match=r"expected process 0 .* got no such process; "):
            await Process(0).read()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("false", "exited with status 1"),
        ("sh -c 'kill -9 $$'", "killed by SIGKILL"),
        ("/no/such/program", "cannot start '/no/such/program': there is no such program; check"),
        ("/dev/null", "cannot start '/dev/null': it is not executable; check the command"),
        ("/", "cannot start '/': it is not executable; check the command"),
        ("sh -c 'echo it is broken; kill -9 $$'", "it is broken"),
    ],
)
def test_target_that_does_not_start_says_why(command: str, says: str) -> None:
    """The error has the end of the process or its last lines, and is no timeout."""

    async def main() -> None:
        async with serving(nothing) as (server, free):
            server.close()
            target = RemoteServer(free.address, command=command)
            try:
                with pytest.raises(StartError) as caught:
                    await target.start()
            finally:
                target.stop()
        assert says in str(caught.value)

    asyncio.run(main())


def test_target_refuses_a_port_that_is_taken() -> None:
    """Otherwise the other program would be hunted and the new process counted."""

    async def main() -> None:
        async with serving(nothing) as (_, there):
            with pytest.raises(StartError, match="a program listens there already"):
                await RemoteServer(there.address, command="false").start()

    asyncio.run(main())


def test_destinations_behave_as_named() -> None:
    """Each behaves so over real sockets, and all connections end when they close."""

    async def main() -> None:
        async with Destinations() as hosted:

            async def said(kind: str, data: bytes = b"x") -> bytes:
                address = hosted.address(kind)
                reader, writer = await asyncio.open_connection(address.host, address.port)
                writers.append(writer)
                writer.write(data)
                return await reader.read(1)

            writers: list[asyncio.StreamWriter] = []
            assert await said("@echo") == b"x"
            assert await said("@flood") == b"f"
            assert await said("@close") == b"g"
            with pytest.raises(ConnectionRefusedError):
                await said("@refuse")
            with pytest.raises(ConnectionResetError):
                await said("@reset")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await said("@hang")
            silent = asyncio.create_task(said("@silent"))
            deaf = asyncio.create_task(said("@deaf"))
            for _ in range(20):
                await asyncio.sleep(0)
            assert not silent.done()
            hosted.leave()
            with suppress(ConnectionResetError):
                assert await silent == b""
            with suppress(ConnectionResetError):
                assert await deaf == b""
            for writer in writers:
                writer.transport.abort()
            await asyncio.sleep(0)

    asyncio.run(main())


@pytest.mark.asyncio
async def test_left_is_every_change_also_below_zero() -> None:
    """Changes are not rounded and can be below zero; the next measurement starts from there."""
    gone: list[int] = []

    async def leaks(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        target.held[POLL] += 1
        target.held[DESCRIPTORS] += sum(target.held.values()) % 2
        target.held[IDLE] = 0
        await reader.read()

    class Leaving(Destinations):
        def leave(self) -> None:
            super().leave()
            target.held[POLL] -= not gone
            gone.append(1)

    async with serving(leaks) as (_, target), Leaving() as destinations:
        target.held[IDLE] = 2
        driver = batch.Driver(target.address, USER, destinations, batch.Spending(1e9))
        meter = measure.Meter(target, driver, destinations)
        first = await meter.left(Sequence.parse("a:open a:close"), 3, 0.01)
        again = await meter.left(Sequence.parse("a:open a:close"), 2, 0.01)

    assert [each[POLL] for each in (*first, *again)] == [3, 2, 2, 2]
    assert [each[IDLE] for each in (*first, *again)] == [-2, -2, 0, 0]


def test_destinations_speak_udp() -> None:
    """One echoes and one stays silent; both count as traffic."""

    async def main() -> None:
        loop, came = asyncio.get_running_loop(), asyncio.Event()

        class Client(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, _address: object) -> None:
                assert data == b"loud"
                came.set()

        async with Destinations() as hosted:
            client, _ = await loop.create_datagram_endpoint(Client, local_addr=(HOST, 0))
            for kind, data in (("@silent", b"still"), ("@echo", b"loud")):
                address = hosted.address(kind, NetworkType.UDP)
                client.sendto(data, (address.host, address.port))
            await came.wait()
            assert hosted.traffic == 2
            client.close()

    asyncio.run(main())


def test_peer_gives_each_xudp_stream_an_id_of_its_own() -> None:
    """Equal ids would be one stream, even across connections; plain UDP has none."""
    frames = []
    for verb in ("udp", "xudp", "xudp"):
        decoder = FrameDecoder()
        decoder.receive_data(encode(Step(verb, "a", 1, "@echo", 5), lambda *_: Address.of(HOST, 7)))
        frames.append(decoder.next_frame())
    udp, one, two = frames

    assert udp is not None
    assert one is not None
    assert two is not None
    assert (udp.network, udp.global_id) == (NetworkType.UDP, None)
    assert one.global_id != two.global_id


def test_meter_takes_a_moment_for_no_change() -> None:
    """A count that differs in one of seven samples has not changed."""

    class Blinks(Counted):
        samples = 0

        async def read(self) -> Snapshot:
            self.samples += 1
            self.held[("blink",)] = self.samples % 7 == 0
            return await super().read()

    async def main() -> None:
        async with serving(nothing) as (_, counted), Destinations() as destinations:
            target = Blinks(counted.address)
            driver = Driver(counted.address, USER, destinations, Spending(1e6))
            # A sample takes no time on this clock, however long it takes here.
            meter = Meter(target, driver, destinations, lambda: 0.002 * target.samples)
            settled = await meter.settle(patience=0.05)
        assert settled.tasks == 0
        assert target.samples > 14

    asyncio.run(main())
