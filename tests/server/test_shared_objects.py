"""`check_server` and objects that outlive a connection: services, pools and caches, or leaks."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeAlias

import pytest

from leaky_servers import tick
from muxleak import LeakError, check_server
from muxleak.server.check import server_subject
from muxleak.server.events import ClientEvent
from muxleak.sim import Choices

Reader: TypeAlias = asyncio.StreamReader
Writer: TypeAlias = asyncio.StreamWriter

PLAIN = ["connect", "send", "close"]


async def answer(reader: Reader, writer: Writer) -> None:
    """Send each line back, after some time."""
    with suppress(ConnectionError):
        while line := await reader.readline():
            await asyncio.sleep(0.01)
            writer.write(line)
    writer.close()


class Shared:
    """A server whose connections share something that `end` ends."""

    async def line(self, line: bytes, writer: Writer) -> None:
        """Handle a line of a client."""

    async def over(self, name: bytes) -> None:
        """Handle the end of a connection, whose first line is its name."""

    def end(self) -> None:
        """End everything that is shared."""

    async def serve(self, reader: Reader, writer: Writer) -> None:
        """Serve a connection."""
        name = b""
        try:
            while line := await reader.readline():
                name = name or line
                await self.line(line, writer)
        finally:
            await self.over(name)
            writer.close()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Server]:
        """Run the server."""
        async with await asyncio.start_server(self.serve, "127.0.0.1", 8000) as server:
            yield server
        self.end()


class Pool(Shared):
    """Keeps up to three connections to another server."""

    def __init__(self) -> None:
        self.idle: list[tuple[Reader, Writer]] = []
        self.all: list[tuple[Reader, Writer]] = []
        self.free = asyncio.Semaphore(3)

    async def line(self, line: bytes, writer: Writer) -> None:
        """Ask the other server."""
        async with self.free:
            if not self.idle:
                self.idle.append(await asyncio.open_connection("127.0.0.1", 9000))
                self.all += self.idle
            reader, backend = self.idle.pop()
            backend.write(line)
            writer.write(await reader.readline())
            self.idle.append((reader, backend))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Server]:
        """Run both servers."""
        async with await asyncio.start_server(answer, "127.0.0.1", 9000), super().running() as it:
            yield it

    def end(self) -> None:
        """Close the pool."""
        for _, writer in self.all:
            writer.close()


class Workers(Shared):
    """Starts a worker for each line, up to a number of them."""

    most = 3

    def __init__(self) -> None:
        self.workers: list[asyncio.Task[None]] = []

    async def line(self, line: bytes, writer: Writer) -> None:
        """Start a worker."""
        if len(self.workers) < self.most:
            self.workers.append(asyncio.create_task(tick()))
        writer.write(line)

    def end(self) -> None:
        """End the workers."""
        for each in self.workers:
            each.cancel()


class Broadcaster(Shared):
    """Sends each line to all, from a task whose loop variable goes on to name the last writer."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes] = asyncio.Queue()
        self.writers: list[Writer] = []
        self.task: asyncio.Task[None] | None = None

    async def send(self) -> None:
        """Send to all."""
        while True:
            line = await self.queue.get()
            for writer in self.writers:
                writer.write(line)

    async def line(self, line: bytes, writer: Writer) -> None:
        """Send a line to all; the first line of all starts the task."""
        self.writers = [writer]
        self.task = self.task or asyncio.create_task(self.send())
        self.queue.put_nowait(line)

    def end(self) -> None:
        """End the task."""
        if self.task is not None:
            self.task.cancel()


class Sessions(Shared):
    """Keeps the session of a name for a minute after its connection; a new one resumes it."""

    def __init__(self) -> None:
        self.expiry: dict[bytes, Any] = {}

    def begin(self, name: bytes) -> Any:
        """Begin the minute."""
        return asyncio.create_task(self.expire(name))

    async def expire(self, name: bytes) -> None:
        """End a session after its minute."""
        await asyncio.sleep(60)
        del self.expiry[name]

    async def over(self, name: bytes) -> None:
        """Begin the minute anew."""
        if name in self.expiry:
            self.expiry.pop(name).cancel()
        self.expiry[name] = self.begin(name)

    def end(self) -> None:
        """End all sessions."""
        for each in self.expiry.values():
            each.cancel()


class Cache(Sessions):
    """Keeps an entry for each name, with a timer that is set anew by each connection."""

    def begin(self, name: bytes) -> asyncio.TimerHandle:
        """Set the timer."""
        return asyncio.get_running_loop().call_later(60, self.expiry.pop, name, None)


@pytest.mark.parametrize("server", [Pool, Workers, Broadcaster, Sessions, Cache])
def test_what_connections_share_is_no_leak(server: type[Shared]) -> None:
    """Its number does not rise with every repetition."""
    check_server(
        lambda: server().running(), messages=[b"ann\n", b"bob\n"], events=PLAIN, sequences=40
    )


class Room(Broadcaster):
    """Runs its task while it has members."""

    def __init__(self) -> None:
        super().__init__()
        self.members = 0

    async def serve(self, reader: Reader, writer: Writer) -> None:
        """Serve a member."""
        self.members += 1
        try:
            await super().serve(reader, writer)
        finally:
            self.members -= 1
            if not self.members:
                self.end()
                self.task = None


def test_a_task_that_ends_with_the_last_member_is_no_leak() -> None:
    """It has a variable that names a writer, but was not given it."""

    async def start() -> asyncio.Server:
        return await asyncio.start_server(Room().serve, "127.0.0.1", 8000)

    check_server(start, messages=[b"hello\n"], events=PLAIN, sequences=200)


