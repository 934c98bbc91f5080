"""`no_leaks`: the leaks it finds, the objects it exempts, and the errors it never hides."""

# The block that fails is what is tested:
# ruff: noqa: PT012

import asyncio
import contextlib
import pickle
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from loops import LOOPS, REAL
from muxleak import (
    LeakError,
    Ledger,
    check_scope,
    ignore_created_by,
    ignore_current,
    ignore_name,
    ignore_waiting_in,
    no_leaks,
)
from tasks import forever

Loops = Callable[[], asyncio.AbstractEventLoop]


def run(body: Callable[[], Awaitable[Any]], new_loop: Loops = asyncio.SelectorEventLoop) -> None:
    """Run `body` on a fresh loop."""

    async def main() -> None:
        await body()

    with contextlib.closing(new_loop()) as loop:
        loop.run_until_complete(main())


def spawn(tasks: list["asyncio.Task[None]"]) -> None:
    """Leak one task."""
    tasks.append(asyncio.create_task(forever()))


@LOOPS
def test_no_leaks_finds_a_task_and_ends_it(new_loop: Loops) -> None:
    """The block fails with a report that names the line, and the task is gone afterwards."""

    async def body() -> None:
        tasks: list[asyncio.Task[None]] = []
        with pytest.raises(LeakError, match="1 task leaked") as caught:
            async with no_leaks(budget=0.05):
                spawn(tasks)
        (group,) = caught.value.report.groups
        line = spawn.__code__.co_firstlineno + 2
        assert group.site == f"tests/harness/test_no_leaks.py:{line} in spawn"
        assert group.notes == ("nothing alive can wake it",)
        assert tasks[0].cancelled()
        assert asyncio.get_running_loop().get_task_factory() is None
        assert pickle.loads(pickle.dumps(caught.value)).report == caught.value.report  # noqa: S301 - our own

    run(body, new_loop)


@LOOPS
def test_no_leaks_passes_once_released(new_loop: Loops) -> None:
    """The block is clean if it ends its task, or if the task ends a little later."""

    async def body() -> None:
        tasks: list[asyncio.Task[None]] = []
        async with no_leaks():
            spawn(tasks)
            tasks[0].cancel()
        async with no_leaks():
            tasks.append(asyncio.create_task(asyncio.sleep(0.05)))
        assert tasks[1].done()

    run(body, new_loop)


def test_no_leaks_waits_for_another_thread() -> None:
    """A task that another thread wakes within the budget is no leak."""

    async def body() -> None:
        loop = asyncio.get_running_loop()
        async with no_leaks():
            future = loop.create_future()
            timer = threading.Timer(0.03, loop.call_soon_threadsafe, (future.set_result, 1))
            timer.start()
            task = asyncio.ensure_future(wait_for(future))
        assert await task == 1
        timer.join()

    async def wait_for(future: "asyncio.Future[int]") -> int:
        return await future

    run(body)


