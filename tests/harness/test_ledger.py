"""The ledger: counts, the scopes that are charged, and descriptions of waiting tasks."""

import asyncio
import contextlib
import contextvars
import functools
import gc
import operator
import sys
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any
from weakref import ref

import pytest

from loops import LOOPS, REAL
from muxleak import LeakError, no_leaks
from muxleak.ledger.counters import TaskRecord
from muxleak.ledger.kinds import KINDS
from muxleak.ledger.ledger import Ledger
from muxleak.ledger.task_class import TASK
from muxleak.sim.virtual_loop import VirtualLoop
from tasks import forever, spawn

if TYPE_CHECKING:
    from muxleak.ledger.counters import Scope

Loops = Callable[[], asyncio.AbstractEventLoop]


class Gate:
    """An event whose repr has its name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def __repr__(self) -> str:
        return f"<Gate {self.name!r}>"

    async def wait(self) -> None:
        """Wait until opened."""
        await self.future

    def open(self) -> None:
        """Wake every waiter."""
        self.future.set_result(None)


def only(records: list[TaskRecord]) -> TaskRecord:
    """Return the one record."""
    (record,) = records
    return record


@LOOPS
def test_count_follows_a_leak_and_its_release(new_loop: Loops) -> None:
    """A planted leak is counted and named; once it has ended, it is not."""

    async def main() -> None:
        gate = Gate("one")
        task = asyncio.create_task(gate.wait())
        await asyncio.sleep(0)
        (record,) = [each for each in ledger.live() if each.task is task]
        assert (record.name, ledger.count) == ("Gate.wait", 1 + runner)
        gate.open()
        await task
        await asyncio.sleep(0)
        assert (ledger.live()[runner:], ledger.count) == ([], runner)

    loop = new_loop()
    runner = 1  # the task of run_until_complete is counted like any other
    with contextlib.closing(loop), Ledger().watching(loop) as ledger:
        loop.run_until_complete(main())
    assert ledger.created == 1 + runner


@LOOPS
def test_install_chains_to_an_existing_factory(new_loop: Loops) -> None:
    """A factory that was there goes on making the tasks and is put back afterwards."""
    made: list[str] = []

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **settings: Any) -> Any:
        made.append(coro.__qualname__)
        return asyncio.Task(coro, loop=loop, **settings)

    loop = new_loop()
    loop.set_task_factory(factory)
    with contextlib.closing(loop), Ledger().watching(loop) as ledger:
        loop.run_until_complete(asyncio.sleep(0))
        ledger.uninstall()
        kept = loop.get_task_factory()

    assert (made, ledger.created) == (["sleep"], 1)
    assert kept is factory


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
@LOOPS
def test_factory_counts_eager_tasks_that_had_to_wait(new_loop: Loops) -> None:
    """A task that ends at once is made but never alive; one that suspends is alive."""
    eager_task_factory = getattr(asyncio, "eager_task_factory")  # noqa: B009 - absent on 3.11

    async def at_once() -> None:
        pass

    async def main() -> None:
        spawn(asyncio.get_running_loop(), at_once())
        task = asyncio.create_task(forever())
        names.extend(record.name for record in ledger.live())
        task.cancel()

    loop = new_loop()
    names: list[str] = []
    ledger = Ledger()
    runner = loop.create_task(main())
    loop.set_task_factory(eager_task_factory)
    with contextlib.closing(loop), ledger.watching(loop):
        loop.run_until_complete(runner)
    assert names == ["forever"]


@LOOPS
def test_factory_set_later_is_followed(new_loop: Loops) -> None:
    """A factory that the program sets makes the tasks, and each ledger of the loop counts them."""
    made: list[str] = []

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **settings: Any) -> Any:
        made.append(coro.__qualname__)
        given = {name: value for name, value in settings.items() if value is not None}
        return TASK(coro, loop=loop, **given)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        before = loop.get_task_factory()
        for number in range(3):
            with inner.watching(loop) if number else contextlib.nullcontext():
                loop.set_task_factory(factory)
                tasks = [asyncio.create_task(forever()), loop.create_task(forever())]
                counts.append((outer.count, inner.count))
                assert (outer.unseen, inner.unseen) == ((), ())
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
            assert loop.get_task_factory() is not None
            loop.set_task_factory(before)
        counts.append((outer.created, inner.created))

    loop, outer, inner = new_loop(), Ledger(), Ledger()
    counts: list[tuple[int, int]] = []
    with contextlib.closing(loop):
        with outer.watching(loop):
            loop.run_until_complete(main())
        assert loop.get_task_factory() is None
        assert "set_task_factory" not in vars(loop)

    # The first is that of `main`.
    assert counts == [(3, 0), (3, 2), (3, 2), (7, 4)]
    assert made == ["forever"] * 6


def test_factory_set_and_set_back_adds_no_depth(loop: VirtualLoop, ledger: Ledger) -> None:
    """A program that does so for each request makes no chain of factories."""
    before = loop.get_task_factory()
    for _ in range(2_000):
        loop.set_task_factory(lambda loop, coro, **given: TASK(coro, loop=loop, **given))
        loop.set_task_factory(before)
    spawn(loop, forever())

    assert ledger.count == 1
    assert loop.get_task_factory() is before


def test_factory_set_by_the_program_stays_after_the_ledger(loop: VirtualLoop) -> None:
    """What the program has set is there afterwards, without the ledger's over it."""

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **given: Any) -> Any:
        return TASK(coro, loop=loop, **given)

    with Ledger().watching(loop):
        loop.set_task_factory(factory)

    assert loop.get_task_factory() is factory


