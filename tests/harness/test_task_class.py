"""Tasks made by ``asyncio.Task`` itself are counted too, by a class that stands in for it."""

import asyncio
import contextlib
import gc
import sys
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import Any
from weakref import ref

import pytest

from loops import LOOPS
from muxleak import LeakError, Ledger, no_leaks
from muxleak.ledger.counters import CURRENT, YOUNG

TASK = asyncio.Task
Loops = Callable[[], asyncio.AbstractEventLoop]


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    """Check that the real class is back after each test."""
    yield
    assert asyncio.Task is asyncio.tasks.Task is TASK


async def forever() -> None:
    """Wait for an event that is never set."""
    await asyncio.Event().wait()


def made(**settings: Any) -> "asyncio.Task[Any]":
    """Make a task without the factory of its loop."""
    return asyncio.Task(forever(), **settings)


@LOOPS
def test_direct_task_is_counted_where_it_was_made(new_loop: Loops) -> None:
    """The scope is that of the task that makes it, or of the context it is given."""

    async def main() -> None:
        with scope:
            first = made()
            inside = copy_context()
        second = made()
        third = made(context=inside, name="third")
        told = [
            (each.task, each.scope, each.site.frames[0].function.rpartition(".")[2])
            for each in ledger.live()
        ]
        assert told[-3:] == [(first, scope, "made"), (second, None, "made"), (third, scope, "made")]
        assert (scope.live, third.get_name()) == (2, "third")
        assert CURRENT.get() is None
        for each in (first, second, third):
            each.cancel()

    with contextlib.closing(new_loop()) as loop, Ledger().watching(loop) as ledger:
        scope = ledger.scope("one")
        loop.run_until_complete(main())
        loop.run_until_complete(asyncio.sleep(0))
        assert ledger.count == 0


def test_direct_task_is_seen_by_every_ledger_of_its_loop_alone() -> None:
    """One over the other; not by that of another loop."""

    async def main() -> None:
        made().cancel()

    outer, inner, other = Ledger(), Ledger(), Ledger()
    with asyncio.Runner() as runner, asyncio.Runner() as elsewhere:
        loop = runner.get_loop()
        with outer.watching(loop), inner.watching(loop), other.watching(elsewhere.get_loop()):
            runner.run(main())
    assert (outer.created, inner.created, other.created) == (2, 2, 0)


def test_task_of_a_factory_that_makes_it_so_is_counted_once() -> None:
    """With the line that asked for it, not the factory's own; set before the ledger, or after."""

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **settings: Any) -> Any:
        return asyncio.Task(coro, loop=loop, **settings)

    async def main() -> None:
        asyncio.create_task(forever()).cancel()
        told.append(ledger.live()[-1].site.frames[0].function.rpartition(".")[2])
        asyncio.get_running_loop().set_task_factory(factory)
        asyncio.create_task(forever()).cancel()
        told.append(ledger.live()[-1].site.frames[0].function.rpartition(".")[2])

    told: list[str] = []
    with asyncio.Runner() as runner:
        runner.get_loop().set_task_factory(factory)
        with Ledger().watching(runner.get_loop()) as ledger:
            runner.run(main())
    assert (ledger.created, told) == (3, ["main", "main"])


def test_direct_tasks_that_have_ended_are_not_kept() -> None:
    """Without any reading and any other task, the ledger keeps none, and counts them all."""

    async def main() -> None:
        for _ in range(3 * YOUNG):
            task = made()
            task.cancel()
            await asyncio.sleep(0)
            weak.append(ref(task))
        del task
        assert not any(each() for each in weak)

    weak: list[ref[asyncio.Task[Any]]] = []
    with asyncio.Runner() as runner, Ledger().watching(runner.get_loop()) as ledger:
        runner.run(main())
    gc.collect()
    assert ledger.created == 3 * YOUNG + 1


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
@pytest.mark.asyncio
async def test_direct_task_that_starts_at_once_is_counted() -> None:
    """As aiohttp makes the task of each connection, from 3.12 on."""
    with Ledger().watching(asyncio.get_running_loop()) as ledger:
        task = made(loop=asyncio.get_running_loop(), eager_start=True)
        assert ledger.tasks() == [task]
        task.cancel()


@pytest.mark.asyncio
async def test_direct_task_that_stays_is_a_leak() -> None:
    """One that stays is reported with its line; one that ends is not."""
    left: list[Any] = []
    with pytest.raises(LeakError, match=r"made at .*test_task_class\.py:\d+ in made"):
        async with no_leaks():
            left.append(made())
    async with no_leaks():
        made().cancel()


