"""`check_server` on real loops, for servers that cannot be simulated."""

import asyncio
import os
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any, TypeAlias

import pytest

from leaky_servers import MESSAGES, SERVERS
from loops import REAL
from muxleak import LeakError, check_server
from muxleak.checks.settle import shows_callbacks
from muxleak.ledger.ledger import Ledger
from muxleak.server import check
from muxleak.server.real import RECORDED, HiddenTimers, RealServerTarget
from muxleak.sim import Replay

Reader: TypeAlias = asyncio.StreamReader
Writer: TypeAlias = asyncio.StreamWriter

needs_uvloop = pytest.mark.skipif(not find_spec("uvloop"), reason="uvloop is not installed")
TARGETS = ["tcp", pytest.param("uvloop", marks=needs_uvloop)]


async def in_threads(reader: Reader, writer: Writer) -> None:
    """Answer by a thread."""
    try:
        while line := await reader.readline():
            writer.write(await asyncio.to_thread(line.upper))
    finally:
        writer.close()


class Pipes:
    """Opens a pipe for each connection, and forgets it in one variant."""

    def __init__(self, *, fixed: bool) -> None:
        self.fixed = fixed
        self.forgotten: list[int] = []

    async def serve(self, reader: Reader, writer: Writer) -> None:
        """Read from a client until its end."""
        ends = os.pipe()
        try:
            await reader.read()
        finally:
            writer.close()
            if self.fixed:
                for each in ends:
                    os.close(each)
            else:
                self.forgotten += ends

    def close(self) -> None:
        """Close the pipes that were forgotten."""
        for each in self.forgotten:
            os.close(each)


class Request:
    """Stands in a cycle, and cancels its task when it is collected."""

    def __init__(self) -> None:
        self.task, self.cycle = asyncio.ensure_future(asyncio.Event().wait()), self

    def __del__(self) -> None:
        self.task.cancel()


@pytest.mark.slow
@pytest.mark.usefixtures("no_chance")
def test_request_that_becomes_garbage_within_the_grace_is_no_leak() -> None:
    """Garbage is collected at the end of the grace as well."""
    tasks = []

    async def serve(reader: Reader, writer: Writer) -> None:
        held = [Request()]
        tasks.append(held[0].task)
        asyncio.get_running_loop().call_later(0.2, held.clear)
        await reader.read()
        writer.close()

    check_server(serve, messages=MESSAGES, target="tcp", sequences=2, clients=1)
    assert tasks


def test_threads_pass_on_a_real_loop() -> None:
    """A server that the simulation refuses passes, with few sequences."""
    check_server(in_threads, messages=MESSAGES, target="tcp", sequences=2, clients=1)


class Resets(asyncio.Protocol):
    """Resets a connection at its first bytes."""

    def connection_made(self, transport: Any) -> None:
        """Note the transport, and let its end be a reset."""
        self.transport = transport
        linger = struct.pack("ii", 1, 0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    def data_received(self, data: bytes) -> None:
        """Reset."""
        del data
        self.transport.abort()


def test_half_close_of_a_connection_that_was_reset_does_nothing() -> None:
    """A client that does not read has not noticed the reset when it closes its sending side."""
    events = ["send", "half-close", "stall"]
    check_server(Resets, messages=MESSAGES, events=events, target="tcp", sequences=5, clients=1)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_threads_pass_on_every_real_loop(target: str) -> None:
    """The same with more sequences."""
    check_server(in_threads, messages=MESSAGES, target=target)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["half-close", "two in order", "shutdown"])
def test_leaks_are_found_on_real_loops(name: str, target: str) -> None:
    """The same events over loopback find the same leaks."""
    with pytest.raises(LeakError, match="again: check_server") as caught:
        check_server(SERVERS[name][0], messages=MESSAGES, target=target)

    assert any(" connects" in note for note in caught.value.__notes__)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["half-close", "two in order", "shutdown"])
def test_fixed_twins_pass_on_real_loops(name: str, target: str) -> None:
    """The fixed servers pass there as well."""
    check_server(SERVERS[name][1], messages=MESSAGES, target=target)


def one_event(server: Any, **options: Any) -> None:
    """Check a server with one client that does nothing but connect."""
    options = {"target": "tcp", "events": ["connect"], "clients": 1, **options}
    check_server(server, sequences=1, grace=0.02, **options)


