"""Messages to the exception handler and ResourceWarnings: counted, charged, and passed on."""

# The block that fails is what is tested:

import asyncio
import contextlib
import gc
import socket
import struct
import warnings
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings, strategies

from loops import REAL
from muxleak import LeakError, Ledger, ignore_name, measure_growth, no_leaks
from muxleak.ledger import resource_warnings
from muxleak.ledger.kinds import KINDS

pytestmark = pytest.mark.usefixtures("small_heap", "no_chance")

Loops = Callable[[], asyncio.AbstractEventLoop]


def run(main: Callable[[], Coroutine[Any, Any, Any]], new_loop: Loops) -> Any:
    """Run `main` on a fresh loop."""
    with contextlib.closing(new_loop()) as loop:
        return loop.run_until_complete(main())


def found(error: pytest.ExceptionInfo[LeakError]) -> list[tuple[str, str]]:
    """Return kind and name of each group."""
    return [(group.kind, group.name) for group in error.value.report.groups]


async def drop_future() -> None:
    """Drop a future that has failed."""
    future = asyncio.get_running_loop().create_future()
    future.set_exception(OSError("lost"))


class Client:
    """Complains to the exception handler, or by a warning, if it was not closed."""

    def __init__(self, *, warn: bool = False, cycle: bool = False) -> None:
        self._loop, self.warn = asyncio.get_running_loop(), warn
        self.cycle = self if cycle else None

    def __del__(self) -> None:
        if self.warn:
            warnings.warn(f"unclosed client {self!r}", ResourceWarning, stacklevel=1, source=self)
        else:
            self._loop.call_exception_handler({"message": "Unclosed client", "client": self})


@REAL
def test_exception_of_a_future_counts_like_that_of_a_task(new_loop: Loops) -> None:
    """In a block, in a function, and for each repetition."""

    async def block() -> None:
        async with no_leaks():
            await drop_future()

    for checked in (block, no_leaks(drop_future)):
        with pytest.raises(LeakError, match="1 exception never retrieved leaked") as caught:
            run(checked, new_loop)
        (group,) = caught.value.report.groups
        assert group.waits_on == "Future exception was never retrieved in Future: OSError: lost"

    with pytest.raises(LeakError, match=r"\+1 exception never retrieved"):
        run(no_leaks(repeat=4)(drop_future), new_loop)


@REAL
def test_callback_that_raises_is_counted(new_loop: Loops) -> None:
    """With the line that raised; a handle knows the scope that it belongs to."""

    def fails() -> None:
        raise ZeroDivisionError("no tiers")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        before = asyncio.Event()
        waiter = asyncio.ensure_future(before.wait())
        waiter.add_done_callback(lambda _: loop.call_soon(fails))
        async with no_leaks():
            before.set()  # a callback of before the block raises within it
            await asyncio.sleep(0.001)
        async with no_leaks():
            loop.call_soon(fails)

    with pytest.raises(LeakError, match="1 message to the exception handler leaked") as caught:
        run(main, new_loop)
    (group,) = caught.value.report.groups
    line = fails.__code__.co_firstlineno + 1
    assert group.site == f"tests/harness/test_messages.py:{line} in {fails.__qualname__}"
    assert group.waits_on.endswith("ZeroDivisionError: no tiers")