@pytest.mark.skipif(sys.version_info < (3, 14), reason="eager_start came with 3.14")
@REAL
def test_no_leaks_finds_tasks_started_eagerly(new_loop: Loops) -> None:
    """An eager factory set in the block, and `eager_start`, hide no task from it."""

    async def main(*, factory: bool) -> None:
        loop: Any = asyncio.get_running_loop()
        async with no_leaks():
            if factory:
                loop.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009 - absent on 3.11
                kept.append(loop.create_task(forever()))
            else:
                kept.append(loop.create_task(forever(), eager_start=True))

    kept: list[Any] = []
    for factory in (True, False):
        with asyncio.Runner(loop_factory=new_loop) as runner:  # noqa: SIM117 - its end is not expected to raise
            with pytest.raises(LeakError, match=r"1 x forever\n    made at tests.*py:\d+ in "):
                runner.run(main(factory=factory))


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
def test_exception_of_an_eager_task_has_the_name_of_its_coroutine() -> None:
    """Such a task has ended at once, and keeps no coroutine that could be asked."""

    async def fails_at_once() -> None:
        raise ValueError("at once")

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        loop.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009 - absent on 3.11
        async with no_leaks():
            loop.call_soon(loop.create_task, fails_at_once())

    with pytest.raises(LeakError, match=r"never retrieved: \S*fails_at_once\n"):
        asyncio.run(main())


def test_factory_accepts_what_later_pythons_pass(loop: VirtualLoop, ledger: Ledger) -> None:
    """Name, context and eager_start may be given, None meaning nothing."""
    factory: Any = loop.get_task_factory()
    task = factory(loop, forever(), name="mine", context=None, eager_start=None)

    assert task.get_name() == "mine"
    assert only(ledger.live()).task is task


def test_install_twice_is_refused(loop: VirtualLoop, ledger: Ledger) -> None:
    """One ledger serves one loop at a time."""
    with pytest.raises(RuntimeError, match="installed already"):
        ledger.install(loop)


def test_uninstall_below_another_factory_stops_counting(loop: VirtualLoop) -> None:
    """A factory put over that of the ledger stays, and the one below only makes the tasks."""
    ledger = Ledger()
    ledger.install(loop)
    ours: Any = loop.get_task_factory()
    loop.set_task_factory(functools.partial(ours))
    ledger.uninstall()
    spawn(loop, forever())

    assert (ledger.count, ledger.created) == (0, 0)


def test_live_is_in_creation_order_across_scopes(loop: VirtualLoop, ledger: Ledger) -> None:
    """Records come in the order of creation, whichever scope they belong to."""
    first, second = ledger.scope("first"), ledger.scope("second")
    for scope in (second, first, None, second):
        with scope or contextlib.nullcontext():
            spawn(loop, forever())

    records = ledger.live()
    assert [record.number for record in records] == [1, 2, 3, 4]
    assert [record.scope for record in records] == [second, first, None, second]
    assert [record.task for record in records] == ledger.tasks() == loop.live_tasks()
    assert ledger.scopes == [first, second]


