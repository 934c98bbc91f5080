"""Connections that a leak keeps open, and those that the monitor cannot see."""

import asyncio
import logging
import select
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import count
from typing import Any

import pytest

from loops import REAL
from muxleak import Monitor
from muxleak.monitor import Alarm, connections
from muxleak.monitor.connections import SITE, StuckConnections

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
NewLoop = Callable[[], asyncio.AbstractEventLoop]
WINDOW = 9
FLOOD = bytes(1 << 19)  # more than a handler takes that does not read, less than the system


class Service:
    """A server under a monitor; a minute passes with each sample.

    Attributes:
        monitor: the monitor.
        alarms: those raised so far.
        held: what the test keeps open.
    """

    def __init__(self, handler: "Callable[[Service], Handler]") -> None:
        self.alarms: list[Alarm] = []
        minutes = count(0.0, 60.0)
        self.monitor = Monitor(
            interval=None, window=WINDOW, clock=minutes.__next__, on_alarm=self.alarms.append
        )
        self.held: list[Streams] = []
        self.address: Any = None
        self.stop = asyncio.Event()
        self._handler = handler(self)
        self._serving: set[asyncio.Task[None] | None] = set()

    async def connect(self) -> Streams:
        """Make a connection."""
        return await asyncio.open_connection(*self.address)

    async def visit(self) -> None:
        """Make a connection that ends on both sides."""
        reader, writer = await self.connect()
        writer.write(b"end\n")
        assert await reader.read() == b"bye"
        writer.close()
        await writer.wait_closed()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a visit, or let the handler serve."""
        task = asyncio.current_task()
        self._serving.add(task)
        if await reader.readline() == b"end\n":
            writer.write(b"bye")
        else:
            await self._handler(reader, writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        self._serving.discard(task)

    async def end(self) -> None:
        """End all handlers and clients."""
        self.stop.set()
        for _, writer in self.held:
            writer.transport.abort()
            with suppress(ConnectionError):
                await writer.wait_closed()
        await asyncio.gather(*filter(None, self._serving))


def run(
    new_loop: NewLoop,
    handler: Callable[[Service], Handler],
    load: Callable[[Service], Awaitable[None]],
    samples: int = 2 * WINDOW,
    *,
    visited: bool = True,
) -> list[Alarm]:
    """Serve a load, and one visit unless told otherwise, before each sample; return the alarms."""

    async def main() -> list[Alarm]:
        service = Service(handler)
        with service.monitor as monitor:
            server = await asyncio.start_server(service.serve, "127.0.0.1", 0)
            service.address = server.sockets[0].getsockname()
            for _ in range(samples):
                await load(service)
                if visited:
                    await service.visit()
                monitor.sample()
            assert monitor.status().accepted >= (1 + visited) * samples
            assert not monitor.status().unseen
            await service.end()
            server.close()
        return service.alarms

    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main())


def waits(service: Service) -> Handler:
    """A handler that does not look at its client any more, and never closes."""

    async def handler(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await service.stop.wait()

    return handler


def polls(service: Service) -> Handler:
    """A handler that answers when there is news, and watches for the end of its client."""

    async def handler(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        news = asyncio.ensure_future(service.stop.wait())
        end = asyncio.ensure_future(reader.read())
        await asyncio.wait([news, end], return_when=asyncio.FIRST_COMPLETED)
        news.cancel()
        end.cancel()

    return handler


def streams(service: Service) -> Handler:
    """A handler that sends without end to a client that has ended its own direction."""

    async def handler(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while not service.stop.is_set():
                writer.write(b"x" * 100)
                await writer.drain()
                await asyncio.sleep(0)

    return handler


async def leaves(service: Service) -> None:
    """A client that goes while the server does not look."""
    _, writer = await service.connect()
    writer.write(b"work\n")
    writer.close()
    await writer.wait_closed()


async def floods(service: Service) -> None:
    """A client that sends more than the server reads, and stays."""
    reader, writer = await service.connect()
    writer.transport.set_write_buffer_limits(0)
    writer.write(b"work\n" + FLOOD)
    await writer.drain()
    service.held.append((reader, writer))


async def stays(service: Service) -> None:
    """A client that waits for an answer; more and more of them."""
    for _ in range(2):
        reader, writer = await service.connect()
        writer.write(b"work\n")
        service.held.append((reader, writer))


async def listens(service: Service) -> None:
    """A client that has ended its direction, and reads; more and more of them."""
    reader, writer = await service.connect()
    writer.write(b"work\n")
    writer.write_eof()
    service.held.append((reader, writer))
    # All of them get something, as they do in a minute.
    for each, _ in service.held:
        await each.readexactly(100)


@REAL
@pytest.mark.parametrize("load", [leaves, floods])
def test_monitor_alarms_for_connections_that_a_leak_keeps_open(
    load: Callable[[Service], Awaitable[None]], new_loop: NewLoop
) -> None:
    """One more in each minute: whose client has gone, or from which the server does not read."""
    (alarm,) = run(new_loop, waits, load)

    assert (alarm.site, alarm.recovered, alarm.unseen) == (SITE, False, False)
    assert alarm.slope == pytest.approx(1)
    assert str(alarm).startswith(f"{SITE}: {alarm.left} stuck, and climbing by 1 per minute")


@REAL
def test_monitor_alarms_if_no_connection_ends_at_all(new_loop: NewLoop) -> None:
    """The clients have gone, and the server keeps every connection."""
    (alarm,) = run(new_loop, waits, leaves, visited=False)
    assert (alarm.site, alarm.recovered) == (SITE, False)


@REAL
@pytest.mark.parametrize("load", [stays, floods])
def test_monitor_is_silent_about_clients_that_stay_by_design(
    load: Callable[[Service], Awaitable[None]], new_loop: NewLoop
) -> None:
    """More and more of them, none of which ends, whether the server reads or not."""
    assert run(new_loop, waits, load, visited=False) == []


@REAL
@pytest.mark.parametrize(("handler", "load"), [(polls, stays), (waits, stays), (streams, listens)])
def test_monitor_is_silent_about_connections_that_serve_somebody(
    handler: Callable[[Service], Handler],
    load: Callable[[Service], Awaitable[None]],
    new_loop: NewLoop,
) -> None:
    """Long polls, growing traffic, and answers to clients that have ended their direction."""
    assert run(new_loop, handler, load) == []


def test_alarm_for_connections_ends_and_is_exported() -> None:
    """Once they have gone the trend is flat; the figures are in the status meanwhile."""

    async def main() -> None:
        service = Service(waits)
        with service.monitor as monitor:
            server = await asyncio.start_server(service.serve, "127.0.0.1", 0)
            service.address = server.sockets[0].getsockname()
            for _ in range(WINDOW + 1):
                await leaves(service)
                await service.visit()
                monitor.sample()
            climbs = [monitor.connections_climb]
            assert monitor.status().stuck == WINDOW
            await service.end()
            while climbs[-1]:
                await service.visit()
                monitor.sample()
                climbs.append(monitor.connections_climb)
            assert monitor.status().stuck == 0
            begin, end = service.alarms
            assert (begin.recovered, end.recovered) == (False, True)
            assert str(end) == f"{SITE}: no longer climbs; {end.left} stuck"
            server.close()

    asyncio.run(main())


class Fake:
    """A transport without a socket, as a foreign loop may have."""

    def __init__(self, *, reading: bool) -> None:
        self.reading, self.open = reading, True

    def is_reading(self) -> bool:
        """As of a transport."""
        return self.reading

    def thing(self) -> "Fake":
        """As of its record."""
        return self

    def alive(self) -> bool:
        """As of its record."""
        return self.open


def test_stuck_connections_need_two_samples_and_are_pruned() -> None:
    """What is not reading once may do so the next time; what has ended costs nothing."""
    stuck = StuckConnections(WINDOW)
    fakes = [Fake(reading=False) for _ in range(3)]
    for each in fakes:
        stuck.add(each)  # type: ignore[arg-type] # has what is asked of a record
    found = []
    for _ in range(3):
        stuck.sample()
        found.append(stuck.left)
        fakes[0].reading = True
    fakes[1].open = False
    stuck.sample()
    for _ in range(5_000):
        gone = Fake(reading=True)
        gone.open = False
        stuck.add(gone)  # type: ignore[arg-type] # as above

    assert [*found, stuck.left] == [0, 2, 2, 1]
    assert len(stuck._open) < 1_000


def test_stuck_connections_without_poll_or_tcp_info(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a system without both, a pause of reading at two samples decides."""
    monkeypatch.delattr(select, "poll")
    monkeypatch.setattr(connections, "_TCP_INFO", None)

    (alarm,) = run(asyncio.SelectorEventLoop, waits, floods)
    assert alarm.site == SITE
    assert run(asyncio.SelectorEventLoop, waits, leaves) == []


