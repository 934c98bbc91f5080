"""Tests of the server under test: its counts, its output, its start and its end."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections import Counter
from contextlib import contextmanager, suppress
from select import select
from typing import TYPE_CHECKING, Any, cast

import pytest

from muxleak_scenarios.hunt import counters, remote_server
from muxleak_scenarios.hunt.counters import (
    DESCRIPTORS,
    GOROUTINES,
    THREADS,
    CounterError,
    Pprof,
    Process,
    Snapshot,
    Together,
)
from muxleak_scenarios.hunt.remote_server import LOG_LINES, RemoteServer
from muxleak_scenarios.hunt.stacks import StackParser

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from muxleak_scenarios.hunt.counters import Counts

HOST = "127.0.0.1"
SLEEPS = "sleep 60"
MAIN = ("main.run",)


class Fixed:
    """A counter with fixed counts."""

    def __init__(self, counts: dict[tuple[str, ...], int], memory: int | None = None) -> None:
        self._snapshot = Snapshot(Counter(counts), memory)

    async def read(self) -> Snapshot:
        """Take a sample."""
        return self._snapshot


@pytest.fixture
def process(tmp_path: Path) -> Process:
    """Return a process with 3 descriptors, 4 threads and 5 KiB."""
    (tmp_path / "7/fd").mkdir(parents=True)
    for number in range(3):
        (tmp_path / f"7/fd/{number}").touch()
    (tmp_path / "7/status").write_text("Name:\tserver\nVmRSS:\t       5 kB\nThreads:\t4\n")
    return Process(7, tmp_path)


@pytest.mark.parametrize(
    ("others", "counts", "memory"),
    [
        pytest.param([], {DESCRIPTORS: 3, THREADS: 4}, 5120, id="nothing else"),
        pytest.param([Fixed({MAIN: 2})], {DESCRIPTORS: 3, MAIN: 2}, 5120, id="stacks"),
        pytest.param([Fixed({GOROUTINES: 9}, 1)], {DESCRIPTORS: 3, GOROUTINES: 9}, 5120, id="both"),
        pytest.param(
            [Fixed({GOROUTINES: 9}), Fixed({MAIN: 2})], {DESCRIPTORS: 3, MAIN: 2}, 5120, id="all"
        ),
    ],
)
def test_threads_count_where_no_task_is_counted(
    process: Process, others: list[Counts], counts: dict[tuple[str, ...], int], memory: int
) -> None:
    """A number of goroutines counts without a profile only; memory is that of the process."""
    together = Together([*others, process])

    assert asyncio.run(together.read()) == Snapshot(Counter(counts), memory)


def test_descriptors_are_counted_before_the_rest() -> None:
    """The connection that carries the profile is no leaked descriptor."""
    asked: list[str] = []

    class First(Process):
        async def read(self) -> Snapshot:
            asked.append("process")
            return Snapshot(Counter())

    class Second(Fixed):
        async def read(self) -> Snapshot:
            asked.append("stacks")
            return await super().read()

    asyncio.run(Together([Second({}), First(1)]).read())
    assert asked == ["process", "stacks"]


@contextmanager
def endpoint(answer: bytes) -> Iterator[tuple[list[bytes], Callable[[str], Snapshot]]]:
    """Serve one answer over HTTP; yield the requests, and a function that samples a path."""
    asked: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + answer)
        await writer.drain()
        writer.close()

    async def sample(path: str) -> Snapshot:
        async with await asyncio.start_server(handle, HOST, 0) as server:
            port = server.sockets[0].getsockname()[1]
            return await Pprof(f"http://{HOST}:{port}{path}").read()

    yield asked, lambda path: asyncio.run(sample(path))


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("", "/debug/pprof/goroutine?debug=1"),
        ("/", "/debug/pprof/goroutine?debug=1"),
        ("?seconds=1", "/debug/pprof/goroutine?seconds=1&debug=1"),
        ("/debug/pprof/goroutine?debug=2", "/debug/pprof/goroutine?debug=2"),
        ("/debug/tasks", "/debug/tasks?debug=1"),
    ],
)
def test_profile_is_asked_for_as_text(given: str, asked: str) -> None:
    """The path is Go's own unless another is given; the query asks for text."""
    with endpoint(b"goroutine profile: total 0\n") as (requests, read):
        assert read(given).tasks == 0
    assert [each.split(b"\r\n")[0] for each in requests] == [f"GET {asked} HTTP/1.0".encode()]