def test_simulated_loop_holds_tasks_that_asyncio_forgets(loop: VirtualLoop, ledger: Ledger) -> None:
    """A simulated run does not depend on the moment of a collection."""
    spawn(loop, forever())
    loop.run_until_quiescent()
    gc.collect()

    assert ledger.count == 1


@pytest.fixture(params=REAL.args[1])
def real_loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that is not simulated."""
    with contextlib.closing(request.param()) as loop:
        yield loop


def settle(loop: asyncio.AbstractEventLoop) -> None:
    """Let the loop iterate."""
    for _ in range(3):
        loop.run_until_complete(asyncio.sleep(0))


@pytest.mark.usefixtures("no_chance")
@pytest.mark.parametrize("read", [True, False])
def test_task_that_nobody_holds_is_destroyed(
    real_loop: asyncio.AbstractEventLoop, *, read: bool
) -> None:
    """A collection destroys it, whether or not the ledger has counted it before."""
    with Ledger(KINDS).watching(real_loop) as ledger:
        scope = ledger.scope("one")
        with scope:
            spawn(real_loop, forever())
        settle(real_loop)
        assert not read or ledger.count == 1
        gc.collect()

        assert (ledger.count, scope.live, scope.created) == (0, 0, 1)
        (record,) = scope.everything()
        assert (record.kind, record.name) == ("destroyed", "forever")
        assert str(record.site).endswith(" in spawn")
        assert record.state() == "Task was destroyed but it is pending! in forever"
    assert not scope.clean


@pytest.mark.usefixtures("no_chance")
def test_task_that_waits_for_a_queue_is_destroyed(
    real_loop: asyncio.AbstractEventLoop,
) -> None:
    """A collection closes it, and `Queue.get` cancels its future then: that wakes no task."""

    async def take() -> None:
        await asyncio.Queue[None]().get()

    with Ledger(KINDS).watching(real_loop) as ledger:
        spawn(real_loop, take())
        settle(real_loop)
        gc.collect()
        settle(real_loop)

        (record,) = ledger.everything()
        assert record.kind == "destroyed"
        assert record.name.endswith("take")


def test_task_of_a_ledger_that_holds_is_not_destroyed(
    real_loop: asyncio.AbstractEventLoop,
) -> None:
    """It lives until its end, and no longer; whichever way it was made."""
    with Ledger(KINDS, hold=True).watching(real_loop) as ledger:
        scope = ledger.scope("one")
        with scope:
            spawn(real_loop, forever())
            assert not asyncio.Task(forever(), loop=real_loop).done()
        settle(real_loop)
        gc.collect()
        assert (ledger.count, scope.live) == (2, 2)

        tasks = [ref(task) for task in scope.tasks if task.cancel()]
        settle(real_loop)
        assert scope.clean
        gc.collect()
        assert [task() for task in tasks] == [None, None]


@pytest.mark.parametrize("fails", [True, False])
@pytest.mark.parametrize("cycle", [True, False])
def test_finished_task_is_freed_as_without_a_ledger(
    real_loop: asyncio.AbstractEventLoop, *, fails: bool, cycle: bool
) -> None:
    """With its result or exception, before anybody reads a count; a lost exception is charged."""

    class ResultError(Exception):
        pass

    async def work() -> Any:
        result = ResultError()
        freed.append(ref(result))
        if fails:
            raise result
        return result

    freed: list[ref[Any]] = []
    gc.collect()
    with Ledger(KINDS).watching(real_loop) as ledger, ledger.scope("one") as scope:
        task: Any = real_loop.create_task(work())
        own = [task]
        if cycle:
            own.append(own)
        settle(real_loop)
        gc.disable()
        del task, own
        # An exception and the frame that raised it are a cycle.
        kept = freed[0]() is not None
        gc.enable()
        assert kept is (fails or cycle)
        gc.collect()
        assert freed[0]() is None
        lost = [(each.kind, str(each.site).rpartition(".")[2]) for each in scope.everything()]
        name = "test_finished_task_is_freed_as_without_a_ledger"
        assert [(kind, site.rpartition(" ")[2]) for kind, site in lost] == (
            [("error", name)] if fails else []
        )


@pytest.mark.usefixtures("no_chance")
def test_entries_survive_a_collection_between_two_readings(
    real_loop: asyncio.AbstractEventLoop,
) -> None:
    """Destroyed tasks leave the count at the next reading, however they mix with ended ones."""
    with Ledger(KINDS).watching(real_loop) as ledger:
        held = []
        for number in range(30):
            task = real_loop.create_task(forever())
            if number % 3 == 0:
                held.append(task)
        settle(real_loop)
        assert ledger.count == 30
        del task
        gc.collect()
        assert ledger.tasks() == held
        assert (ledger.count, len(ledger.live())) == (10, 10)
        for task in held:
            task.cancel()
        settle(real_loop)
        assert ledger.count == 0
        assert sum(each.kind == "destroyed" for each in ledger.everything()) == 20


def test_scope_is_inherited_by_what_it_created(loop: VirtualLoop, ledger: Ledger) -> None:
    """A task of a task of the scope is the scope's; after their end it has none."""

    async def parent() -> None:
        await asyncio.create_task(asyncio.sleep(5))

    scope = ledger.scope("one")
    with scope:
        spawn(loop, parent())
    spawn(loop, forever())
    loop.run_until_quiescent()

    assert (scope.live, scope.created, ledger.count) == (2, 2, 3)
    assert [record.name.split(".")[-1] for record in ledger.live(scope)] == ["parent", "sleep"]

    loop.advance(5)
    assert (scope.live, scope.tasks, scope.created, ledger.count) == (0, [], 2, 1)


