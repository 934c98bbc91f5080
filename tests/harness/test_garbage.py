"""Verdicts do not depend on the collector, and a clean block costs no collection."""

import asyncio
import contextlib
import gc
import itertools
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any

import pytest

from loops import REAL
from muxleak import LeakError, ignore_waiting_in, measure_growth, no_leaks
from muxleak.sim.virtual_loop import VirtualLoop

pytestmark = pytest.mark.usefixtures("small_heap", "no_chance")

Loops = Callable[[], asyncio.AbstractEventLoop]


@pytest.fixture(autouse=True)
def nothing_waited() -> Iterator[None]:
    """Forget what the programs of a test have noted."""
    yield
    WAITED.clear()


def run(main: Callable[[], Coroutine[Any, Any, Any]], new_loop: Loops) -> Any:
    """Run `main` on a fresh loop."""
    with contextlib.closing(new_loop()) as loop:
        # Messages are what is tested; the log does not need them.
        loop.set_exception_handler(lambda _loop, _context: None)
        return loop.run_until_complete(main())


WAITED: list[asyncio.Future[None]] = []  # holds futures, as a connection does


async def wait() -> None:
    """Wait for a future that is held."""
    WAITED.append(asyncio.get_running_loop().create_future())
    await WAITED[-1]


class Call:
    """Stands in a cycle, and cancels its task when it is collected."""

    def __init__(self) -> None:
        self.task = asyncio.ensure_future(wait())
        self.cycle = self

    def __del__(self) -> None:
        self.task.cancel()


class Chain:
    """Becomes garbage when its task is collected, and then cancels another task."""

    def __init__(self) -> None:
        call = Call()
        self.task = asyncio.ensure_future(self.hold(call))
        self.cycle = self

    @staticmethod
    async def hold(call: Call) -> None:
        """Keep a call in a cycle until the cancellation."""
        cycle: list[object] = [call]
        cycle.append(cycle)
        await wait()

    def __del__(self) -> None:
        self.task.cancel()


async def fail() -> None:
    """Fail in a task that stands in a cycle with its own traceback."""
    me = asyncio.current_task()
    await asyncio.sleep(0)
    raise ConnectionResetError(f"lost by {me is not None}")


async def failing() -> None:
    """Leave the exception of a task unretrieved, in a cycle."""
    await asyncio.wait([asyncio.create_task(fail())])  # does not retrieve it


@REAL
@pytest.mark.parametrize("collected", [False, True])
def test_object_in_a_cycle_ends_its_task_before_the_verdict(
    new_loop: Loops, *, collected: bool
) -> None:
    """A task that a finalizer cancels is no leak, whenever the collector runs."""

    async def main() -> None:
        async with no_leaks(budget=0.05):
            Call()
            if collected:
                gc.collect()

    run(main, new_loop)


def test_finalizers_that_leave_garbage_have_their_turn_too() -> None:
    """Garbage that only ending garbage leaves is collected as well."""

    @no_leaks(budget=0.05)
    async def main() -> None:
        Chain()

    run(main, asyncio.SelectorEventLoop)


class SlowHeap:
    """A heap in which each collection takes some time of its loops.

    Args:
        seconds: length of a collection.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self.spent = seconds, 0.0
        self._collect = gc.collect

    def collect(self, generation: int = 2) -> int:
        """Collect garbage, and let the time pass."""
        self.spent += self.seconds
        return self._collect(generation)

    def new_loop(self) -> asyncio.AbstractEventLoop:
        """Return a loop whose clock goes on during a collection."""
        heap = self

        class Loop(asyncio.SelectorEventLoop):
            def time(self) -> float:
                return super().time() + heap.spent

        return Loop()


@pytest.mark.parametrize("due", [0.0, 0.03, 0.06, 0.15])
@pytest.mark.parametrize("length", [0.0, 0.015, 0.04, 0.16, 5.0])
def test_object_that_becomes_garbage_within_the_budget_is_collected(
    due: float, length: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long a collection takes, which depends on the size of the heap."""
    heap = SlowHeap(length)
    monkeypatch.setattr(gc, "collect", heap.collect)

    async def main() -> None:
        held = [Call(), Call()]
        asyncio.get_running_loop().call_later(due, held.clear)
        async with no_leaks(budget=0.2):
            held.append(Call())
            await asyncio.sleep(0)

    run(main, heap.new_loop)