def test_profile_may_be_long() -> None:
    """A profile that comes in many pieces is read to its end."""
    count = 5000
    blocks = "".join(f"1 @ 0x1\n#\t0x1\tmain.f{at}+0x1\tm.go:1\n\n" for at in range(count))
    with endpoint(f"goroutine profile: total {count}\n{blocks}".encode()) as (_, read):
        assert read("").tasks == count


class Answers:
    """Resets the first connections, then answers with a profile of one goroutine and some text."""

    def __init__(self, resets: int, more: bytes = b"") -> None:
        self.asked = 0
        self._serving: list[asyncio.Task[None]] = []
        self._resets = resets
        self._answer = b"HTTP/1.0 200 OK\r\n\r\ngoroutine profile: total 1\n" + more
        self._answer += b"1 @ 0x1\n#\t0x1\tmain.run+0x1\tm.go:1\n"

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one request."""
        self.asked += 1
        self._serving.append(cast("asyncio.Task[None]", asyncio.current_task()))
        await reader.readuntil(b"\r\n\r\n")
        if self.asked <= self._resets:
            # Half of an answer, and a reset: as much as a server may have sent by then.
            writer.write(self._answer[:40])
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        else:
            writer.write(self._answer)
            writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def sample(self) -> Snapshot:
        """Take a sample."""
        async with await asyncio.start_server(self, HOST, 0) as server:
            port = server.sockets[0].getsockname()[1]
            try:
                return await Pprof(f"http://{HOST}:{port}").read()
            finally:
                await asyncio.gather(*self._serving)


@pytest.mark.parametrize(("resets", "asked"), [(0, 1), (1, 2), (2, 3)])
def test_reset_while_counts_are_read_is_no_end(resets: int, asked: int) -> None:
    """The request is repeated, and half of an answer before a reset counts for nothing."""
    answers = Answers(resets)

    assert asyncio.run(answers.sample()).counts == {MAIN: 1}
    assert answers.asked == asked


def test_server_that_resets_again_and_again_cannot_be_counted() -> None:
    """The number of requests for one sample is bounded."""
    answers = Answers(9)

    with pytest.raises(CounterError, match=r"got: .*reset"):
        asyncio.run(answers.sample())
    assert answers.asked == 3


def test_large_profile_lets_other_work_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is parsed in pieces, with a turn of the loop after each."""
    turns = 0
    most = 0
    feed = StackParser.feed

    def spy(parser: StackParser, text: str) -> None:
        nonlocal most
        most = max(most, len(text))
        feed(parser, text)

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def main() -> Snapshot:
        working = asyncio.create_task(other())
        try:
            return await Answers(0, b"# a comment\n\n" * (80 << 10)).sample()
        finally:
            working.cancel()

    monkeypatch.setattr(StackParser, "feed", spy)
    assert asyncio.run(main()).counts == {MAIN: 1}
    assert most <= 64 << 10
    assert turns >= (1 << 20) / most