def test_concurrent_scopes_are_charged_apart(loop: VirtualLoop, ledger: Ledger) -> None:
    """With two connections open at once, only the one that leaks is charged."""

    async def connection(*, leaks: bool) -> None:
        if leaks:
            spawn(asyncio.get_running_loop(), forever())
        await asyncio.sleep(1)

    scopes = [ledger.scope("leaky"), ledger.scope("clean")]
    for scope in scopes:
        with scope:
            spawn(loop, connection(leaks=scope.name == "leaky"))
    loop.advance(1)

    assert [scope.live for scope in scopes] == [1, 0]
    assert ledger.scopes == [scopes[0]]


def test_scope_of_an_explicit_context_is_charged(loop: VirtualLoop, ledger: Ledger) -> None:
    """A task made with `context=` belongs to the scope of that context."""
    scope = ledger.scope("other")
    context = contextvars.copy_context()
    context.run(scope.enter)
    spawn(loop, forever(), context=context)

    assert (scope.live, ledger.count) == (1, 1)


def test_scope_of_another_ledger_is_not_charged(loop: VirtualLoop, ledger: Ledger) -> None:
    """Two ledgers on one loop keep apart: each charges its own scopes only."""
    with Ledger().watching(loop) as inner:
        scope = inner.scope("inner")
        with scope:
            spawn(loop, forever())

    assert (scope.live, inner.count, ledger.count) == (1, 1, 1)
    assert only(ledger.live()).scope is None


def test_scopes_that_ended_are_not_kept(loop: VirtualLoop, ledger: Ledger) -> None:
    """The ledger forgets a scope whose tasks have ended, unless the caller holds it."""
    scope = ledger.scope("short")
    with scope:
        spawn(loop, asyncio.sleep(0))
    watch = weakref.ref(scope)
    del scope
    assert [each.name for each in ledger.scopes] == ["short"]

    loop.run_until_quiescent()
    assert ledger.scopes == []
    assert watch() is None


class Chatty(asyncio.Protocol):
    """Starts a task when connected and another with the first bytes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the first."""
        self.transport = transport
        self.tasks = [asyncio.get_running_loop().create_task(forever())]

    def data_received(self, data: bytes) -> None:
        """Start the second."""
        assert data
        self.tasks.append(asyncio.get_running_loop().create_task(forever()))
        self.transport.close()


