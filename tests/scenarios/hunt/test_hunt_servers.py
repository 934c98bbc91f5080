"""A hunt of servers in this process: hostile ones, ones that die, endpoints that lie."""

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
    """Waits are as short as the servers here allow."""
    monkeypatch.setattr(measure, "QUICK", 0.005)
    monkeypatch.setattr(measure, "_POLL", 0.0005)
    monkeypatch.setattr(batch, "SETTLE_SECONDS", 0.002)
    monkeypatch.setattr(measure, "SETTLE_SECONDS", 0.002)
    monkeypatch.setattr(remote_server, "_PAUSE", 0.001)


class Counted(RemoteServer):
    """A server in this process: what it holds is what it says."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(address, pid=getpid())
        self.held: Counter[tuple[str, ...]] = Counter()

    async def read(self) -> Snapshot:
        """Tell what it holds."""
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
        # What is aborted is closed in the next iteration, and read to its end in the one after.
        for _ in range(3):
            await asyncio.sleep(0)


async def hunt(
    target: RemoteServer, *lines: str, connections: int = 60, patience: float = 0.01
) -> HuntResult:
    """Hunt a server until something is found, or measure lines at it."""
    limits = HuntBudget(seconds=20, connections=connections, patience=patience, findings=1)
    replays = [Sequence.parse(line) for line in lines] or None
    async with Destinations() as destinations:
        return await Hunt(target, USER, destinations, limits=limits).run(replays)


async def noise(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer with bytes that mean nothing."""
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
    """Answer more than anybody asked for."""
    for _ in range(2):
        writer.write(bytes(1 << 20))
        await writer.drain()


