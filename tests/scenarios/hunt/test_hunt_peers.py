"""Tests of the clients of a hunt: the bytes of each step, and the traffic that they count."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, cast
from uuid import UUID

import pytest

from muxleak_scenarios.hunt.batch import Driver, Spending
from muxleak_scenarios.hunt.destinations import Destinations
from muxleak_scenarios.hunt.peers import HuntPeer, encode
from muxleak_scenarios.sequence.steps import DRIPS, Sequence, Step
from muxleak_vless import Address
from muxleak_vless.frames import ERROR, FrameDecoder, FrameStatus
from muxleak_vless.header import Command, Request, encode_request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from muxleak.sim.virtual_loop import VirtualLoop
    from muxleak_vless.frames import Frame

HOST = "127.0.0.1"
USER = UUID(int=1)
HEADER = encode_request(Request(USER, Command.MUX, None))
ECHO = Address.of(HOST, 7)


class Connection:
    """A client, the server's end of its connection, and the number of events at the client."""

    def __init__(self, peer: HuntPeer, sock: socket.socket) -> None:
        self.peer = peer
        self.socket = sock
        self.heard = 0

    def perform(self, line: str) -> int:
        """Perform steps; return the number of bytes that they send."""
        return sum(self.peer.perform(step, lambda *_: ECHO) for step in Sequence.parse(line))

    def receive(self, size: int = 1) -> bytes:
        """Return the bytes that reach the server, at most so many."""
        data = b""
        while len(data) < size and (more := self.socket.recv(size - len(data))):
            data += more
        return data


@asynccontextmanager
async def connected() -> AsyncIterator[Connection]:
    """Connect a client to a plain socket, which waits for the bytes that a test expects."""

    def heard() -> None:
        connection.heard += 1

    with socket.create_server((HOST, 0)) as listener:
        _, peer = await asyncio.get_running_loop().create_connection(
            lambda: HuntPeer(USER, heard), *listener.getsockname()
        )
        accepted, _ = listener.accept()
    with accepted:
        accepted.settimeout(10)
        connection = Connection(peer, accepted)
        try:
            yield connection
        finally:
            peer.close(reset=True)
            await asyncio.sleep(0)


async def until(true: Callable[[], bool]) -> None:
    """Run the loop until a condition holds."""
    for _ in range(100_000):
        if true():
            return
        await asyncio.sleep(0)
    raise AssertionError("expected it in so many iterations")


def frame(line: str) -> Frame:
    """Return the frame of a step."""
    (step,) = Sequence.parse(line)
    decoder = FrameDecoder()
    decoder.receive_data(encode(step, lambda *_: ECHO))
    found = decoder.next_frame()
    assert found is not None
    return found


@pytest.mark.asyncio
async def test_header_comes_whole_or_in_pieces() -> None:
    """Each byte of the header is sent once, whichever steps send it."""
    async with connected() as connection:
        assert connection.perform("a:connect a:header+3 a:header+4") == 7
        assert connection.perform("a:header") == len(HEADER) - 7
        assert connection.receive(len(HEADER)) == HEADER


@pytest.mark.asyncio
async def test_drip_sends_the_first_bytes_one_by_one() -> None:
    """Dripped bytes leave one by one, and all of them arrive."""
    async with connected() as connection:
        writes: list[int] = []
        transport = connection.peer._transport
        assert transport is not None
        write = transport.write

        def noted(data: bytes | bytearray | memoryview) -> None:
            writes.append(len(data))
            write(data)

        transport.write = noted  # type: ignore[method-assign]
        data = encode(Step("data", "a", 1, size=99), lambda *_: ECHO)
        assert connection.perform("a:drip a:open a:data:1+99") == len(HEADER) + len(data)
        assert connection.receive(len(HEADER + data)) == HEADER + data
    singles = [1] * len(HEADER), [1] * DRIPS
    assert [each for each in writes if each] == [*singles[0], *singles[1], len(data) - DRIPS]


@pytest.mark.asyncio
async def test_peer_keeps_its_direction_when_the_server_closes_the_other() -> None:
    """A hunt needs the answer of the server to bytes that come after its end."""
    async with connected() as connection:
        connection.socket.shutdown(socket.SHUT_WR)
        await until(lambda: connection.heard == 1)
        assert connection.perform("a:open") == len(HEADER)
        assert connection.receive(len(HEADER)) == HEADER
        connection.perform("a:half")
        assert connection.receive() == b""
        assert connection.perform("a:data:1+5") == 0