@REAL
def test_scoped_factory_gives_each_connection_a_scope(new_loop: Loops) -> None:
    """Tasks of any callback of a protocol are charged to its connection, accepting is not."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        factory = ledger.scoped_factory(Chatty, "c{}".format, made=scopes.append)
        server = await loop.create_server(factory, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        for _ in range(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"hello")
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
        server.close()
        assert [(scope.name, scope.live) for scope in scopes] == [("c1", 2), ("c2", 2)]
        assert {record.name for scope in scopes for record in ledger.live(scope)} == {"forever"}
        for scope in scopes:
            for task in scope.tasks:
                task.cancel()

    scopes: list[Scope] = []
    loop = new_loop()
    with contextlib.closing(loop), Ledger().watching(loop) as ledger:
        loop.run_until_complete(main())
        loop.run_until_complete(asyncio.sleep(0))
    assert [(scope.live, scope.created) for scope in scopes] == [(0, 2), (0, 2)]


@REAL
def test_scopes_of_connections_that_are_open_together(new_loop: Loops) -> None:
    """A callback charges its own connection, also where all of a server share one context."""

    class Patient(Chatty):
        transport: asyncio.Transport

        def data_received(self, data: bytes) -> None:
            self.tasks.append(asyncio.get_running_loop().create_task(forever()))
            self.transport.write(data)

        def eof_received(self) -> None:
            self.tasks.append(asyncio.get_running_loop().create_task(forever()))

        def connection_lost(self, exc: Exception | None) -> None:
            del exc
            self.tasks.append(asyncio.get_running_loop().create_task(forever()))
            weak.append(weakref.ref(self))
            tasks.extend(self.tasks)
            lost.set()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        factory = ledger.scoped_factory(Patient, "c{}".format, made=scopes.append)
        server = await loop.create_server(factory, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        pairs = await asyncio.gather(*(asyncio.open_connection(*address) for _ in range(3)))
        for reader, writer in pairs:
            writer.write(b"x")
            await reader.readexactly(1)
        counts.append([scope.live for scope in scopes])
        for _, writer in pairs:
            lost.clear()
            writer.close()
            await lost.wait()
            counts.append(sorted(scope.live for scope in scopes))
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        tasks.clear()

    # Compared at the end: a loop of uvloop's that is closed with open connections may hang.
    counts: list[list[int]] = []
    scopes: list[Scope] = []
    tasks: list[asyncio.Task[None]] = []
    weak: list[weakref.ref[Patient]] = []
    lost = asyncio.Event()
    loop = new_loop()
    with contextlib.closing(loop), Ledger().watching(loop) as ledger:
        loop.run_until_complete(main())
    gc.collect()
    assert counts == [[2, 2, 2], [2, 2, 4], [2, 4, 4], [4, 4, 4]]
    assert [each() for each in weak] == [None] * 3


def test_waiting_on_names_the_users_object(loop: VirtualLoop, ledger: Ledger) -> None:
    """The chain goes from outermost to innermost, and the object's own repr is shown."""

    async def outer() -> None:
        await Gate("server").wait()

    spawn(loop, outer())
    loop.run_until_quiescent()

    waiting = only(ledger.live()).waiting_on()
    functions = [line.split(" in ")[-1].split(".")[-1] for line in waiting.chain]
    assert functions == ["outer", "wait"]
    assert all(line.startswith("tests/harness/test_ledger.py:") for line in waiting.chain)
    assert str(waiting).startswith("waits in Gate.wait (tests/harness/test_ledger.py:")
    assert waiting.on == "<Gate 'server'>"


async def ticks() -> AsyncIterator[int]:
    """Yield once, then wait for nothing."""
    yield 1
    await forever()


async def read_ticks() -> None:
    """Follow `ticks`."""
    async for _ in ticks():
        pass


async def join(task: "asyncio.Task[None]") -> None:
    """Wait for another task."""
    await task


@pytest.mark.parametrize(
    ("coroutine", "last", "on"),
    [
        (forever, "forever", "<Future pending>"),
        (read_ticks, "forever", "<Future pending>"),
        (lambda: asyncio.Queue[int]().get(), "Queue.get", "<Queue maxsize=0 _getters[1]>"),
        (asyncio.Event().wait, "Event.wait", "<asyncio.locks.Event [unset, waiters:1]>"),
    ],
    ids=["future", "generator", "queue", "event"],
)
def test_waiting_on_is_deterministic_text(
    loop: VirtualLoop, ledger: Ledger, coroutine: Callable[[], Any], last: str, on: str
) -> None:
    """The awaited object is described without addresses, through asynchronous generators too."""
    spawn(loop, coroutine())
    loop.run_until_quiescent()

    waiting = only(ledger.live()).waiting_on()
    assert waiting.chain[-1].endswith(f" in {last}")
    assert waiting.on == on