def test_task_has_its_budget_whatever_the_size_of_the_heap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The length of a collection does not count."""
    heap = SlowHeap(5)
    monkeypatch.setattr(gc, "collect", heap.collect)

    async def answers(answer: asyncio.Future[None]) -> None:
        # The future is set by a timer, and the next one is set only then.
        loop = asyncio.get_running_loop()
        for _ in range(2):
            loop.call_later(0.03, answer.set_result, None)
            await answer
            answer = loop.create_future()

    async def main() -> None:
        async with no_leaks(budget=0.2):
            task = asyncio.create_task(answers(asyncio.get_running_loop().create_future()))
        assert task.done()

    run(main, heap.new_loop)


@pytest.mark.parametrize("budget", [0.02, 0.2])
def test_leak_costs_one_collection(budget: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """If nothing can happen after it."""
    heap = SlowHeap(1)
    monkeypatch.setattr(gc, "collect", heap.collect)

    async def main() -> None:
        with pytest.raises(LeakError, match="1 task leaked"):
            async with no_leaks(budget=budget):
                task = asyncio.create_task(wait())
        assert task.cancelled()

    run(main, heap.new_loop)
    assert heap.spent == 1


@REAL
@pytest.mark.parametrize("collect_at", [(), (2,), (4, 5), (6,)])
def test_growth_does_not_depend_on_the_collector(
    new_loop: Loops, collect_at: tuple[int, ...]
) -> None:
    """Objects in cycles do not grow; a task that is left beside them does."""
    kept: list[asyncio.Task[Any]] = []

    async def main(*, leak: bool) -> tuple[int, ...]:
        number = 0

        async def operation() -> None:
            nonlocal number
            number += 1
            Call()
            if leak:
                kept.append(asyncio.create_task(asyncio.Event().wait()))
            if number in collect_at:
                gc.collect()

        found = await measure_growth(operation, budget=0.02)
        return found.growing[0].counts if found else ()

    assert run(lambda: main(leak=False), new_loop) == ()
    assert run(lambda: main(leak=True), new_loop)[-1] == 6


@REAL
@pytest.mark.parametrize("collected", [False, True])
def test_exception_of_a_task_in_a_cycle_is_found(new_loop: Loops, *, collected: bool) -> None:
    """It is reported by the block that made the task, with the line of the task."""

    async def main() -> None:
        async with no_leaks():
            await failing()
            if collected:
                gc.collect()

    with pytest.raises(LeakError, match="1 exception never retrieved leaked") as caught:
        run(main, new_loop)
    (group,) = caught.value.report.groups
    line = failing.__code__.co_firstlineno + 2
    assert group.site == f"tests/harness/test_garbage.py:{line} in failing"
    assert group.waits_on.endswith("fail: ConnectionResetError: lost by True")


@REAL
def test_exceptions_of_tasks_in_cycles_grow(new_loop: Loops) -> None:
    """One for each repetition is found, although nobody collects."""

    async def main() -> tuple[int, ...]:
        return (await measure_growth(failing, budget=0.05)).growing[0].counts

    assert run(main, new_loop)[-4:] == (3, 4, 5, 6)


def test_exception_in_a_cycle_is_found_in_a_function_that_runs_loops() -> None:
    """A function that is not async is checked before its loop ends, and after."""

    @no_leaks
    def function(*, runner: bool) -> None:
        if runner:
            asyncio.run(failing())
        else:
            with contextlib.closing(asyncio.new_event_loop()) as loop:
                loop.run_until_complete(failing())

    for runner in (True, False):
        with pytest.raises(LeakError, match="1 exception never retrieved"):
            function(runner=runner)


def test_exceptions_of_other_blocks_and_retrieved_ones_are_none() -> None:
    """A block is not charged with a failed task from before, nor with one that is retrieved."""

    async def main() -> None:
        await failing()
        async with no_leaks():
            with contextlib.suppress(ConnectionResetError):
                await asyncio.create_task(fail())
            task = asyncio.create_task(asyncio.Event().wait())
            asyncio.get_running_loop().call_later(0.03, task.cancel)

    run(main, asyncio.SelectorEventLoop)


def test_clean_block_collects_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither does one whose tasks end a little later, or whose failed task is retrieved."""
    heap = SlowHeap(1)

    async def main() -> None:
        async with no_leaks():
            asyncio.get_running_loop().call_later(0.002, int)
            task = asyncio.create_task(asyncio.sleep(0.005))
            with contextlib.suppress(ConnectionResetError):
                await asyncio.create_task(fail())
        assert task.done()

    monkeypatch.setattr(gc, "collect", heap.collect)
    run(main, VirtualLoop)  # in real time a busy machine can use up the wait before a collection
    assert not heap.spent


class Lost:
    """Its coroutine is a method, so that the task holds it; nothing holds the task."""

    def __init__(self, *, cancels: bool) -> None:
        self.cancels, self.cycle = cancels, self
        self.task = asyncio.ensure_future(self.work())

    async def work(self) -> None:
        """Wait for nothing."""
        await asyncio.Event().wait()

    def __del__(self) -> None:
        if self.cancels:
            self.task.cancel()


async def losing(
    *, cancels: bool, collected: bool, started: bool = True, **options: Any
) -> LeakError | None:
    """Return the verdict on a block that loses a task; before or after a collection."""
    try:
        async with no_leaks(budget=0.02, **options):
            Lost(cancels=cancels)
            for _ in range(started):
                await asyncio.sleep(0)
            if collected:
                gc.collect()
    except LeakError as error:
        return error
    return None


@REAL
@pytest.mark.parametrize("cancels", [False, True])
@pytest.mark.parametrize("kinds", [None, ["task"]])
def test_verdict_on_a_task_that_nothing_holds_is_the_same(
    new_loop: Loops, kinds: list[str] | None, *, cancels: bool
) -> None:
    """Whenever the collector runs; the report says where the task waited."""
    options = {"kinds": kinds} if kinds else {}
    verdicts = []
    for collected, started in itertools.product((False, True), repeat=2):
        main = partial(losing, cancels=cancels, collected=collected, started=started, **options)
        verdicts.append(run(main, new_loop))
    assert [error is None for error in verdicts] == [cancels] * 4
    line = Lost.__init__.__code__.co_firstlineno + 2
    for error in filter(None, verdicts):
        assert f"made at tests/harness/test_garbage.py:{line} in Lost.__init__" in str(error)
        assert "in Lost.work (tests/harness/test_garbage.py:" in str(error)


def test_task_that_nothing_holds_can_be_ignored() -> None:
    """By the function in which it waits, or waited."""
    ignore = ignore_waiting_in("Lost.work", reason="known")
    for collected in (False, True):
        main = losing(cancels=False, collected=collected, ignore=ignore)
        assert asyncio.run(main) is None