async def variant(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Close one direction, and go on reading."""
    writer.write_eof()
    await reader.read()


async def deaf(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read nothing, and stay."""
    cast("asyncio.Transport", writer.transport).pause_reading()
    with suppress(TimeoutError):
        await asyncio.wait_for(writer.wait_closed(), 0.05)


@pytest.mark.parametrize("handler", [noise, nothing, gone, resets, megabytes, variant, deaf])
def test_hunt_survives_what_a_server_answers(handler: Handler) -> None:
    """Whatever comes is discarded; the hunt ends when its connections are used up."""
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
    """Others at each look, without end: it ends all the same, and is certain of nothing."""
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
        assert not any(each.growth.exact for each in result.findings)

    asyncio.run(main())


@pytest.mark.asyncio
@pytest.mark.parametrize(("user", "reached"), [(USER, True), (UUID(int=2), False)])
async def test_server_is_reached_by_a_user_that_it_knows(
    user: UUID,
    reached: bool,  # noqa: FBT001 - a parameter
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a hunt's streams are: it dials a destination hosted here."""
    monkeypatch.setattr(batch, "REACH_SECONDS", 60 if reached else 0.05)
    inbound = Inbound([User(USER)], Outbound())
    address = await inbound.listen(HOST, 0)
    async with Destinations() as destinations:
        driver = Driver(address, user, destinations, Spending(1e6))
        assert await driver.reaches() == reached
    await inbound.shutdown()


def test_hunt_says_that_a_server_accepts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It listens, and its queue is full: dead for the hunt, which waits no longer than it must."""
    monkeypatch.setattr(batch, "CONNECT_SECONDS", 0.02)
    monkeypatch.setattr(remote_server, "_ANSWER_SECONDS", 0.01)

    async def main() -> None:
        async with Destinations() as black_hole:
            address = black_hole.address("@hang")
            result = await hunt(Counted((address.host, address.port)))
        (found,) = result.findings
        assert (result.ended, found.died) == ("died", "accepts nothing within 0.01 s")

    asyncio.run(main())


def test_peer_ends_a_connection_that_is_gone_already() -> None:
    """The server has reset it, and nobody has looked since: neither FIN nor RST is an error."""

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
    """Else what leaks would be told as nothing found."""

    async def leaks(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        target.held[POLL] += 1
        await reader.read()

    limits = HuntBudget(seconds=1e-9, patience=0.01)
    async with serving(leaks) as (_, target), Destinations() as destinations:
        one = Hunt(target, USER, destinations, limits=limits)
        result = await one.run([Sequence.parse("a:open a:close")])
    assert result.ended == "replayed"
    assert [each.growth.tasks for each in result.findings] == [(1, 1)]


def test_hunt_finds_what_every_connection_leaves() -> None:
    """A count that grows by two with each connection, of which one stays for ever: two steps."""

    async def main() -> None:
        async def leaky(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
            target.held[("wait", "serve")] += 1
            await reader.read()

        async with serving(leaky) as (_, target):
            result = await hunt(target, connections=400)
        assert [str(each.sequence) for each in result.findings] == ["a:open a:close"]
        (found,) = result.findings
        assert (found.shrunk, found.confirmed, found.growth.exact) == (True, True, True)
        assert found.growth.tasks == (1, 1)

    asyncio.run(main())


class Idling(Counted):
    """Ends what is idle by itself, as soon as it has been looked at so often."""

    def __init__(self, address: tuple[str, int], limit: int = 40) -> None:
        super().__init__(address)
        self.looks, self.limit = 0, limit

    async def read(self) -> Snapshot:
        """Tell what it holds."""
        self.looks += 1
        if self.looks > self.limit:
            del self.held[("idle",)]
        return await super().read()

    async def serve(self, reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        """Hold something for a while, whatever the client does."""
        self.looks = 0
        self.held[("idle",)] += 1
        await reader.read()


def test_hunt_tells_what_goes_by_itself_from_a_leak() -> None:
    """What is gone when it is waited for is no finding, and is told, with the time it took."""

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


def test_hunt_finds_what_stays_beside_what_goes() -> None:
    """One that stays, and more that go while it is waited for: the one, exactly."""

    async def main() -> None:
        async def leaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            target.held[("stays",)] += 1
            await target.serve(reader, writer)

        async with serving(leaks) as (_, counted):
            target = Idling(counted.address)
            result = await hunt(target, "a:open a:close", patience=0.05)
        (found,) = result.findings
        assert (result.passing, found.gone) == ([], 0)
        assert (found.growth.held[("stays",)], found.growth.kept[("stays",)]) == (1, 1)

    asyncio.run(main())


@pytest.mark.slow
def test_hunt_searches_on_without_what_goes_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes too long for every look is filed once, shrunk, and kept out of what follows."""
    monkeypatch.setattr(hunts, "_LONGEST_LOOK", 0.001)

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
    """It stops accepting at the first bytes: the sequence is a finding, and the hunt ends."""

    async def main() -> None:
        async def dies(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
            if len(await reader.read(1000)) > 19:
                server.close()

        async with serving(dies) as (server, target):
            result = await hunt(target, connections=500)
        (found,) = result.findings
        assert (result.ended, found.died, found.shrunk) == ("died", "refuses connections", False)

    asyncio.run(main())


@pytest.mark.asyncio
async def test_hunt_blames_no_sequence_for_a_death_between_two_looks() -> None:
    """While it waits for what goes by itself, it sends nothing that the server could die of."""

    class Dying(Counted):
        looks = 0

        async def read(self) -> Snapshot:
            self.looks += 1
            if self.looks > 60:
                server.close()
                raise CounterError("expected a profile, got none")
            return await super().read()

    async def leaks(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        target.looks = 0
        target.held[POLL] += 1
        await reader.read()

    async with serving(leaks) as (server, counted):
        target = Dying(counted.address)
        result = await hunt(target, connections=500, patience=1)
    assert (result.ended, result.findings) == ("trouble", [])
    assert result.trouble == "the server died between two measurements: it refuses connections"


def test_hunt_ends_when_the_server_cannot_be_counted() -> None:
    """It lives, but tells no counts any more: said, and not taken for anything else."""

    async def main() -> None:
        async def read() -> Snapshot:
            raise CounterError("expected a profile, got none")

        async with serving(nothing) as (_, target):
            target.read = read  # type: ignore[method-assign]
            result = await hunt(target)
        assert (result.ended, result.findings) == ("trouble", [])
        assert result.trouble == "expected a profile, got none"

    asyncio.run(main())


def test_hunt_keeps_what_it_has_when_it_is_stopped() -> None:
    """Stopped while it shrinks: the shortest so far, as a suspicion and not as a finding."""

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
        (b"", "''"),
        (b"HTTP/1.0 404 Not Found\r\n\r\n", "404 Not Found"),
        (b"HTTP/1.0 200 OK\r\n\r\n<html>", "<html>"),
        (bytes(range(256)), "expected a goroutine profile, got"),
        (b"x" * 5000, "more than 0 MiB"),
    ],
)
def test_pprof_says_what_it_got(answer: bytes, got: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint may answer anything: an error that says what, and what to do."""
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
    """Neither for an endpoint that says nothing, nor for one that nobody listens at."""
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
    """Descriptors and memory of this process; none of one that is not there."""

    async def main() -> None:
        before = await Process(getpid()).read()
        with open("/dev/null", "rb"):  # noqa: ASYNC230, PTH123 - a descriptor
            now = await Process(getpid()).read()
        assert now.counts[DESCRIPTORS] == before.counts[DESCRIPTORS] + 1
        assert (now.memory or 0) > 1 << 20
        with pytest.raises(CounterError, match="expected process 0 "):
            await Process(0).read()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("false", "exited with status 1"),
        ("sh -c 'kill -9 $$'", "killed by SIGKILL"),
        ("/no/such/program", "cannot start '/no/such/program'"),
        ("sh -c 'echo it is broken; kill -9 $$'", "it is broken"),
    ],
)
def test_target_that_does_not_start_says_why(command: str, says: str) -> None:
    """The end of the process or its last lines, not a timeout."""

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
    """What listens there already would be hunted, and the new process counted."""

    async def main() -> None:
        async with serving(nothing) as (_, there):
            with pytest.raises(StartError, match="is taken already"):
                await RemoteServer(there.address, command="false").start()

    asyncio.run(main())


def test_destinations_do_what_they_are_named_for() -> None:
    """Each over real sockets; and all are gone when they leave."""

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
async def test_left_is_all_that_changed_also_what_became_less() -> None:
    """Not rounded, and not cut off at nothing; the next one begins from there."""
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
    """An echo, and one that takes datagrams and says nothing; both are seen to be used."""

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
    """Equal ones would be one stream to the server, across connections; plain UDP has none."""
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
    """Counts that are others for one look of seven, and then as before, have not changed."""

    class Blinks(Counted):
        looks = 0

        async def read(self) -> Snapshot:
            self.looks += 1
            self.held[("blink",)] = self.looks % 7 == 0
            return await super().read()

    async def main() -> None:
        async with serving(nothing) as (_, counted), Destinations() as destinations:
            target = Blinks(counted.address)
            driver = Driver(counted.address, USER, destinations, Spending(1e6))
            # A look is a moment, however long it takes here.
            meter = Meter(target, driver, destinations, lambda: 0.002 * target.looks)
            settled = await meter.settle(patience=0.05)
        assert settled.tasks == 0
        assert target.looks > 14

    asyncio.run(main())