class Endless(Workers):
    """Starts a worker for each line, without end."""

    most = 1_000_000


def failure(server: Any, **options: Any) -> str:
    """Check a server that leaks, and return the text of the error."""
    with pytest.raises(LeakError) as caught:
        check_server(server, events=PLAIN, messages=[b"hello\n"], **options)
    return "\n".join([str(caught.value), *caught.value.__notes__])


def test_a_number_that_rises_with_every_repetition_is_a_leak() -> None:
    """The report has the objects of the first time, and both numbers."""
    text = failure(lambda: Endless().running())

    assert "  1 x tick\n" in text
    assert "    1 alive, and 5 after 4 repetitions\n    of client a\n" in text
    assert "  a closes, at the end\n  the same events 4 times more, by other clients\n" in text


class Slow(Workers):
    """Starts up to three workers, and takes many iterations of the loop for each line."""

    async def line(self, line: bytes, writer: Writer) -> None:
        """Start a worker, and go on for long."""
        await super().line(line, writer)
        for _ in range(8_000):
            await asyncio.sleep(0)


def test_repetitions_that_take_too_long_are_no_livelock() -> None:
    """They are given up: the events themselves have settled."""
    subject = server_subject(lambda: Slow().running(), messages=[b"hello\n"], events=PLAIN)
    send = subject.settings.plan.encode(ClientEvent("send", 0, 0, 0, gap=0))

    assert not subject.run(Choices(send)).failed


class OneMore(Workers):
    """Starts one worker for all, and one for each message "more"."""

    most = 1

    async def line(self, line: bytes, writer: Writer) -> None:
        """Start a worker, at the same line of the program in both cases."""
        if line == b"more\n":
            self.most += 1
        await super().line(line, writer)


def test_a_leak_is_told_from_a_service_that_is_made_at_the_same_place() -> None:
    """The service is known when the leak begins."""
    subject = server_subject(
        lambda: OneMore().running(), messages=[b"hello\n", b"more\n"], events=PLAIN
    )
    plan = subject.settings.plan
    events = [("send", 0), ("close", 0), ("send", 1)]
    drawn = b"".join(plan.encode(ClientEvent(what, 0, at, 0, gap=0)) for what, at in events)

    assert "2 alive, and 6 after 4 repetitions" in str(subject.run(Choices(drawn)).error)


class Leader(Shared):
    """A server whose only leader leaves a task if somebody else is there."""

    def __init__(self) -> None:
        self.clients: list[Writer] = []

    async def serve(self, reader: Reader, writer: Writer) -> None:
        """Serve a connection."""
        self.clients.append(writer)
        task = asyncio.create_task(tick()) if len(self.clients) == 1 else None
        try:
            await reader.read()
            if task is not None and len(self.clients) == 1:
                task.cancel()
        finally:
            self.clients.remove(writer)
            writer.close()


def test_a_leak_that_present_clients_keep_from_repeating_is_found() -> None:
    """Suspects are repeated once more, after all have left."""
    text = failure(Leader().serve)

    assert "  b connects\n  a closes" in text
    assert "  the same events 4 times more, by other clients\n" in text


async def given(_writer: Writer) -> None:
    """Wait for ever."""
    await asyncio.Event().wait()


@pytest.mark.parametrize("way", ["argument", "closure"])
def test_a_task_that_was_given_the_connection_is_a_leak_at_once(way: str) -> None:
    """It needs no repetition, since it works for that connection."""

    async def serve(reader: Reader, writer: Writer) -> None:
        async def enclosed() -> None:
            await asyncio.Event().wait()
            writer.write(b"")

        serve.task = asyncio.create_task(  # type: ignore[attr-defined]
            given(writer) if way == "argument" else enclosed()
        )
        await reader.read()
        writer.close()

    text = failure(serve)

    assert "  1 x " in text
    assert "repetition" not in text


class FirstStarts:
    """A server whose first connection starts a service that nothing ends."""

    task: asyncio.Task[None] | None = None

    async def serve(self, reader: Reader, writer: Writer) -> None:
        """Serve a connection."""
        self.task = self.task or asyncio.create_task(tick())
        with suppress(ConnectionError):
            await reader.read()
        writer.close()


async def start() -> asyncio.Server:
    """Start it."""
    return await asyncio.start_server(FirstStarts().serve, "127.0.0.1", 8000)


@pytest.mark.parametrize("server", [FirstStarts().serve, start])
def test_a_service_may_stay_where_nothing_could_end_it(server: Any) -> None:
    """A starter is judged as the handler that it starts, with a shutdown as well."""
    check_server(server, sequences=100)


async def start_with_a_service() -> asyncio.Server:
    """Start a server, and a service beside it."""
    start_with_a_service.task = asyncio.create_task(tick())  # type: ignore[attr-defined]
    return await start()


@asynccontextmanager
async def running_with_a_service() -> AsyncIterator[asyncio.Server]:
    """Run a server, and forget the service."""
    yield await start_with_a_service()


@pytest.mark.parametrize(
    ("server", "way_out"),
    [
        (start_with_a_service, "give a function with @asynccontextmanager"),
        (running_with_a_service, "end it after the yield"),
    ],
)
def test_the_report_of_a_service_names_the_way_out(server: Any, way_out: str) -> None:
    """It says what must end the service, or that it can be ignored."""
    text = failure(server, sequences=1)

    assert "note: alive after the server has stopped\n" in text
    assert way_out in text
    assert "ignore=" in text