@pytest.mark.slow
def test_descriptors_count_on_a_real_loop() -> None:
    """A descriptor that no transport owns is found at the end."""
    pipes: list[Pipes] = []

    async def start(*, fixed: bool) -> asyncio.Server:
        pipes.append(Pipes(fixed=fixed))
        return await asyncio.start_server(pipes[-1].serve, "127.0.0.1", 0)

    one_event(lambda: start(fixed=True))
    try:
        with pytest.raises(LeakError, match="open descriptor: pipe"):
            one_event(lambda: start(fixed=False))
    finally:
        for each in pipes:
            each.close()


def test_a_replay_on_a_real_loop() -> None:
    """A line of a report runs there, too."""
    with pytest.raises(LeakError) as caught:
        one_event(
            SERVERS["two in order"][0],
            events=["connect", "close"],
            clients=2,
            replay=Replay(bytes([1, 0, 0, 0, 2, 1])).line,  # a connects, b connects and closes
        )

    assert "tell" in str(caught.value)


async def serve_with_heartbeat(reader: Reader, writer: Writer) -> None:
    """Beat as long as the client is there."""
    heart = asyncio.create_task(beat())
    try:
        await reader.read()
    finally:
        heart.cancel()
        writer.close()


async def beat() -> None:
    """Do something every few milliseconds."""
    while True:  # noqa: ASYNC110 - a heartbeat waits for nothing
        await asyncio.sleep(0.005)


@asynccontextmanager
async def with_heartbeat(*, leaks: bool) -> AsyncIterator[asyncio.Server]:
    """Run a server with a heartbeat of its own, which ends with it or not."""
    heart = asyncio.create_task(beat())
    async with await asyncio.start_server(serve_with_heartbeat, "127.0.0.1", 0) as server:
        yield server
    if not leaks:
        heart.cancel()


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_heartbeats_are_no_leak(target: str) -> None:
    """Neither the server's own nor those of connections keep a sequence from its verdict."""
    options: dict[str, Any] = {"messages": MESSAGES, "target": target, "sequences": 3, "grace": 0.2}
    check_server(partial(with_heartbeat, leaks=False), **options)
    with pytest.raises(LeakError, match="beat"):
        check_server(partial(with_heartbeat, leaks=True), **options)


@REAL
def test_time_is_skipped_only_where_nothing_but_timers_can_come(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """A thread that works, and a descriptor of somebody else, need real time."""
    subject = check.server_subject(in_threads, messages=MESSAGES, target="tcp")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        timers = None if shows_callbacks(loop) else HiddenTimers(loop)
        with Ledger(RECORDED).watching(loop) as ledger:
            count = threading.active_count()
            target = RealServerTarget(loop, ledger, subject.settings, [], timers, count)
            server = await asyncio.start_server(in_threads, "127.0.0.1", 0)
            client = await target.connect(server.sockets[0].getsockname(), "client a")
            await target.settle()
            assert client is not None
            assert target._only_timers_come()
            over = threading.Event()
            thread = threading.Thread(target=over.wait, args=(10,))
            thread.start()
            assert not target._only_timers_come()
            over.set()
            thread.join()
            assert target._only_timers_come()
            own, other = socket.socketpair()
            loop.add_reader(own, lambda: None)
            assert not target._only_timers_come()
            loop.remove_reader(own)
            own.close()
            other.close()
            client.transport.close()
            server.close()
            await target.settle()

    run_on(new_loop, main())


def run_on(new_loop: Callable[[], asyncio.AbstractEventLoop], main: Any) -> None:
    """Run a coroutine on a loop."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main)


@REAL
def test_timers_of_a_loop_that_hides_them_are_known(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """The next one, unless it was cancelled or has fired."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        timers = HiddenTimers(loop)
        assert timers.wait() == float("inf")
        late = loop.call_later(60, print)
        soon = loop.call_later(30, print)
        assert 0 < timers.wait() <= 30
        soon.cancel()
        assert 30 < timers.wait() <= 60
        late.cancel()
        await asyncio.sleep(0.001)
        assert timers.wait() == float("inf")

    run_on(new_loop, main())
