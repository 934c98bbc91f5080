"""Messages and warnings in the monitor, counted by line, and its alarm for descriptors."""

import asyncio
import gc
import os
import warnings
from collections.abc import Awaitable, Callable, Iterator
from itertools import count

import pytest

from loops import REAL
from muxleak import Ledger, Monitor
from muxleak.ledger.kinds import KINDS
from muxleak.monitor import Alarm, MessageStatus
from muxleak.monitor.connections import DESCRIPTORS
from muxleak.monitor.message_counts import MORE, MessageCounts

NewLoop = Callable[[], asyncio.AbstractEventLoop]
HERE = "tests/harness/test_monitor_messages.py"
WINDOW = 9


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Show no warning, and collect the garbage of other tests, which gives some, too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
        yield


class Client:
    """Complains if it was not closed, by both ways."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def __del__(self) -> None:
        self._loop.call_exception_handler({"message": "Unclosed client", "client": self})
        warnings.warn(f"unclosed client {self!r}", ResourceWarning, stacklevel=1, source=self)


async def fail() -> None:
    """Fail at once."""
    raise LookupError("lost")


def fails() -> None:
    """Fail as a callback."""
    raise LookupError("lost")


def drop() -> None:
    """Drop a client that is open."""
    Client()


async def work() -> None:
    """Give one message of each kind, and one more of a handler."""
    loop = asyncio.get_running_loop()
    await asyncio.wait([asyncio.create_task(fail())])  # does not retrieve it
    gc.collect()
    loop.call_soon(fails)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    drop()


def line(function: object, offset: int) -> str:
    """The line of a function, as a creation site."""
    code = getattr(function, "__code__", None)
    assert code is not None
    return f"{HERE}:{code.co_firstlineno + offset} in {code.co_qualname}"


def run(new_loop: NewLoop, monitor: Monitor, times: int) -> list[MessageStatus]:
    """Run the work under a monitor; return the counts."""

    async def main() -> list[MessageStatus]:
        with monitor:
            for _ in range(times):
                await work()
                monitor.sample()
            return monitor.messages()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main())


@REAL
def test_monitor_counts_messages_by_line_and_keeps_none(new_loop: NewLoop) -> None:
    """An exception has the line that raised it, a finalizer the one that dropped its object."""
    monitor = Monitor(interval=None)
    found = {
        each.kind: each for each in run(new_loop, monitor, 3) if each.text != "Unclosed client"
    }

    assert (found["error"].text, found["error"].site) == ("fail", line(fail, 2))
    assert found["message"].text.startswith("Exception in callback")
    assert found["message"].site == line(fails, 2)
    assert found["warning"].text.startswith("unclosed client <")
    assert found["warning"].site == line(drop, 2)
    assert {each.number for each in found.values()} == {3}
    status = monitor.status()
    assert (status.errors, status.messages, status.warnings) == (3, 6, 3)
    assert not monitor.ledger.everything()
    assert not monitor.ledger.errors


def test_monitor_leaves_messages_alone_that_the_program_deals_with() -> None:
    """Of what its own handler is given, only things that were lost are counted."""
    monitor = Monitor(interval=None)

    def new_loop() -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda _loop, _context: None)
        return loop

    found = run(new_loop, monitor, 1)
    assert {(each.kind, each.text.partition(" <")[0]) for each in found} == {
        *(("error", "fail"), ("message", "Unclosed client"), ("warning", "unclosed client"))
    }


@pytest.mark.parametrize("wanted", [False, True])
def test_monitor_takes_the_messages_of_a_ledger(*, wanted: bool) -> None:
    """Warnings only if the ledger wants them; it keeps the records of its own kinds."""

    async def main() -> None:
        ledger = Ledger(KINDS if wanted else {"task"})
        with ledger.watching(asyncio.get_running_loop()), Monitor(ledger, interval=None) as monitor:
            await work()
            status = monitor.status()
            assert (status.errors, status.messages, status.warnings) == (1, 2, wanted)
            kinds = sorted(each.kind for each in ledger.everything() if each.kind != "task")
            assert kinds == ["error", "message", "message", "warning"] * wanted

    asyncio.run(main())


def test_monitor_has_no_place_for_a_warning_that_a_collection_gives() -> None:
    """The code that runs then has nothing to do with it."""

    async def main() -> None:
        with Monitor(interval=None) as monitor:
            cycle: list[object] = [Client()]
            cycle.append(cycle)
            del cycle
            gc.collect()
            assert {each.site for each in monitor.messages()} == {"unknown"}

    asyncio.run(main())


def test_messages_have_a_bounded_number_of_counts() -> None:
    """Those that come later are counted together, by kind."""
    ledger = Ledger(KINDS)
    monitor = Monitor(ledger, interval=None, max_sites=1)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with ledger.watching(loop), monitor:
            for text in ("Unclosed one", "Unclosed two", "Unclosed one", "Unclosed three"):
                loop.call_exception_handler({"message": text})

    asyncio.run(main())
    found = {(each.kind, each.text): each.number for each in monitor.messages()}
    assert found == {("message", "Unclosed one"): 2, ("message", MORE): 2}
    assert MessageCounts(1).total("error") == 0


class Pipes:
    """A server under a monitor that opens a pipe for each connection; a minute for each sample.

    Args:
        leaks: leave the pipes open.
    """

    def __init__(self, *, leaks: bool) -> None:
        self.leaks, self.left = leaks, list[int]()
        self.alarms: list[Alarm] = []
        minutes = count(0.0, 60.0)
        self.monitor = Monitor(
            interval=None, window=WINDOW, clock=minutes.__next__, on_alarm=self.alarms.append
        )
        self.address: tuple[str, int] = ("", 0)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Open a pipe for as long as the client is there."""
        ends = os.pipe()
        await reader.read()
        self.left += ends
        if not self.leaks:
            self.close()
        writer.close()

    async def visit(self) -> None:
        """Make a connection that ends, and take a sample."""
        reader, writer = await asyncio.open_connection(*self.address)
        writer.write_eof()
        await reader.read()
        writer.close()
        await writer.wait_closed()
        self.monitor.sample()

    def close(self) -> None:
        """Close the pipes that are left."""
        while self.left:
            os.close(self.left.pop())

    def run(self, new_loop: NewLoop, main: Callable[[], Awaitable[None]]) -> list[Alarm]:
        """Run clients; return the alarms for descriptors."""

        async def serving() -> None:
            with self.monitor:
                server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
                self.address = server.sockets[0].getsockname()
                await main()
                server.close()

        try:
            with asyncio.Runner(loop_factory=new_loop) as runner:
                runner.run(serving())
        finally:
            self.close()
        return [each for each in self.alarms if each.site == DESCRIPTORS]