def test_no_leaks_sleeps_for_nothing_when_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clean path yields and never sleeps."""
    real = asyncio.sleep

    async def recording(delay: float, result: object = None) -> object:
        slept.append(delay)
        return await real(delay, result)

    async def body() -> None:
        async with no_leaks():
            await asyncio.create_task(real(0))

    slept: list[float] = []
    monkeypatch.setattr(asyncio, "sleep", recording)
    run(body)
    assert set(slept) == {0}


@LOOPS
def test_no_leaks_at_the_same_time_fails_the_leaky_one(new_loop: Loops) -> None:
    """Of two blocks at once only the one that leaks fails, whichever ends first."""

    async def leaky() -> None:
        with pytest.raises(LeakError) as caught:
            async with no_leaks(budget=0.05):
                spawn(tasks)
                await asyncio.sleep(0.01)
        assert caught.value.report.total == 1

    async def clean(seconds: float) -> None:
        async with no_leaks(budget=0.05):
            await asyncio.create_task(asyncio.sleep(seconds))

    async def body() -> None:
        await asyncio.gather(clean(0.002), leaky(), clean(0.03))
        assert asyncio.get_running_loop().get_task_factory() is None

    tasks: list[asyncio.Task[None]] = []
    run(body, new_loop)


def test_no_leaks_nested_reports_once() -> None:
    """The inner block reports and ends its leak; the outer one has nothing to add."""

    async def body() -> None:
        tasks: list[asyncio.Task[None]] = []
        async with no_leaks(budget=0.05):
            with pytest.raises(LeakError):
                async with no_leaks(budget=0.05):
                    spawn(tasks)
        with pytest.raises(LeakError):
            async with no_leaks(budget=0.05), no_leaks(budget=0.05, kinds=["timer"]):
                spawn(tasks)

    run(body)


def test_no_leaks_sees_through_scopes_of_another_ledger() -> None:
    """A task that a user's own ledger charges to a connection is the block's as well."""

    async def body() -> None:
        tasks: list[asyncio.Task[None]] = []
        with (
            pytest.raises(LeakError),
            Ledger().watching(asyncio.get_running_loop()) as own,
        ):
            async with no_leaks(budget=0.05):
                with own.scope("connection 1"):
                    spawn(tasks)
        assert (own.created, own.count) == (1, 0)

    run(body)


def test_no_leaks_keeps_the_blocks_own_exception() -> None:
    """The error of the block passes, with the report as a note."""

    async def body() -> None:
        tasks: list[asyncio.Task[None]] = []
        with pytest.raises(ZeroDivisionError) as caught:
            async with no_leaks(budget=0.05):
                spawn(tasks)
                _ = 1 / 0
        assert [note.splitlines()[0] for note in caught.value.__notes__] == [
            "1 task leaked (expected 0 alive after close, got 1)"
        ]
        with pytest.raises(ZeroDivisionError) as caught:
            async with no_leaks(budget=0.05):
                _ = 1 / 0
        assert not hasattr(caught.value, "__notes__")

    run(body)


def test_no_leaks_lets_an_interrupt_pass_at_once() -> None:
    """An exception that ends the process is not delayed by a check."""

    async def body() -> None:
        tasks: list[asyncio.Task[None]] = []
        with pytest.raises(KeyboardInterrupt):
            async with no_leaks():
                spawn(tasks)
                raise KeyboardInterrupt
        tasks[0].cancel()
        await asyncio.sleep(0)

    run(body)


def test_no_leaks_checks_only_the_kinds_asked_for() -> None:
    """A timer is no leak when only tasks are checked."""

    async def body() -> None:
        loop = asyncio.get_running_loop()
        async with no_leaks(kinds=["task"]):
            timer = loop.call_later(60, print)
        timer.cancel()
        with pytest.raises(LeakError, match="1 timer leaked"):
            async with no_leaks(kinds=["timer"], budget=0.05):
                loop.call_later(60, print)

    run(body)


class Client:
    """A client with a background task, as one caches it."""

    def __init__(self) -> None:
        self.worker = asyncio.create_task(forever())


CACHE: list[Client] = []
client: Client | None = None


def test_no_leaks_takes_a_single_slot_for_a_service() -> None:
    """A client that a module holds in a variable is a service; in a list it is a leak."""

    async def body() -> None:
        global client  # noqa: PLW0603 - that is what is tested
        async with no_leaks(budget=0.05):
            client = Client()
        client.worker.cancel()
        with pytest.raises(LeakError):
            async with no_leaks(budget=0.05):
                CACHE.append(Client())

    run(body)
    CACHE.clear()


def test_no_leaks_decorates_async_functions() -> None:
    """The function is checked at each call and keeps its name, arguments and result."""

    @no_leaks
    async def clean(value: int) -> int:
        """Return it."""
        await asyncio.create_task(asyncio.sleep(0))
        return value

    @no_leaks(budget=0.05)
    async def leaky() -> None:
        spawn(tasks)

    async def body() -> None:
        assert [await clean(1), await clean(2)] == [1, 2]
        for _ in range(2):
            with pytest.raises(LeakError):
                await leaky()

    tasks: list[asyncio.Task[None]] = []
    run(body)
    assert (clean.__name__, clean.__doc__) == ("clean", "Return it.")


@REAL
def test_no_leaks_decorates_functions_that_run_loops(new_loop: Loops) -> None:
    """A test that calls asyncio.run is checked before its leaks are cancelled."""

    async def main(*, leaks: bool) -> int:
        if leaks:
            spawn(tasks)
        await asyncio.create_task(asyncio.sleep(0))
        return 1

    @no_leaks(budget=0.05)
    def runs(*leaks: bool) -> list[int]:
        results = []
        for each in leaks:
            with asyncio.Runner(loop_factory=new_loop) as runner:
                results.append(runner.run(main(leaks=each)))
        return results

    tasks: list[asyncio.Task[None]] = []
    before = asyncio.BaseEventLoop.run_forever
    assert runs(False, False) == [1, 1]  # noqa: FBT003 - whether each run leaks
    with pytest.raises(LeakError) as caught:
        runs(False, True)  # noqa: FBT003 - as above
    assert caught.value.report.groups[0].site.endswith("in spawn")
    assert asyncio.BaseEventLoop.run_forever == before


def test_no_leaks_around_a_plain_loop_looks_at_its_end() -> None:
    """Without a runner the loop is examined when the function returns, open or closed."""

    @no_leaks(budget=0.05)
    def runs(*, close: bool) -> None:
        loop = asyncio.SelectorEventLoop()
        loops.append(loop)
        loop.run_until_complete(leak())
        if close:
            loop.call_soon(print)
            loop.close()

    async def leak() -> None:
        spawn(tasks)

    loops: list[asyncio.AbstractEventLoop] = []
    tasks: list[asyncio.Task[None]] = []
    with pytest.raises(LeakError):
        runs(close=False)
    loops[0].close()
    with pytest.raises(LeakError):
        runs(close=True)
    no_leaks(kinds=["timer"])(runs.__wrapped__)(close=True)  # type: ignore[attr-defined]
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]


def test_no_leaks_around_a_function_keeps_its_exception() -> None:
    """A function's own error passes, with the report as a note."""

    @no_leaks(budget=0.05)
    def runs() -> None:
        asyncio.run(fail())

    async def fail() -> None:
        spawn(tasks)
        raise ZeroDivisionError

    tasks: list[asyncio.Task[None]] = []
    with pytest.raises(ZeroDivisionError) as caught:
        runs()
    assert caught.value.__notes__[0].startswith("1 task leaked")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"timeout": 1}, TypeError, "unknown options timeout; expected some of kinds, budget"),
        ({"kinds": ["socket"]}, ValueError, r"unknown kinds \['socket'\], expected some of"),
        ({"budget": 0}, ValueError, "expected a budget in seconds above 0, got 0"),
        ({"budget": "1"}, ValueError, "above 0, got '1'"),
        ({"ignore": "Client.*"}, TypeError, "expected ignore values, got 'C'; make them with ig"),
        ({"ignore": 5}, TypeError, "expected ignore values, got 5"),
        ({"repeat": 1}, ValueError, "expected at least 4 repetitions, got 1"),
        ({"repeat": True}, ValueError, "got True"),
    ],
)
def test_no_leaks_refuses_what_it_does_not_know(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    """Every option is checked, and the message says what is valid."""
    with pytest.raises(error, match=message):
        no_leaks(**options)


def test_no_leaks_refuses_what_it_cannot_check() -> None:
    """Generators, other objects, and repeat= where nothing can be repeated."""

    async def stream() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(TypeError, match="cannot check a generator function"):
        no_leaks(stream)
    with pytest.raises(TypeError, match="decorates a function, got 5"):
        no_leaks(5)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="repeat= needs an async function"):
        no_leaks(repeat=6)(print)

    async def body() -> None:
        with pytest.raises(TypeError, match="use no_leaks as its decorator"):
            async with no_leaks(repeat=6):
                pass
        check = no_leaks()
        with pytest.raises(RuntimeError, match="only inside its block"):
            _ = check.scope
        async with check:
            with pytest.raises(RuntimeError, match="make one for each block"):
                await check.__aenter__()
        async with check:
            assert check.scope.clean

    run(body)