def test_waiting_on_another_task_gives_its_name(loop: VirtualLoop, ledger: Ledger) -> None:
    """A task that waits for a task names it."""
    spawn(loop, join(loop.create_task(forever())))
    loop.run_until_quiescent()

    assert ledger.live()[1].waiting_on().on == "task forever"


def test_waiting_on_survives_a_broken_repr(loop: VirtualLoop, ledger: Ledger) -> None:
    """A __repr__ that raises does not take the report with it."""

    class Broken:
        def __repr__(self) -> str:
            raise ZeroDivisionError

        async def wait(self) -> None:
            await forever()

    async def hold(self: Broken) -> None:
        await asyncio.get_running_loop().create_future()
        del self

    spawn(loop, hold(Broken()))
    loop.run_until_quiescent()

    assert "Broken, unreadable (ZeroDivi" in only(ledger.live()).waiting_on().on


def test_waiting_on_a_task_that_can_run_or_has_ended(loop: VirtualLoop, ledger: Ledger) -> None:
    """Before its first step a task waits for nothing, and likewise at its end."""
    spawn(loop, asyncio.sleep(0))
    record = only(ledger.live())
    assert record.waiting_on().on == "nothing, it is ready to run"

    loop.run_until_quiescent()
    assert record.waiting_on().on == "nothing, it has ended"
    assert ledger.live() == []


def test_errors_hold_exceptions_never_retrieved(loop: VirtualLoop, ledger: Ledger) -> None:
    """An exception that nobody retrieved is collected, as deterministic text."""

    async def fail() -> None:
        raise ValueError("no such stream")

    spawn(loop, fail())
    loop.call_soon(operator.truediv, 1, 0)
    loop.run_until_quiescent()
    gc.collect()

    never, callback = sorted(ledger.errors, reverse=True)
    assert never.startswith("Task exception was never retrieved in test_errors_hold")
    assert never.endswith("fail: ValueError: no such stream")
    assert callback.startswith("Exception in callback")
    assert callback.endswith("ZeroDivisionError: division by zero")


def test_errors_are_passed_to_an_earlier_handler(loop: VirtualLoop) -> None:
    """A handler that was installed is called too, and put back afterwards."""
    seen: list[str] = []

    def handler(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        seen.append(context["message"])

    loop.set_exception_handler(handler)
    with Ledger().watching(loop) as ledger:
        loop.call_exception_handler({"message": "first"})
    loop.call_exception_handler({"message": "second"})

    assert (ledger.errors, seen) == (["first"], ["first", "second"])
    assert loop.get_exception_handler() is handler


def test_ledger_leaves_no_reference_cycle() -> None:
    """A sequence with a loop, a ledger and scopes is freed by reference counts alone."""

    def sequence() -> None:
        ledger = Ledger()
        with VirtualLoop() as loop, ledger.watching(loop):
            with ledger.scope("one"):
                spawn(loop, forever())
            loop.run_until_quiescent()
            loop.dispose()
        assert ledger.count == 0

    sequence()
    gc.collect()
    gc.disable()
    try:
        sequence()
        assert gc.collect() == 0
    finally:
        gc.enable()


class Uniterable(dict[Any, Any]):
    """A dict that may be asked for its length and its items, but not walked through."""

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("walked through")

    keys = values = items = __iter__  # type: ignore[assignment]


@pytest.mark.slow
def test_count_is_constant_time_with_many_alive(loop: VirtualLoop, ledger: Ledger) -> None:
    """With 100,000 alive, neither counting nor closing another scope goes through them."""
    with ledger.scope("leaky") as leaky:
        for _ in range(100_000):
            spawn(loop, forever())
    assert (ledger.count, leaky.live) == (100_000, 100_000)
    leaky.entries = Uniterable(leaky.entries)

    with ledger.scope("clean") as clean:
        spawn(loop, asyncio.sleep(0))
    loop.run_until_quiescent()
    assert (ledger.count, leaky.live, clean.live) == (100_000, 100_000, 0)
    assert clean.clean
    assert not leaky.clean
    assert ledger.live(clean) == []
    leaky.entries = dict(dict.items(leaky.entries))
