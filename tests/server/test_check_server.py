"""`check_server`: leaks are found and shrunk, and servers without leaks are not accused."""

import asyncio
import gc
import logging
import re
import sys
import time
import unittest
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import Any, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leaky_servers import MESSAGES, NEEDS, SERVERS, tick
from muxleak import LeakError, check_server, ignore_name
from muxleak.server import EVENTS, ClientStreams
from muxleak.server.check import search_server, server_subject
from muxleak.server.events import ClientEvent
from muxleak.sim import Choices, LivelockError, Network, Replay, ReplayError, SimulationError

needs_uvloop = pytest.mark.skipif(not find_spec("uvloop"), reason="uvloop is not installed")
TARGETS = ["tcp", pytest.param("uvloop", marks=needs_uvloop)]
Reader: TypeAlias = asyncio.StreamReader
Writer: TypeAlias = asyncio.StreamWriter


def text_of(error: BaseException) -> str:
    """Return an error's message and notes, as a test runner prints them."""
    return "\n".join([str(error), *getattr(error, "__notes__", ())])


def failure(server: Any, **options: Any) -> str:
    """Check a server that leaks, and return the text of the error."""
    with pytest.raises(LeakError) as caught:
        check_server(server, **options)
    return text_of(caught.value)


@pytest.mark.parametrize("name", SERVERS)
def test_each_leak_is_found(name: str) -> None:
    """A leak of each kind is found with no hint, and the text names the task and the steps."""
    text = failure(SERVERS[name][0], messages=MESSAGES)

    assert "tick" in text or "tell" in text
    assert "  a connects" in text
    assert 'again: check_server(..., replay="sim1:' in text


@pytest.mark.parametrize("name", SERVERS)
def test_fixed_twins_are_clean(name: str) -> None:
    """The fixed servers pass."""
    check_server(SERVERS[name][1], messages=MESSAGES, sequences=60)