@pytest.mark.parametrize(
    ("ignore", "matches"),
    [
        (ignore_created_by("spawn", reason="a test"), True),
        (ignore_created_by("tests/harness/test_no_leaks.py", reason="a test"), True),
        (ignore_created_by("*/test_no_leaks.py:*", reason="a test"), True),
        (ignore_created_by("despawn", reason="a test"), False),
        (ignore_name("forever", reason="a test"), True),
        (ignore_name("worker-*", reason="a test"), False),
        (ignore_waiting_in("forever", reason="a test"), True),
        (ignore_waiting_in("*/tasks.py", reason="a test"), True),
        (ignore_waiting_in("spawn", reason="a test"), False),
    ],
)
def test_ignore_covers_what_it_names_and_no_more(ignore: Any, *, matches: bool) -> None:
    """Each kind of ignore value, both ways."""

    async def body() -> None:
        tasks: list[asyncio.Task[None]] = []
        expected = contextlib.nullcontext() if matches else pytest.raises(LeakError)
        with expected:
            async with no_leaks(ignore=ignore, budget=0.05):
                spawn(tasks)
                await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.sleep(0)

    run(body)


class Holding:
    """A server whose handlers wait for an event that is never set."""

    def __init__(self) -> None:
        self.called, self.never, self.ended = (asyncio.Event() for _ in range(3))

    async def serve(self, _reader: object, writer: asyncio.StreamWriter) -> None:
        """Wait."""
        self.called.set()
        try:
            await self.never.wait()
        finally:
            writer.close()
            self.ended.set()

    async def connect(self) -> None:
        """Serve one connection that is closed by its client."""
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        await self.called.wait()
        writer.close()
        await writer.wait_closed()
        server.close()