@REAL
def test_stream_handler_that_raises_is_counted(new_loop: Loops) -> None:
    """It belongs to the scope of its server, whoever drops its task."""

    async def handler(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        raise LookupError("no such stream")

    async def main() -> None:
        async with no_leaks():
            server = await asyncio.start_server(handler, "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            await reader.read()
            writer.close()
            server.close()

    with pytest.raises(LeakError) as caught:
        run(main, new_loop)
    assert [kind for kind, _ in found(caught)] in (["message"], ["error"])  # 3.12; 3.11
    assert "LookupError: no such stream" in str(caught.value)


@REAL
def test_stream_handler_whose_client_resets_is_no_message(new_loop: Loops) -> None:
    """It need not expect that; asyncio closes the connection."""
    seen = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
        except ConnectionError:
            seen.set()
            raise

    async def main() -> None:
        async with no_leaks():
            server = await asyncio.start_server(handler, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            with socket.create_connection(address) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await seen.wait()
            server.close()

    run(main, new_loop)


@REAL
def test_stream_handler_that_is_cancelled_is_no_message(new_loop: Loops) -> None:
    """On 3.11 asyncio passes the cancellation to the loop's exception handler."""

    async def main() -> None:
        handlers: asyncio.Queue[asyncio.Task[Any] | None] = asyncio.Queue()

        async def handler(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            handlers.put_nowait(asyncio.current_task())
            try:
                await asyncio.Event().wait()
            finally:
                writer.close()

        async with no_leaks():
            server = await asyncio.start_server(handler, "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            task = await handlers.get()
            assert task is not None
            task.cancel()
            await reader.read()
            writer.close()
            server.close()

    run(main, new_loop)


@REAL
@pytest.mark.parametrize("within", [False, True])
def test_handler_of_the_program_gets_every_message(new_loop: Loops, *, within: bool) -> None:
    """An error that it was given is no leak; an object that was not closed is one all the same."""
    seen: list[str] = []

    def handler(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        seen.append(context["message"])

    async def main() -> None:
        loop = asyncio.get_running_loop()
        if not within:
            loop.set_exception_handler(handler)
        async with no_leaks():
            if within:
                loop.set_exception_handler(handler)
            loop.call_exception_handler({"message": "Exception in callback"})
            assert loop.get_exception_handler() is handler
            Client()

    with pytest.raises(LeakError) as caught:
        run(main, new_loop)
    assert seen == ["Exception in callback", "Unclosed client"]
    assert found(caught) == [("message", "Unclosed client")]


@REAL
def test_message_is_logged_once(new_loop: Loops, caplog: pytest.LogCaptureFixture) -> None:
    """By the loop's default handler, under any number of checks."""

    async def main() -> None:
        async with no_leaks(kinds=["task"]), no_leaks(kinds=["task"]):
            with Ledger(KINDS, log=True).watching(asyncio.get_running_loop()):
                Client()

    run(main, new_loop)
    assert [record.getMessage().split("\n")[0] for record in caplog.records] == ["Unclosed client"]


def test_object_that_a_collection_frees_is_charged_to_nobody_who_only_collects() -> None:
    """It may be older than the block; for repetitions its number decides."""

    async def main() -> None:
        Client(cycle=True)
        async with no_leaks():
            gc.collect()

        async def operation() -> None:
            Client(cycle=True)

        grown = await measure_growth(operation, budget=0.02)
        assert [(each.kind, each.name) for each in grown.growing] == [
            ("message", "Unclosed client")
        ]

    run(main, asyncio.SelectorEventLoop)


def test_object_of_a_loop_that_the_function_made_is_charged_to_it() -> None:
    """Also one that a collection frees, since nothing on that loop is older than the function."""

    async def main() -> None:
        Client(cycle=True)
        gc.collect()

    @no_leaks
    def own() -> None:
        asyncio.run(main())

    @no_leaks
    def other() -> None:
        loop.run_until_complete(collect())

    async def collect() -> None:
        gc.collect()

    async def before() -> None:
        Client(cycle=True)

    with pytest.raises(LeakError, match="1 message to the exception handler leaked"):
        own()
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        loop.run_until_complete(before())
        other()


def test_example_is_not_charged_with_what_hypothesis_keeps_of_an_earlier_one() -> None:
    """It keeps the locals of every failing example until the test is over."""
    # From Python 3.14 on Hypothesis looks for referrers of its random generator, and does not see
    # those that `small_heap` has frozen.
    gc.unfreeze()
    outcomes: list[str] = []

    async def block(number: int) -> None:
        async with no_leaks():
            future = asyncio.get_running_loop().create_future()
            if number % 2:
                client, task = Client(), asyncio.ensure_future(drop_future())
                outcomes.append("failed")
                future.set_exception(OSError("lost"))
                raise LookupError(f"{client}, {task}")
        outcomes.append("clean")

    @settings(max_examples=15, database=None, deadline=None, derandomize=True)
    @given(strategies.integers(0, 1000))
    def example(number: int) -> None:
        gc.collect()
        asyncio.run(block(number))

    with pytest.raises(LookupError):
        example()
    # Another failure than the LookupError would have come out in a group.
    assert "clean" in outcomes[outcomes.index("failed") :]


def test_message_can_be_ignored() -> None:
    """By its name, and by its kind."""

    async def main() -> None:
        async with no_leaks(ignore=ignore_name("Unclosed *", reason="the library's own")):
            Client()
        async with no_leaks(kinds=KINDS - {"message"}):
            Client()

    run(main, asyncio.SelectorEventLoop)


@REAL
def test_resource_warning_is_counted(new_loop: Loops) -> None:
    """Once, by the block in which the object was dropped, although no filter shows it."""

    async def main() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            async with no_leaks():
                Client(warn=True)

    with pytest.raises(LeakError, match="1 resource warning leaked") as caught:
        run(main, new_loop)
    ((kind, name),) = found(caught)
    assert (kind, name[:16]) == ("warning", "unclosed client ")


def test_garbage_of_another_loop_is_charged_to_nobody() -> None:
    """A collection within a function under check frees what an earlier loop has left."""

    async def before() -> None:
        Client(cycle=True, warn=True)
        Client(cycle=True)

    @no_leaks
    def function() -> None:
        asyncio.run(collect())

    async def collect() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            async with no_leaks():
                gc.collect()

    run(before, asyncio.SelectorEventLoop)
    function()


def test_filters_of_the_program_have_their_effect() -> None:
    """What is recorded, raised or ignored inside a block is the same as outside it."""
    raised: list[str] = []

    async def drop() -> list[str]:
        with warnings.catch_warnings(record=True) as recorded:
            warnings.simplefilter("always")
            Client(warn=True)
        with pytest.warns(ResourceWarning, match="unclosed client"):
            Client(warn=True)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                warnings.warn("unclosed thing", ResourceWarning, stacklevel=1)
            except ResourceWarning as error:
                raised.append(str(error))
        with warnings.catch_warnings():
            warnings.resetwarnings()
            warnings.simplefilter("ignore")
            Client(warn=True)
        return [str(each.message)[:15] for each in recorded]

    async def main() -> None:
        before, outside = list(warnings.filters), await drop()
        async with no_leaks():
            inside = await drop()
            assert [each for each in warnings.filters if each not in before] == [
                resource_warnings._filter
            ]
        assert list(warnings.filters) == before
        assert outside == inside == ["unclosed client"]
        assert raised == ["unclosed thing"] * 2

    run(main, asyncio.SelectorEventLoop)


def test_filter_is_removed_from_every_list() -> None:
    """Also if `catch_warnings` begins outside the block and ends inside, or the reverse."""

    async def main() -> None:
        caught, check = warnings.catch_warnings(), no_leaks()
        before = list(warnings.filters)
        caught.__enter__()
        await check.__aenter__()
        caught.__exit__(None, None, None)
        resource_warnings.renew()
        caught = warnings.catch_warnings()
        caught.__enter__()
        await check.__aexit__(None, None, None)
        caught.__exit__(None, None, None)
        assert list(warnings.filters) == before

    run(main, asyncio.SelectorEventLoop)


@pytest.mark.parametrize("text", ["unclosed file <x>", "unclosed <socket.socket fd=5>", "slow"])
def test_warning_about_anything_else_is_not_counted(text: str) -> None:
    """A file or socket whose last reference ends is closed by that."""

    async def main() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            async with no_leaks():
                warnings.warn(text, ResourceWarning, stacklevel=1)
                warnings.warn("unclosed client", UserWarning, stacklevel=1)

    run(main, asyncio.SelectorEventLoop)


@REAL
@pytest.mark.parametrize("collected", [False, True])
def test_transport_that_is_dropped_stays_a_leak(new_loop: Loops, *, collected: bool) -> None:
    """A collection closes its socket; the verdict is the same before and after."""

    async def drop(port: int) -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", port)
        transport.pause_reading()  # else the loop's selector holds it

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            async with no_leaks(budget=0.05):
                await drop(listener.getsockname()[1])
                await asyncio.sleep(0)
                if collected:
                    gc.collect()

    with pytest.raises(LeakError, match="1 transport leaked") as caught:
        run(main, new_loop)
    (group,) = caught.value.report.groups
    line = drop.__code__.co_firstlineno + 2
    assert group.site == f"tests/harness/test_messages.py:{line} in {drop.__qualname__}"
    assert group.waits_on == "was dropped, and freed without being closed"


@REAL
def test_hooks_for_messages_are_taken_down_in_any_order(new_loop: Loops) -> None:
    """Two ledgers, the first uninstalled first, and installed again."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        callbacks, one, two = list(gc.callbacks), Ledger(KINDS), Ledger(KINDS)
        loop.set_exception_handler(lambda _loop, _context: None)
        one.install(loop)
        two.install(loop)
        one.uninstall()
        one.install(loop)
        loop.call_exception_handler({"message": "both"})
        one.uninstall()
        loop.call_exception_handler({"message": "second"})
        two.uninstall()
        loop.call_exception_handler({"message": "none"})
        assert (one.errors, two.errors) == (["both"], ["both", "second"])
        assert gc.callbacks == callbacks

    run(main, new_loop)