class RawServer:
    """A server that accepts with `add_reader`, so that no method of the loop makes a transport."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.listening.setblocking(False)  # noqa: FBT003 - it takes no name
        self.open: list[socket.socket] = []
        self.tasks: list[asyncio.Task[object]] = []
        self.accepted = asyncio.Event()
        self.loop.add_reader(self.listening, self._accept)

    def _accept(self) -> None:
        self.open.append(self.listening.accept()[0])
        self.tasks.append(self.loop.create_task(asyncio.Event().wait()))
        self.accepted.set()

    async def connect(self) -> None:
        """Let a client connect, which this process holds no descriptor of afterwards."""
        client = socket.create_connection(self.listening.getsockname())
        await self.accepted.wait()
        self.accepted.clear()
        client.close()

    def close(self) -> None:
        """End all."""
        self.loop.remove_reader(self.listening)
        for each in (self.listening, *self.open):
            each.close()
        for task in self.tasks:
            task.cancel()


@REAL
@pytest.mark.parametrize("leaks", [True, False])
def test_monitor_judges_unseen_connections_by_descriptors(
    leaks: bool,  # noqa: FBT001 - a table
    new_loop: NewLoop,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Tasks that outlive their sockets climb alone; those of growing traffic climb with them."""
    caplog.set_level(logging.INFO, "muxleak.monitor")

    async def main() -> list[Alarm]:
        service = Service(waits)
        with service.monitor as monitor:
            server = RawServer()
            for _ in range(2 * WINDOW):
                await server.connect()
                if leaks:
                    server.open.pop().close()
                monitor.sample()
            assert monitor.status().unseen
            assert monitor.status().accepted == 0
            server.close()
            await asyncio.sleep(0)
        return service.alarms

    with asyncio.Runner(loop_factory=new_loop) as runner:
        alarms = runner.run(main())

    assert caplog.text.count("no server has shown a connection in 9 samples") == 1
    assert [alarm.unseen for alarm in alarms] == [True] * leaks
    for alarm in alarms:
        assert "no server has shown its connections, but open descriptors have not" in str(alarm)