@REAL
def test_monitor_alarms_for_descriptors_that_connections_leave(new_loop: NewLoop) -> None:
    """Until they are closed."""
    pipes = Pipes(leaks=True)

    async def main() -> None:
        for _ in range(WINDOW):
            await pipes.visit()
        climbs = [pipes.monitor.descriptors_climb]
        before = pipes.monitor.status().descriptors
        for _ in range(WINDOW):
            pipes.close()
            await pipes.visit()
        climbs.append(pipes.monitor.descriptors_climb)
        assert climbs == [True, False]
        assert pipes.monitor.status().descriptors == before - 2 * (WINDOW - 1)

    begin, end = pipes.run(new_loop, main)
    assert f"{begin}".startswith(f"{DESCRIPTORS}: ")
    assert " of no transport, and climbing by 2 per minute" in str(begin)
    assert end.recovered


@REAL
def test_monitor_is_silent_about_descriptors_of_open_connections(new_loop: NewLoop) -> None:
    """Their number may grow, on both sides, while the pipes of those that end are closed."""
    pipes = Pipes(leaks=False)

    async def main() -> None:
        kept: list[asyncio.StreamWriter] = []
        idle = await asyncio.start_server(lambda _, writer: kept.append(writer), "127.0.0.1", 0)
        for _ in range(2 * WINDOW):
            kept.append((await asyncio.open_connection(*idle.sockets[0].getsockname()))[1])
            await pipes.visit()
        for writer in kept:
            writer.close()
        for writer in kept:
            await writer.wait_closed()
        idle.close()

    assert pipes.run(new_loop, main) == []