@REAL
@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("Holding.serve", True),
        ("*/test_no_leaks.py", True),
        (f"tests/harness/test_no_leaks.py:{Holding.serve.__code__.co_firstlineno}", True),
        (f"tests/harness/test_no_leaks.py:{Holding.serve.__code__.co_firstlineno + 1}", False),
        ("Holding.connect", False),
    ],
)
def test_ignore_created_by_knows_where_a_task_of_asyncio_begins(
    new_loop: Loops, pattern: str, *, matches: bool
) -> None:
    """The task of a handler is made by asyncio itself."""

    async def body() -> None:
        held = Holding()
        ignore = ignore_created_by(pattern, reason="a test")
        expected = contextlib.nullcontext() if matches else pytest.raises(LeakError)
        with expected:
            async with no_leaks(kinds=["task"], ignore=ignore, budget=0.05):
                await held.connect()
        held.never.set()
        await held.ended.wait()

    # uvloop has no frames of its own: a runner's tell its callbacks from the code that drives it.
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(body())


def test_ignore_name_knows_the_name_a_task_was_given() -> None:
    """A task's own name counts as well as its coroutine's."""

    async def body() -> None:
        async with no_leaks(ignore=[ignore_name("worker-*", reason="a service")]):
            task = asyncio.create_task(forever(), name="worker-1")
        task.cancel()

    run(body)


def test_ignore_current_covers_what_there_was() -> None:
    """Tasks made before the call are exempt; later ones are not."""

    async def body() -> None:
        tasks: list[asyncio.Task[None]] = []
        loop = asyncio.get_running_loop()
        async with no_leaks(budget=0.05) as check:
            spawn(tasks)
            timer = loop.call_later(60, print)
            check.ignore(ignore_current(reason="the fixture's"))
        with pytest.raises(LeakError, match="1 task leaked"):
            async with no_leaks(budget=0.05) as check:
                spawn(tasks)
                check.ignore(ignore_current(reason="the fixture's"))
                spawn(tasks)
        assert [task.done() for task in tasks] == [False, False, True]
        timer.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.sleep(0)

    run(body)


@pytest.mark.parametrize("reason", ["", "  ", None])
def test_ignore_needs_a_reason(reason: Any) -> None:
    """An ignore value without a reason, or without a pattern, is refused."""
    for make in (ignore_name, ignore_created_by, ignore_waiting_in):
        with pytest.raises(ValueError, match="expected a reason why it is no leak"):
            make("x", reason=reason)
        with pytest.raises(ValueError, match="expected a pattern, got ''"):
            make("", reason="because")
    with pytest.raises(ValueError, match="expected a reason"):
        ignore_current(reason=reason)


def test_check_scope_reports_without_raising() -> None:
    """A scope of a user's own ledger is examined, and its tasks are not ended."""

    async def body() -> None:
        tasks: list[asyncio.Task[None]] = []
        with Ledger(["task", "timer"]).watching(asyncio.get_running_loop()) as ledger:
            with ledger.scope("mine") as scope:
                spawn(tasks)
            report = await check_scope(scope, budget=0.05)
            assert report.total == 1
            assert not tasks[0].done()
            tasks[0].cancel()
            assert not await check_scope(scope)

    run(body)


def test_no_leaks_is_quick_about_what_can_never_end() -> None:
    """When nothing can arrive any more, a leak is reported without spending the budget."""

    async def body() -> None:
        tasks: list[asyncio.Task[None]] = []
        began = time.monotonic()
        with pytest.raises(LeakError):
            async with no_leaks(budget=30):
                spawn(tasks)
        if threading.active_count() == 1:
            assert time.monotonic() - began < 20

    run(body)


@pytest.fixture(autouse=True)
def no_module_state() -> Iterator[None]:
    """The cached client of one test is not a leak of the next one."""
    global client  # noqa: PLW0603 - see above
    yield
    client = None


LIBRARY = """
class Watcher:
    def start(self):
        return asyncio.create_task(self.run())

    async def run(self):
        await asyncio.Event().wait()
"""


def test_no_leaks_offers_the_value_that_keeps_a_watcher_of_a_library() -> None:
    """It is a call, ready to paste; nothing is offered for the user's own code."""
    space: dict[str, Any] = {"asyncio": asyncio}
    exec(compile(LIBRARY, "/lib/site-packages/watcher.py", "exec"), space)  # noqa: S102 - our own text
    tasks: list[asyncio.Task[None]] = []

    async def body(**options: Any) -> str:
        with pytest.raises(LeakError) as caught:
            async with no_leaks(budget=0.02, **options):
                tasks.append(space["Watcher"]().start())
                spawn(tasks)
        return str(caught.value)

    async def main() -> None:
        offer = "  note: if it is meant to stay: "
        (line,) = (each for each in (await body()).splitlines() if each.startswith(offer))
        value = eval(line.removeprefix(offer), {"ignore_created_by": ignore_created_by})  # noqa: S307 - as above
        assert "1 task leaked" in await body(ignore=value)

    run(main)