@pytest.mark.asyncio
async def test_close_ends_in_good_order_and_abort_does_not() -> None:
    """A close sends FIN after all data, and an abort sends RST."""
    async with connected() as connection:
        connection.perform("a:open a:close")
        await asyncio.sleep(0)
        assert connection.receive(len(HEADER) + 1) == HEADER
    async with connected() as connection:
        connection.perform("a:abort")
        await asyncio.sleep(0)
        with pytest.raises(ConnectionResetError):
            connection.receive()


@pytest.mark.asyncio
async def test_close_does_not_wait_for_a_server_that_reads_nothing() -> None:
    """Otherwise connections would pile up in the hunt and at the server."""
    async with connected() as connection:
        transport = connection.peer._transport
        assert transport is not None
        while not transport.get_write_buffer_size():
            connection.perform("a:data:1+65535")
        connection.peer.close()
        await asyncio.sleep(0)
        assert connection.heard == 1
        assert transport.get_write_buffer_size() == 0


def test_frames_end_streams_with_and_without_an_error() -> None:
    """A packet for another address than its stream's has that address."""
    end, reset = frame("a:end:5"), frame("a:reset:5+9")
    assert (end.status, end.option & ERROR, end.data) == (FrameStatus.END, 0, None)
    assert (reset.status, reset.option & ERROR, reset.data) == (FrameStatus.END, ERROR, bytes(9))

    data, packet = frame("a:data:5+9"), frame("a:packet:5+9")
    assert (data.status, data.target) == (FrameStatus.KEEP, None)
    assert (packet.status, packet.target) == (FrameStatus.KEEP, Address.of(HOST, 9))


@pytest.mark.asyncio
async def test_traffic_counts_every_event_at_a_destination() -> None:
    """A connection, data and an end in either direction show that the server is not quiescent."""
    async with Destinations() as hosted:
        address = hosted.address("@echo")
        reader, writer = await asyncio.open_connection(address.host, address.port)
        await until(lambda: hosted.traffic == 1)
        writer.write(b"x")
        assert await reader.read(1) == b"x"
        assert hosted.traffic == 2
        writer.write_eof()
        assert await reader.read() == b""
        await until(lambda: hosted.traffic == 4)
        writer.close()


@pytest.mark.asyncio
async def test_traffic_counts_events_at_clients_and_destinations() -> None:
    """Traffic at clients and at destinations shows that the server is not quiescent."""
    with socket.create_server((HOST, 0)) as listener:
        async with Destinations() as hosted:
            driver = Driver(listener.getsockname(), USER, hosted, Spending(1e9))
            address = hosted.address("@silent")

            async def rest() -> None:
                accepted, _ = listener.accept()
                with accepted:
                    assert driver.traffic == 0
                    accepted.send(b"x")
                    await until(lambda: driver.traffic == 1)
                    with socket.create_connection((address.host, address.port)):
                        await until(lambda: driver.traffic == 2)

            await driver.run(Sequence.parse("a:open"), 1, rest)


@pytest.mark.asyncio
async def test_deaf_destination_takes_little() -> None:
    """The server under test is blocked after a few frames and not after megabytes."""
    taken = 0
    async with Destinations() as hosted:
        address = hosted.address("@deaf")
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            sock.connect((address.host, address.port))
            sock.setblocking(False)  # noqa: FBT003 - the standard library's own signature
            with suppress(BlockingIOError):
                while taken < 1 << 20:
                    taken += sock.send(bytes(4096))
        hosted.leave()
        await asyncio.sleep(0)
    assert taken < 1 << 16


def test_bandwidth_is_waited_for_as_long_as_it_takes(loop: VirtualLoop) -> None:
    """The stop of a hunt is checked during the wait."""
    asked: list[float] = []
    spending = Spending(100, lambda: asked.append(loop.time()), loop.time)
    driver = Driver((HOST, 1), USER, cast("Destinations", None), spending)
    loop.run_until_complete(driver._spend(100))

    assert 0.9 <= loop.time() <= 1.0
    assert len(asked) > 5