def test_class_that_stands_in_behaves_as_the_real_one() -> None:
    """Tasks from before and after are instances; types, subclasses and annotations work."""

    async def main() -> None:
        before = asyncio.current_task()
        with Ledger().watching(asyncio.get_running_loop()) as ledger:

            class Named(asyncio.Task):  # type: ignore[type-arg]
                """As a program may have one."""

            mine, plain = Named(forever()), made()
            assert ledger.tasks() == [mine, plain]
            assert (type(plain), type(mine)) == (TASK, Named)
            assert all(isinstance(each, asyncio.Task) for each in (before, mine, plain))
            assert not isinstance(plain, Named)
            assert not isinstance(asyncio.Future(), asyncio.Task)
            assert issubclass(TASK, asyncio.Task)
            assert issubclass(asyncio.Task, TASK)
            assert not issubclass(TASK, Named)
            assert not issubclass(asyncio.Future, asyncio.Task)
            assert repr(asyncio.Task) == repr(TASK)
            assert str(asyncio.Task[int] | None).endswith("Task[int] | None")
            mine.cancel()
            plain.cancel()
        assert isinstance(mine, asyncio.Task)

    asyncio.run(main())


@pytest.mark.parametrize("first", [0, 1])
def test_ledgers_come_apart_in_any_order(first: int) -> None:
    """The last one puts the class back, unless somebody else has put theirs there."""
    ledgers = [Ledger(), Ledger()]
    with asyncio.Runner() as one, asyncio.Runner() as two:
        for ledger, runner in zip(ledgers, (one, two), strict=True):
            ledger.install(runner.get_loop())
        ledgers[first].uninstall()
        assert asyncio.Task is not TASK
        ledgers[1 - first].uninstall()
        ledgers[first].uninstall()
        assert asyncio.Task is TASK


@contextlib.contextmanager
def python_classes() -> Iterator[None]:
    """Put asyncio's classes in Python in place, as nest_asyncio does while a program runs."""
    places = [
        (module, name)
        for name, home in (("Task", asyncio.tasks), ("Future", asyncio.futures))
        for module in (asyncio, home)
    ]
    before = [(TASK, asyncio.Future)[name == "Future"] for _, name in places]
    for module, name in places:
        setattr(module, name, getattr(vars(asyncio)[f"{name.lower()}s"], f"_Py{name}"))
    try:
        yield
    finally:
        for (module, name), value in zip(places, before, strict=True):
            setattr(module, name, value)


@LOOPS
@pytest.mark.parametrize("early", [False, True])
def test_tasks_of_both_implementations_are_named(new_loop: Loops, *, early: bool) -> None:
    """Whether they are in place before a check begins or while it runs."""
    tasks: list[asyncio.Task[None]] = []

    async def main(stack: contextlib.ExitStack) -> None:
        async with no_leaks(kinds=["task"], budget=0.02):
            tasks.append(asyncio.create_task(forever()))
            if not early:
                stack.enter_context(python_classes())
            tasks.append(asyncio.create_task(forever()))
            await asyncio.sleep(0)

    with contextlib.ExitStack() as stack, contextlib.closing(new_loop()) as loop:
        if early:
            stack.enter_context(python_classes())
        with pytest.raises(LeakError, match="2 tasks leaked") as caught:
            loop.run_until_complete(main(stack))
    groups = caught.value.report.groups
    assert {each.name for each in groups} == {"forever"}
    assert all(each.waits_on.startswith("forever (tests/harness/") for each in groups)
    assert all(each.done() for each in tasks)
    assert type(tasks[1]) is asyncio.tasks._PyTask  # type: ignore[attr-defined]


def test_class_that_somebody_else_has_put_there_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the ledger, or over it."""

    class Theirs(TASK):  # type: ignore[type-arg]
        """Of another tool."""

    with asyncio.Runner() as runner, monkeypatch.context() as patch:
        patch.setattr(asyncio, "Task", Theirs)
        patch.setattr(asyncio.tasks, "Task", TASK)
        with Ledger().watching(runner.get_loop()):
            assert asyncio.Task is Theirs
            asyncio.tasks.Task = Theirs  # type: ignore[misc]
        assert asyncio.Task is asyncio.tasks.Task is Theirs