def test_profile_beyond_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says how to get a smaller one."""
    monkeypatch.setattr(counters, "MAX_BYTES", 1 << 20)

    with pytest.raises(CounterError, match="more than 1 MiB; ask with debug=1"):
        asyncio.run(Answers(0, b"x" * (1 << 20)).sample())


def test_profile_is_on_the_port_of_http_unless_another_is_named() -> None:
    """The default is port 80, as in any URL."""
    assert (Pprof(f"http://{HOST}")._port, Pprof("http://[::1]:6060")._port) == (80, 6060)


class Sleeper(RemoteServer):
    """A server of ours that counts as accepting while its process runs."""

    def __init__(self, command: str = SLEEPS) -> None:
        super().__init__((HOST, 1), command=command)
        self.countable = True

    async def died(self, tries: int = 1) -> str:
        """Return how it died."""
        del tries
        return "" if self._process is not None else "refuses connections"

    async def read(self) -> Snapshot:
        """Take a sample, if it can be counted."""
        if not self.countable:
            raise CounterError("no profile")
        return await super().read()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running process."""
        assert self._process is not None
        return self._process


class Speaker(Sleeper):
    """A server that prints and ends, perhaps before it is counted."""

    async def read(self) -> Snapshot:
        """Count nothing."""
        return Snapshot(Counter())


@pytest.fixture
def sleeper() -> Iterator[Sleeper]:
    """Yield a server that is stopped after the test."""
    target = Sleeper()
    yield target
    target.stop(kill=True)


@pytest.mark.asyncio
async def test_server_of_ours_is_counted_and_starts_again_as_another(sleeper: Sleeper) -> None:
    """It has a session of its own, out of reach of Ctrl-C, and the process before it has ended."""
    await sleeper.start()
    first = sleeper.process
    assert os.getsid(first.pid) == first.pid
    assert (await sleeper.read()).counts[THREADS] == 1

    await sleeper.restart()
    second = sleeper.process
    assert first.poll() is not None
    assert second.pid != first.pid
    assert (await sleeper.read()).counts[THREADS] == 1

    sleeper.stop()
    assert second.poll() is not None
    with pytest.raises(CounterError, match=f"expected process {second.pid} "):
        await sleeper.read()


@pytest.mark.asyncio
async def test_wait_for_a_server_that_cannot_be_counted_can_be_ended(
    sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check is called again and again while the server cannot be counted."""
    monkeypatch.setattr(remote_server, "_PAUSE", 0)
    sleeper.countable = False
    asked: list[int] = []

    def check() -> None:
        asked.append(1)
        if len(asked) == 3:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await sleeper.start(check)


@pytest.mark.asyncio
async def test_last_lines_are_kept_of_much_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last lines say why it ended; blank lines are dropped."""
    monkeypatch.setattr(remote_server, "_LOG_BYTES", 200)
    target = Speaker("sh -c 'seq 1000; echo; echo'")
    await target.start()
    target.process.wait(10)

    assert target.log() == tuple(map(str, range(1001 - LOG_LINES, 1001)))
    target.stop()
    assert target.log() == ()


@pytest.mark.asyncio
async def test_log_is_plain_text() -> None:
    """Control sequences for the terminal are removed."""
    target = Speaker(r"printf '\033[1;31mFATAL\033[0m no \033[38;5;7mmore\033[K\n'")
    await target.start()
    target.process.wait(10)

    assert target.log() == ("FATAL no more",)
    target.stop()


@pytest.mark.parametrize("kill", [False, True])
def test_stop_of_a_server_ends_the_processes_it_started(kill: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a parameter
    """A server behind a shell would otherwise keep the port."""
    os.mkfifo(tmp_path / "pid")
    target = Sleeper(f"sh -c 'sleep 60 & echo $! > {tmp_path / 'pid'}; wait'")
    asyncio.run(target.start())
    child = os.pidfd_open(int((tmp_path / "pid").read_text()))
    target.stop(kill=kill)

    assert select([child], [], [], 10)[0] == [child]
    os.close(child)


def test_stop_of_a_server_closes_the_channels_that_count_it() -> None:
    """A channel to V2Ray would otherwise stay open as long as the program."""
    closed: list[int] = []

    class Channel:
        def close(self) -> None:
            closed.append(1)

    target = RemoteServer((HOST, 1), pid=1)
    target._v2ray = cast("Any", [Channel(), Channel()])
    target.stop()

    assert closed == [1, 1]