@pytest.mark.slow
@pytest.mark.parametrize("name", SERVERS)
def test_fixed_twins_are_clean_over_ten_thousand_sequences(name: str) -> None:
    """The fixed servers pass a long check."""
    check_server(SERVERS[name][1], messages=MESSAGES, sequences=10_000, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", SERVERS)
def test_each_leak_is_found_with_ten_seeds(name: str) -> None:
    """Ten searches of ten find it, half of them within 1,000 sequences."""
    numbers = []
    for seed in range(10):
        found = search_server(
            server_subject(SERVERS[name][0], messages=MESSAGES), sequences=10_000, seed=seed
        )
        assert found is not None
        numbers.append(found.examples)

    assert sorted(numbers)[5] <= 1_000


@pytest.mark.parametrize("name", NEEDS)
def test_the_leak_needs_its_event(name: str) -> None:
    """Without the events that a leak needs, the same server passes."""
    events = set(EVENTS) - NEEDS[name]

    check_server(SERVERS[name][0], messages=MESSAGES, events=events, sequences=100)


@pytest.mark.parametrize("name", SERVERS)
def test_a_replay_fails_again_and_passes_with_the_fix(name: str) -> None:
    """The line of the report repeats the sequence, with the same text."""
    buggy, fixed = SERVERS[name]
    first = failure(buggy, messages=MESSAGES)
    line = first.rpartition('replay="')[2].removesuffix('")')

    again = failure(buggy, messages=MESSAGES, replay=line)
    check_server(fixed, messages=MESSAGES, replay=line)

    assert again.startswith(first.partition("\nfound")[0])


class Services:
    """A server with a service for all of its connections, in four variants."""

    def __init__(self, variant: str) -> None:
        self.variant = variant
        self.service: asyncio.Task[None] | None = None
        self.closing = False

    def serve_all(self) -> None:
        """Start the service, if it is not there; one variant starts it each time."""
        if self.closing:
            return
        if self.service is None or self.variant == "for each":
            self.service = asyncio.create_task(tick())

    async def serve(self, reader: Reader, writer: Writer) -> None:
        """Serve a connection."""
        self.serve_all()
        try:
            await reader.read()
        finally:
            writer.close()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Run the server; one variant forgets to end the service."""
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        if self.variant == "at the start":
            self.serve_all()
        yield "{}:{}".format(*server.sockets[0].getsockname())
        server.close()
        self.closing = True
        if self.service is not None and self.variant != "forgotten":
            self.service.cancel()


@pytest.mark.parametrize("variant", ["at the start", "by the first"])
def test_services_for_all_are_no_leak(variant: str) -> None:
    """A task that the server, or its first connection, starts for all may live until shutdown."""
    check_server(lambda: Services(variant).running(), messages=MESSAGES, sequences=60)


def test_a_service_for_all_may_stay_with_a_bare_handler() -> None:
    """A handler has no end of its own at which a service could end."""
    check_server(Services("by the first").serve, messages=MESSAGES, sequences=60)


@asynccontextmanager
async def ticking_running() -> AsyncIterator[asyncio.Server]:
    """Run a server that does something every millisecond."""

    async def often() -> None:
        while True:  # noqa: ASYNC110 - it is what the server does
            await asyncio.sleep(0.001)

    ticker = asyncio.create_task(often())
    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        yield server
    ticker.cancel()


def test_a_server_that_ticks_is_no_livelock() -> None:
    """A minute in which nothing settles is given up, and is no finding."""
    check_server(ticking_running, messages=MESSAGES, events=["connect", "idle"], sequences=3)


async def spins(_reader: Reader, writer: Writer) -> None:
    """Wait for the end of a connection without any pause."""
    while not writer.is_closing():  # noqa: ASYNC110 - the bug
        await asyncio.sleep(0)


def test_a_server_that_spins_is_a_livelock() -> None:
    """Time stands still, so it is reported."""
    with pytest.raises(LivelockError, match="spins"):
        check_server(spins, events=["connect"], clients=1)


class WhileClientsStay:
    """A server whose service runs as long as there are clients; the first of them starts it."""

    def __init__(self) -> None:
        self.clients = 0
        self.service: asyncio.Task[None] | None = None

    async def serve(self, reader: Reader, writer: Writer) -> None:
        """Serve a connection."""
        self.clients += 1
        if self.service is None:
            self.service = asyncio.create_task(tick())
        try:
            await reader.read()
        finally:
            writer.close()
            self.clients -= 1
            if not self.clients:
                self.service.cancel()
                self.service = None


def test_a_service_that_ends_with_the_last_client_is_no_leak() -> None:
    """It outlives the connection that has started it, but there is never more than one."""
    check_server(WhileClientsStay().serve, messages=MESSAGES, sequences=60)


class WaitsForOthers:
    """A server in which a connection leaves a task that ends when an older client leaves."""

    def __init__(self) -> None:
        self.clients: list[asyncio.Event] = []

    async def serve(self, reader: Reader, writer: Writer) -> None:
        """Serve a connection."""
        if self.clients:
            self.last = asyncio.create_task(self.clients[0].wait())
        left = asyncio.Event()
        self.clients.append(left)
        try:
            await reader.read()
        finally:
            writer.close()
            self.clients.remove(left)
            left.set()


def test_a_leak_that_ends_with_another_client_grows_while_that_stays() -> None:
    """Nothing in its frames leads to its connection, and there is one at a time, but it grows."""
    text = failure(WaitsForOthers().serve, messages=MESSAGES)

    assert "1 x Event.wait" in text
    assert "b connects and closes\n  the same events 4 times more, by other clients" in text


def test_a_service_for_each_connection_is_a_leak() -> None:
    """A task that grows with the connections is accused, though none of them is in its frames."""
    text = failure(lambda: Services("for each").running(), messages=MESSAGES)

    assert "1 x tick" in text
    assert "the same events 4 times more" in text


def test_a_service_that_outlives_its_server_is_a_leak() -> None:
    """Everything that a context manager has started ends with it."""
    text = failure(lambda: Services("forgotten").running(), messages=MESSAGES)

    assert "1 x tick" in text
    assert "alive after the server has stopped" in text


def test_a_starter_must_end_what_it_starts() -> None:
    """A task that the starter itself has made is alive when the server is closed."""

    async def start() -> asyncio.Server:
        start.tick = asyncio.create_task(tick())  # type: ignore[attr-defined]
        return await asyncio.start_server(Services("none").serve, "127.0.0.1", 0)

    assert "1 x tick" in failure(start)


class Program:
    """A program whose `main` never returns, in several variants."""

    def __init__(self, variant: str) -> None:
        self.variant = variant

    async def main(self) -> None:
        """Serve for ever."""
        self.service = asyncio.create_task(tick())
        await asyncio.sleep(0.01)
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        if self.variant == "waits":
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            return
        async with server:
            await server.serve_forever()

    async def serve(self, reader: Reader, writer: Writer) -> None:
        """Serve a connection; one variant leaves a task of each."""
        ticker = asyncio.create_task(tick())
        try:
            await reader.read()
        finally:
            if self.variant != "leaks":
                ticker.cancel()
            writer.close()


@pytest.mark.parametrize("variant", ["serves", "waits"])
def test_a_main_that_never_returns_is_a_server(variant: str) -> None:
    """It is cancelled to end it, and its own tasks end with it, as `asyncio.run` sees to."""
    check_server(Program(variant).main, messages=MESSAGES, sequences=60)


@pytest.mark.parametrize(
    "target",
    [
        "simulated",
        pytest.param("tcp", marks=pytest.mark.slow),
        pytest.param("uvloop", marks=[needs_uvloop, pytest.mark.slow]),
    ],
)
def test_a_leak_of_a_main_that_never_returns_is_found(target: str) -> None:
    """Its connections are checked as those of other servers."""
    text = failure(Program("leaks").main, target=target, events=["connect", "close"], grace=0.1)

    assert "tick" in text
    assert "in Program.serve" in text


def test_a_starter_may_take_its_time() -> None:
    """It is used before it has returned, and closed as a starter once it has."""
    started = []

    async def start() -> asyncio.Server:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        await asyncio.sleep(5)
        started.append(server)
        return server

    check_server(start, sequences=60)
    assert started


def test_a_main_without_a_server_is_none() -> None:
    """It is not waited for without end."""

    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(TypeError, match="neither returned nor made a server"):
        check_server(main)


class ServiceAndLeak(Services):
    """A server with a service for all, in which each connection leaves a task as well."""

    async def serve(self, reader: Reader, writer: Writer) -> None:
        """Serve a connection."""
        await super().serve(reader, writer)
        self.left = asyncio.create_task(asyncio.Event().wait())


def test_a_service_is_not_reported_beside_a_leak() -> None:
    """The report of a leak has nothing of a service that was alive before."""
    subject = server_subject(ServiceAndLeak("by the first").serve, messages=MESSAGES)
    closes = subject.settings.plan.encode(ClientEvent("close", 0, 0, 0, gap=0))

    outcome = subject.run(Choices(closes, b""))

    assert outcome.verdict.startswith("1 task leaked")


async def numbers() -> AsyncIterator[int]:
    """Yield numbers."""
    for number in range(3):
        yield number


async def drops_a_generator(reader: Reader, writer: Writer) -> None:
    """Leave a generator in a reference cycle, which only the collector finds."""
    kept: list[Any] = [numbers()]
    kept.append(kept)
    await anext(kept[0])
    await reader.read()
    writer.close()


def test_a_generator_that_the_collector_closes_is_no_leak() -> None:
    """Garbage is collected before a generator is accused."""
    check_server(drops_a_generator, events=["connect", "close"], sequences=5)


async def greets(reader: Reader, writer: Writer) -> None:
    """Send a greeting, which must take no time."""
    try:
        writer.write(b"welcome\n")
        async with asyncio.timeout(1):
            await writer.drain()
        await reader.read()
    finally:
        writer.close()


def test_buffers_are_not_full_before_anything_was_sent() -> None:
    """A client that has stopped reading still takes the first bytes."""
    check_server(greets, events=["connect", "stall", "idle", "close"], sequences=60)


async def echo(reader: Reader, writer: Writer) -> None:
    """Send each line back."""
    try:
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
    finally:
        writer.close()


class EchoProtocol(asyncio.Protocol):
    """Sends everything back."""

    def connection_made(self, transport: Any) -> None:
        """Note the transport."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Send it back."""
        self.transport.write(data)


async def start_echo(host: str, port: int) -> asyncio.Server:
    """Start the echo server where it is told."""
    return await asyncio.start_server(echo, host, port)


async def start_echo_by_itself() -> asyncio.Server:
    """Start the echo server at an address of its own."""
    return await asyncio.get_running_loop().create_server(EchoProtocol, "0.0.0.0", 8000)  # noqa: S104 - simulated


@asynccontextmanager
async def echo_running() -> AsyncIterator[Any]:
    """Run the echo server."""
    async with await start_echo("127.0.0.1", 0) as server:
        yield server


@pytest.mark.parametrize(
    "server",
    [
        echo,
        EchoProtocol,
        lambda: EchoProtocol(),  # noqa: PLW0108 - a function, not a class
        start_echo,
        start_echo_by_itself,
        lambda: start_echo("127.0.0.1", 0),
        echo_running,
    ],
)
def test_every_kind_of_server_is_recognised(server: Any) -> None:
    """Handlers, protocols, starters and context managers are checked, and pass."""
    check_server(server, messages=MESSAGES, sequences=30)


@pytest.mark.parametrize(
    "server",
    [Services("for each").serve, lambda: Services("for each").running()],
)
def test_every_kind_of_server_is_really_run(server: Any) -> None:
    """The same leak is found in each form."""
    assert "tick" in failure(server, messages=MESSAGES)


async def one_argument(reader: Reader) -> None:
    """Take one argument too few."""


async def generator() -> AsyncIterator[int]:
    """Yield, without being a context manager."""
    yield 1


@pytest.mark.parametrize(
    ("thing", "advice"),
    [
        (8000, "give a function"),
        ("127.0.0.1:http", "give its function"),
        (EchoProtocol(), "give its class"),
        (int, "asyncio.Protocol"),
        (one_argument, "it takes reader"),
        (generator, "contextlib.asynccontextmanager"),
        (lambda room: room, "bind room with functools.partial"),
        (lambda: 5, "return the server"),
    ],
)
def test_other_things_are_refused(thing: Any, advice: str) -> None:
    """The message says what was expected, what was given, and what to do."""
    with pytest.raises(TypeError, match=r"expected an async.*got ") as caught:
        check_server(thing)

    assert advice in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"messages": b"hello"}, "a single message is"),
        ({"messages": ["hello"]}, "write b'hello'"),
        ({"messages": [b"x"] * 300}, "at most 256"),
        ({"clients": 5}, "1 to 4 clients"),
        ({"events": ["crash"]}, "unknown events"),
        ({"target": "moon"}, "unknown target"),
        ({"sequences": 0}, "at least 1 sequence"),
        ({"grace": -1}, "grace of 0"),
        ({"message": []}, "unknown arguments message"),
        ({"replay": "sim1:?"}, "cut or changed"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    """Each is named, with the values that are possible."""
    with pytest.raises((TypeError, ValueError, ReplayError), match=message):
        check_server(echo, **options)


def lingering(seconds: float) -> Any:
    """Make a handler that works on for some time after its client has gone."""

    async def handler(reader: Reader, writer: Writer) -> None:
        try:
            with suppress(ConnectionError):
                await reader.read()
        finally:
            writer.close()
            await asyncio.sleep(seconds)

    return handler


def test_work_that_ends_within_the_grace_is_no_leak() -> None:
    """A handler that takes five seconds to clean up passes; one that takes a minute does not."""
    check_server(lingering(5), sequences=60)

    assert "handler" in failure(lingering(60))
    check_server(lingering(60), sequences=60, grace=90)


async def answers_after_the_end(reader: Reader, writer: Writer) -> None:
    """Take a half-close for the end of the question, and answer for as long as somebody listens."""
    try:
        await reader.read()
        while not writer.is_closing():
            writer.write(b"news\n")
            await writer.drain()
            await asyncio.sleep(1)
    finally:
        writer.close()


def test_a_half_close_is_no_end() -> None:
    """A server may go on after a half-close for as long as its client stays."""
    check_server(answers_after_the_end, messages=MESSAGES, sequences=60)


async def hangs_up(reader: Reader, writer: Writer) -> None:
    """Answer the first bytes, and close."""
    try:
        writer.write(await reader.read(100))
    finally:
        writer.close()


def test_a_client_may_half_close_when_the_server_has_closed() -> None:
    """The system refuses it, which is no fault of the server."""
    events = ["half-close", "split", "stall"]
    check_server(hangs_up, messages=MESSAGES, events=events, sequences=100)


async def divides(reader: Reader, writer: Writer) -> None:
    """Fail with some inputs."""
    try:
        writer.write(b"%d\n" % (10 // len(await reader.readline())))
    finally:
        writer.close()


def test_an_exception_of_a_handler_is_a_finding() -> None:
    """An exception that asyncio reports is raised, with the line that raised it."""
    with pytest.raises(ZeroDivisionError) as caught:
        check_server(divides, messages=MESSAGES)

    assert "a connects" in text_of(caught.value)
    assert caught.traceback[-1].name == "divides"
    check_server(divides, messages=MESSAGES, sequences=60, allowed=ZeroDivisionError)


async def loses_an_exception(reader: Reader, writer: Writer) -> None:
    """Start a task that fails, and whose exception nobody retrieves."""

    async def fails() -> None:
        raise LookupError

    task = asyncio.create_task(fails())
    await reader.read()
    writer.close()
    del task


def test_an_exception_that_nobody_retrieves_is_a_finding() -> None:
    """It is raised, as from a handler."""
    with pytest.raises((LookupError, LeakError)):
        check_server(loses_an_exception)


async def sends_in_a_task(reader: Reader, writer: Writer) -> None:
    """Send from a task that fails if the client has gone, as a chat server does."""

    async def send() -> None:
        for _ in range(3):
            writer.write(b"news\n")
            await writer.drain()
            await asyncio.sleep(1)

    sender = asyncio.create_task(send())
    try:
        await reader.read()
    finally:
        await asyncio.sleep(3)
        writer.close()
        sender.cancel()


def test_a_lost_connection_that_nobody_hears_of_is_allowed() -> None:
    """A `ConnectionError` that a task has raised, and nobody retrieved, is no finding."""
    check_server(sends_in_a_task, messages=MESSAGES, sequences=60)


def test_ignored_objects_do_not_count() -> None:
    """The same values as those of `no_leaks` are accepted."""
    check_server(
        Services("for each").serve, sequences=60, ignore=ignore_name("tick", reason="a test")
    )


async def login(connection: ClientStreams) -> None:
    """Log in, ask, and leave: a client that a user has written."""
    connection.writer.write(b"name\n")
    assert await connection.reader.readline() == b"name\n"
    connection.writer.write(b"question\n")
    await connection.reader.readline()


async def leaks_between(reader: Reader, writer: Writer) -> None:
    """Leak if the client leaves between its two lines."""
    if name := await reader.readline():
        ticker = asyncio.create_task(tick())
        writer.write(name)
        if await reader.readline():
            ticker.cancel()
    writer.close()


def test_a_client_of_the_user_is_run_and_cut_short() -> None:
    """The search finds the await at which cutting the client off shows the leak."""
    events = ["client", "cut"]
    text = failure(leaks_between, messages=login, events=events, clients=1)

    assert "a connects and runs the client, which is cut short at its await" in text
    check_server(leaks_between, messages=login, events=["client"], sequences=60)


async def wrong_client(connection: ClientStreams) -> None:
    """Expect what the server does not answer."""
    connection.writer.write(b"name\n")
    assert await connection.reader.readline() == b"other\n"


def test_a_failing_assertion_of_the_client_is_a_finding() -> None:
    """A client may check the answers."""
    with pytest.raises(AssertionError, match="name"):
        check_server(echo, messages=wrong_client)


async def answers(reader: Reader, writer: Writer) -> None:
    """Answer the name of a client, and wait for its question."""
    try:
        if name := await reader.readline():
            writer.write(name)
            await reader.readline()
    except (ConnectionError, ValueError):
        pass
    finally:
        writer.close()


@pytest.mark.parametrize(
    "events", [{"close"}, {"half-close"}, {"stall", "idle"}, {"shutdown"}, {"cancel"}, {"random"}]
)
def test_a_client_whose_connection_the_check_changes_ends(events: set[str]) -> None:
    """Its exceptions then say nothing about the server, and are none if it is cut short."""
    check_server(answers, messages=login, events={*events, "connect", "client"}, sequences=100)


def test_a_client_that_fails_when_it_is_cut_short_ends() -> None:
    """The exception follows from the cut."""

    async def refuses(connection: ClientStreams) -> None:
        try:
            await login(connection)
        except asyncio.CancelledError:
            pytest.fail("cut short")

    check_server(answers, messages=refuses, events=["client", "cut"], sequences=60)


def test_an_event_of_another_client_excuses_no_failure() -> None:
    """Only an event on its own connection, or of the server, changes what a client sees."""
    with pytest.raises(AssertionError, match="name"):
        check_server(echo, messages=wrong_client, events=["connect", "client", "close"])


def test_messages_come_from_a_strategy() -> None:
    """Examples of a Hypothesis strategy are sent, the same ones each time."""
    strategy = st.sampled_from([b"ann\n", b"bob\n"])
    first = failure(leaks_between, messages=strategy, events=["send"])

    assert "a connects and sends b'ann\\n'" in first
    assert first == failure(leaks_between, messages=strategy, events=["send"])


def test_what_cannot_be_simulated_names_the_other_target() -> None:
    """The error says which call left the simulation, and how to check such a server."""

    async def threads(_reader: Reader, writer: Writer) -> None:
        await asyncio.to_thread(len, "")
        writer.close()

    with pytest.raises(SimulationError, match='target="tcp"'):
        check_server(threads)


def test_a_server_that_does_not_stop_is_a_finding() -> None:
    """A context manager that never ends is named, with the line where it waits."""

    @asynccontextmanager
    async def endless() -> AsyncIterator[int]:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        yield server.sockets[0].getsockname()[1]
        server.close()
        await asyncio.Event().wait()

    assert "has not stopped within 10 s" in failure(endless)


class Counting:
    """A server with state that one sequence would leave to the next."""

    def __init__(self) -> None:
        self.served = 0

    async def serve(self, reader: Reader, writer: Writer) -> None:
        """Leak at the third connection of its life."""
        self.served += 1
        if self.served == 3:
            self.ticker = asyncio.create_task(tick())
            self.writer = writer
            return
        await reader.read()
        writer.close()


def test_each_sequence_has_a_server_of_its_own() -> None:
    """The object of a bound method is copied, so that a finding can be repeated."""
    counting = Counting()

    text = failure(counting.serve)

    assert counting.served == 0
    assert text.count(" connects") == 3


def chat_rooms() -> list[Any]:
    """Return the buggy and the fixed room of the chat server that the documentation shows."""
    page = (Path(__file__).parents[2] / "docs" / "chat-server.md").read_text("utf-8")
    rooms = []
    for source in re.findall(r"example: chat_room.py -->\n```python\n(.*?)```", page, re.DOTALL):
        space: dict[str, Any] = {"__name__": "chat_room"}
        exec(compile(source, "chat_room.py", "exec"), space)  # noqa: S102 - our own page
        rooms.append(space["Room"])
    return rooms


CHAT: dict[str, Any] = {"messages": [b"ann\n", b"bob\n", b"hello\n"], "allowed": UnicodeDecodeError}


def test_the_chat_server_of_the_documentation() -> None:
    """Its leak is found and shrunk to its two clients; the fixed room passes."""
    buggy, fixed = chat_rooms()

    text = failure(buggy().serve, **CHAT)

    assert "1 x Room.send" in text
    assert text.count(" connects") == 2
    check_server(fixed().serve, sequences=60, **CHAT)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_the_chat_server_of_the_documentation_with_ten_seeds(seed: int) -> None:
    """The same with other seeds, and a longer check of the fixed room."""
    buggy, fixed = chat_rooms()

    assert failure(buggy().serve, seed=seed, **CHAT).count(" connects") == 2
    check_server(fixed().serve, seed=seed, sequences=2_000, **CHAT)


async def talks(_reader: Reader, writer: Writer) -> None:
    """Print and log for each connection."""
    print("connected")  # noqa: T201 - the test is about it
    logging.getLogger("talks").warning("connected")
    writer.close()


def test_output_of_a_search_is_dropped(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A thousand sequences would fill the report of a test; a replay shows its one."""
    check_server(talks, sequences=5, events=["connect"])
    assert (capsys.readouterr().out, caplog.text) == ("", "")

    check_server(talks, replay=Replay(b"\1").line)
    assert capsys.readouterr().out == "connected\n"
    assert caplog.text.count("connected") == 1


def test_a_replay_file_repeats_its_sequence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Given by its path; another file, and one that is missing, are refused."""
    Replay(b"\1", kind="server", name="room:talks").save(tmp_path / "found.sim.json")
    (tmp_path / "other.sim.json").write_text("{}")

    for path in (tmp_path / "found.sim.json", str(tmp_path / "found.sim.json")):
        check_server(talks, replay=path)
        assert capsys.readouterr().out == "connected\n"
    with pytest.raises(ReplayError, match=r"other\.sim\.json: not a replay file"):
        check_server(talks, replay=tmp_path / "other.sim.json")
    with pytest.raises(FileNotFoundError):
        check_server(talks, replay=tmp_path / "missing.sim.json")


def test_it_runs_while_a_loop_runs() -> None:
    """Called from a coroutine it checks as well, in another thread."""

    async def test() -> None:
        check_server(echo, messages=MESSAGES, sequences=20)
        failure(leaks_between, messages=MESSAGES)

    asyncio.run(test())


class UnderUnittest(unittest.TestCase):
    """The same in a test case of the standard library."""

    def test_it_runs(self) -> None:
        """A leak is a failure, not an error: it is an `AssertionError`."""
        with pytest.raises(self.failureException):
            check_server(leaks_between, messages=MESSAGES)


@settings(max_examples=5, database=None, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=4), min_size=1, max_size=3))
def test_it_runs_under_hypothesis(messages: list[bytes]) -> None:
    """A test with `given` may call it with its own messages."""
    check_server(echo, messages=messages, sequences=5)


async def leaks_at_a_reset(reader: Reader, writer: Writer) -> None:
    """Clean up, unless the client resets."""
    ticker = asyncio.create_task(tick())
    await reader.read()
    ticker.cancel()
    writer.close()


def test_a_reset_is_one() -> None:
    """The server's read fails; without the event, only a handler that is cancelled fails so."""
    text = failure(leaks_at_a_reset, messages=MESSAGES, clients=1)

    assert "a connects and resets" in text
    check_server(leaks_at_a_reset, events=["connect", "close", "half-close"], sequences=60)


def test_faults_stand_among_the_steps() -> None:
    """With faults allowed, the steps show where one was injected."""
    network = Network(faults=("reset",))

    text = failure(leaks_at_a_reset, network=network, events=["connect"], clients=1)

    assert "at the end\n  the network resets connection 1 to " in text


@pytest.mark.slow
def test_chosen_seeds_make_other_sequences() -> None:
    """The same seed finds the leak in the same sequence."""
    name = "one iteration"

    def numbers(seed: int) -> int:
        found = search_server(server_subject(SERVERS[name][0], messages=MESSAGES), seed=seed)
        assert found is not None
        return found.examples

    assert numbers(1) == numbers(1)
    assert len({numbers(seed) for seed in range(4)}) > 1


async def fails_later(delay: float) -> None:
    """Fail, with nobody to retrieve the exception."""
    await asyncio.sleep(delay)
    raise LookupError("too late")


async def logs_its_exception(reader: Reader, writer: Writer) -> None:
    """Serve as websockets does: log the exception of a handler with its traceback."""

    async def session() -> None:
        task = asyncio.create_task(fails_later(0.0))
        if await reader.readline() == b"bad\n":
            raise ValueError("bad line")
        task.cancel()

    try:
        await session()
    except (ValueError, ConnectionError):
        logging.getLogger("served").exception("connection handler failed")
    finally:
        writer.close()


@pytest.mark.parametrize("target", ["simulated", "tcp"])
def test_a_failed_task_is_reported_though_a_log_record_keeps_it(
    target: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A replay logs; the record keeps the traceback, whose frame keeps the task until the end."""
    options: Any = {"messages": [b"bad\n"], "target": target, "events": ["send"]}
    subject = server_subject(logs_its_exception, **options)
    found = search_server(subject, sequences=20)
    assert found is not None
    assert isinstance(found.error, LookupError)

    with pytest.raises(LookupError, match="too late"):
        check_server(logs_its_exception, replay=found.replay.line, **options)
    assert "bad line" in caplog.text


def test_an_allowed_exception_of_a_kept_task_is_no_finding() -> None:
    """What nobody retrieves is judged as what asyncio reports."""
    kept = []

    async def serve(_reader: Reader, writer: Writer) -> None:
        kept.append(asyncio.create_task(fails_later(0.0)))
        writer.close()

    check_server(serve, allowed=LookupError, sequences=5)
    with pytest.raises(LookupError, match="too late"):
        check_server(serve, sequences=5)


FEW: dict[str, Any] = {"events": ["connect", "close"], "clients": 1, "sequences": 20}


class Aged:
    """Ends what it starts by its age, which it reads from a clock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock

    async def serve(self, reader: Reader, writer: Writer) -> None:
        """Ping the client until it has been there for 5 seconds."""
        pinging = asyncio.create_task(self.ping())
        await reader.read()
        writer.close()
        await pinging

    async def ping(self) -> None:
        """Wake up until enough time has passed."""
        begun = self.clock()
        while self.clock() - begun < 5:  # noqa: ASYNC110 - time is its point
            await asyncio.sleep(1)


@pytest.mark.parametrize("clock", [monotonic, time.time, lambda: datetime.now(UTC).timestamp()])
def test_reads_of_the_real_clock_are_named(clock: Callable[[], float]) -> None:
    """It stands still, so that an age is never reached; the report says where it was read."""
    text = failure(Aged(clock).serve, **FEW)

    assert "note: the real clock, which stands still in the simulation, was read by " in text
    assert "test_check_server.py:" in text.partition("was read by")[2]
    assert sys.getprofile() is None


def test_reads_of_virtual_time_are_not_named() -> None:
    """Its ages are reached; and a leak without a clock has no such note."""
    check_server(Aged(lambda: asyncio.get_running_loop().time()).serve, **FEW)

    assert "real clock" not in failure(SERVERS["half-close"][0], messages=MESSAGES)


def test_callbacks_of_the_collector_are_not_named() -> None:
    """They run in the middle of a function of the server, which has nothing to do with them."""

    def see(_phase: str, _info: object) -> None:
        """Read the clock, as Hypothesis's callback does."""
        monotonic()

    kept = []

    async def serve(_reader: Reader, writer: Writer) -> None:
        kept.append(asyncio.create_task(tick()))
        gc.collect(0)
        writer.close()

    gc.callbacks.append(see)
    try:
        text = failure(serve, **FEW)
    finally:
        gc.callbacks.remove(see)

    assert "real clock" not in text


def test_a_profiler_that_runs_is_left_alone() -> None:
    """Then nothing is said about clocks."""

    def see(*_arguments: object) -> None:
        """Profile nothing."""

    sys.setprofile(see)
    try:
        text = failure(Aged(monotonic).serve, **FEW)
        assert sys.getprofile() is see
    finally:
        sys.setprofile(None)

    assert "real clock" not in text


@pytest.mark.filterwarnings("ignore:unclosed <StreamWriter:ResourceWarning")
@pytest.mark.parametrize("closes", [False, True])
def test_connection_that_a_relay_drops_is_found(closes: bool) -> None:  # noqa: FBT001 - a twin
    """The relay forgets the connection to its backend; the finalizer of the stream may close it."""

    async def behind(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(100):
            pass
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, backend = await asyncio.open_connection("127.0.0.1", 9000)
        try:
            while line := await reader.readline():
                backend.write(line)
        finally:
            if closes:
                backend.close()
            writer.close()

    @asynccontextmanager
    async def running() -> AsyncIterator[Any]:
        async with (
            await asyncio.start_server(behind, "127.0.0.1", 9000),
            await asyncio.start_server(relay, "127.0.0.1", 8000) as server,
        ):
            yield server

    events = ["connect", "send", "close", "half-close"]
    if closes:
        check_server(running, messages=[b"a\n"], events=events, sequences=50)
        return
    with pytest.raises(LeakError, match=r"x transport: connection\s+made at \S+ in \S*relay"):
        check_server(running, messages=[b"a\n"], events=events)


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([], r"expected an event of a client, got \[\]; add 'connect'"),
        (["shutdown", "idle"], r"got \['idle', 'shutdown'\]; add"),
        (["client", "cut"], "client, cut: only with messages= as an async function; add 'connect'"),
        (["send", "idle"], "send: only with messages of bytes"),
    ],
)
def test_events_of_no_client_are_refused(events: list[str], message: str) -> None:
    """They would test nothing, and pass."""
    with pytest.raises(ValueError, match=message):
        check_server(leaks_between, events=events)


class Idle(asyncio.Protocol):
    """Closes after thirty seconds, whatever the client does; one variant never."""

    ends = True

    def connection_made(self, transport: Any) -> None:
        """Begin the time."""
        self.timer = asyncio.get_running_loop().call_later(30, self.over)
        self.transport = transport

    def over(self) -> None:
        """Close."""
        if self.ends:
            self.transport.close()
        else:
            self.timer = asyncio.get_running_loop().call_later(0.001, self.over)

    def eof_received(self) -> bool:
        """Stay open."""
        return True

    def connection_lost(self, _error: Exception | None) -> None:
        """End the time."""
        if self.ends:
            self.timer.cancel()


class IdleForEver(Idle):
    """Never closes, and ticks too often for a sequence of minutes."""

    ends = False


def test_the_grace_that_an_idle_timeout_needs_is_named() -> None:
    """A run with a longer grace shows that nothing is left then."""
    text = failure(Idle)

    assert text.endswith("nothing is left after 30 s: grace=30 allows so much time")
    check_server(Idle, grace=30, sequences=60)
    assert "grace=" not in failure(IdleForEver)


def test_advice_can_be_followed() -> None:
    """It names no setting that `check_server` has not, nor a target that would not help."""

    async def threads(_reader: Reader, writer: Writer) -> None:
        await asyncio.to_thread(len, "")
        writer.close()

    async def unix() -> asyncio.Server:
        return await asyncio.start_unix_server(echo, "/tmp/served")  # noqa: S108 - refused before

    texts = []
    for server in threads, unix, spins:
        with pytest.raises(RuntimeError) as caught:
            check_server(server)
        texts.append(str(caught.value))

    assert texts[0] == (
        "run_in_executor leaves the simulation; a server that does this can be checked on a real "
        'loop: target="tcp"'
    )
    assert "a server is checked over TCP only" in texts[1]
    assert "target" not in texts[1]
    assert texts[2].endswith("ready: task spins")


def test_a_unix_server_on_a_real_loop_is_refused(tmp_path: Path) -> None:
    """The clients connect by TCP."""

    async def unix() -> asyncio.Server:
        return await asyncio.start_unix_server(echo, tmp_path / "served")

    with pytest.raises(TypeError, match="expected a server on TCP from"):
        check_server(unix, target="tcp", sequences=1)


def test_signal_handlers_are_accepted() -> None:
    """Programs end themselves by one; here none fires."""

    async def start() -> asyncio.Server:
        asyncio.get_running_loop().add_signal_handler(15, print)
        return await asyncio.start_server(echo, "127.0.0.1", 0)

    check_server(start, sequences=20)
