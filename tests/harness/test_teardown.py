"""Teardown: it ends leaks, gives up tasks that resist, and names the frame that swallowed."""

# The block that fails is what is tested:
# ruff: noqa: PT012

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any

import pytest

from loops import LOOPS
from muxleak import LeakError, no_leaks
from muxleak.checks.teardown import release
from muxleak.ledger.kinds import KINDS
from muxleak.ledger.ledger import Ledger

Loops = Callable[[], asyncio.AbstractEventLoop]


async def stubborn() -> None:
    """Go on whatever happens."""
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)


async def helped() -> None:
    """Go on because a helper swallows."""
    while True:
        await helper()


async def helper() -> None:
    """Swallow and return."""
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        return


async def once() -> None:
    """Swallow the first cancellation only."""
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(3600)
    await asyncio.sleep(3600)


async def tidy() -> None:
    """End when cancelled, after some cleaning."""
    try:
        await asyncio.sleep(3600)
    finally:
        await asyncio.sleep(0.001)


def released(new_loop: Loops, *functions: Any) -> tuple[list[str], list[bool]]:
    """Return the notes of `release`, and for each task if it is done."""

    async def main() -> tuple[list[str], list[bool]]:
        with Ledger(KINDS).watching(asyncio.get_running_loop()) as ledger:
            with ledger.scope("one") as scope:
                tasks = [asyncio.create_task(function()) for function in functions]
            await asyncio.sleep(0)
            notes = await release(scope.everything(), 0.05)
            assert scope.clean
            assert not set(tasks) & asyncio.all_tasks()
            return notes, [task.done() for task in tasks]

    with contextlib.closing(new_loop()) as loop:
        return loop.run_until_complete(main())


@LOOPS
def test_release_names_the_frame_that_swallowed(new_loop: Loops) -> None:
    """The function that caught the cancellation is named, even if it has returned since."""
    notes, done = released(new_loop, stubborn, helped, once)

    assert [note.split(" (")[0] for note in notes] == [
        "stubborn swallowed its cancellation in stubborn",
        "helped swallowed its cancellation in helper",
        "once swallowed its cancellation in once",
    ]
    ends = [note.rpartition("; ")[2] for note in notes]
    assert ends == ["it was given up", "it was given up", "it ended when cancelled again"]
    assert done == [False, False, True]


@LOOPS
def test_release_says_nothing_of_tasks_that_end(new_loop: Loops) -> None:
    """A task that ends when cancelled, even after cleaning up, gives no note."""
    assert released(new_loop, tidy, tidy) == ([], [True, True])


def test_release_counts_those_of_one_place() -> None:
    """Many tasks that swallow at one place take one line."""
    notes, _ = released(asyncio.SelectorEventLoop, *[stubborn] * 5)

    assert len(notes) == 1
    assert notes[0].startswith("5 x stubborn swallowed its cancellation in stubborn (tests/")


def test_release_puts_a_trace_function_back() -> None:
    """A debugger or coverage tool finds its own trace function again."""

    def trace(*_: object) -> None:
        return None

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        released(asyncio.SelectorEventLoop, stubborn)
        found = sys.gettrace()
    finally:
        sys.settrace(previous)
    assert found is trace


def test_release_keeps_to_its_budget() -> None:
    """A task that cleans up for ever costs two rounds, and is given up."""

    async def slow() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            for _ in range(1000):
                await asyncio.sleep(0.01)

    async def sulking() -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await slow()

    began = time.monotonic()
    notes, done = released(asyncio.SelectorEventLoop, sulking)
    assert time.monotonic() - began < 2
    assert done == [False]
    assert notes[0].endswith("it was given up")


SCRIPT = """
import asyncio
from muxleak import no_leaks

async def stubborn():
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

@no_leaks
async def main():
    tasks.append(asyncio.create_task(stubborn()))
    await asyncio.sleep(0)

tasks = []
asyncio.run(main())
"""


@pytest.mark.slow
def test_process_ends_and_reports_in_spite_of_a_stubborn_task() -> None:
    """asyncio.run does not wait for a task that was given up, and nothing else is printed."""
    done = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, "-W", "error", "-c", SCRIPT],
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )

    assert done.returncode == 1
    assert "LeakError: 1 task leaked" in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("  note: stubborn swallowed its cancellation in stubborn (<string>:")


def test_given_up_task_is_not_woken_later() -> None:
    """The future of a given-up task may complete without waking a closed coroutine."""

    async def waits(future: "asyncio.Future[None]") -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(future)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.set_exception_handler(lambda _loop, context: errors.append(context))
        with pytest.raises(LeakError):
            async with no_leaks(budget=0.05):
                tasks.append(asyncio.create_task(waits(future)))
                await asyncio.sleep(0)
        future.set_result(None)
        await asyncio.sleep(0.005)

    errors: list[object] = []
    tasks: list[asyncio.Task[None]] = []
    asyncio.run(main())
    assert errors == []


class Foreign:
    """An object to await that is no future of asyncio's, and that cannot be cancelled."""

    _asyncio_future_blocking = False

    def __await__(self) -> Generator[Any, Any, Any]:
        self._asyncio_future_blocking = True
        yield self

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the running loop."""
        return asyncio.get_running_loop()

    def add_done_callback(self, callback: object, **_settings: object) -> None:
        """Forget it: this is never done."""

    def cancel(self, *_message: object, **_settings: object) -> bool:
        """Refuse."""
        raise LookupError("not mine")


async def foreign() -> None:
    """Await what cannot be cancelled."""
    await Foreign()


class Refusing(asyncio.Future[None]):
    """A future that cannot be cancelled, and whose callbacks stay."""

    def cancel(self, msg: object = None) -> bool:
        """Refuse."""
        raise LookupError(msg)

    def remove_done_callback(self, callback: object, /) -> int:
        """Refuse."""
        raise LookupError(callback)


async def refusing() -> None:
    """Await another one."""
    await Refusing()


@LOOPS
def test_release_ends_every_task_although_one_cannot_be_cancelled(new_loop: Loops) -> None:
    """The others, before and after it, are cancelled; it is given up."""
    notes, done = released(new_loop, tidy, foreign, refusing, tidy, stubborn)

    assert notes[:2] == [
        "foreign could not be cancelled: LookupError('not mine'); it was given up",
        "refusing could not be cancelled: LookupError(None); it was given up",
    ]
    assert notes[2].startswith("stubborn swallowed its cancellation in stubborn")
    assert done == [True, False, False, True, False]


# Made in each test: an exception keeps the traceback of the test that raised it before.
EXITS = pytest.mark.parametrize(
    "make_exit",
    [lambda: SystemExit(7), KeyboardInterrupt],
    ids=["SystemExit(7)", "KeyboardInterrupt()"],
)
Exits = Callable[[], BaseException]


@LOOPS
@EXITS
def test_exit_of_a_leaked_task_is_stopped_and_named(new_loop: Loops, make_exit: Exits) -> None:
    """A task that raises `SystemExit` when it is cancelled ends neither the report nor the loop."""
    exit_ = make_exit()

    async def leaves() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            raise exit_ from None

    async def main() -> list[str]:
        with pytest.raises(LeakError, match="1 task leaked") as caught:
            async with no_leaks(budget=0.05):
                task = asyncio.create_task(leaves())
                await asyncio.sleep(0)
        assert task.done()
        assert "call_soon" not in vars(asyncio.get_running_loop())
        return list(caught.value.report.notes)

    with contextlib.closing(new_loop()) as loop:
        (note,) = loop.run_until_complete(main())
    name = f"{leaves.__qualname__} raised {exit_!r} in {leaves.__qualname__} (tests/"
    assert note.startswith(name)
    assert note.endswith(" when it was ended; it was stopped there")


@EXITS
def test_exit_of_a_leaked_generator_is_stopped_and_named(make_exit: Exits) -> None:
    """The same of an async generator that is closed."""
    exit_ = make_exit()

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            raise exit_

    async def main() -> list[str]:
        with pytest.raises(LeakError, match="1 async generator leaked") as caught:
            async with no_leaks(budget=0.05):
                generator = numbers()
                await anext(generator)
        return list(caught.value.report.notes)

    (note,) = asyncio.run(main())
    assert f"{numbers.__qualname__} raised {exit_!r} in " in note


def test_ctrl_c_during_the_teardown_passes() -> None:
    """An interrupt that a signal brings is the user's, whichever task it meets."""

    async def interrupted() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            signal.raise_signal(signal.SIGINT)

    async def main() -> None:
        async with no_leaks(budget=0.05):
            tasks.append(asyncio.create_task(interrupted()))
            await asyncio.sleep(0)

    tasks: list[asyncio.Task[None]] = []
    with contextlib.closing(asyncio.SelectorEventLoop()) as loop:
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(main())
        for task in asyncio.all_tasks(loop):
            task.cancel()
            loop.run_until_complete(asyncio.wait([task]))
            # Else it is reported at a collection, in the middle of whatever runs then.
            assert task.cancelled() or task.exception()
        assert isinstance(tasks[0].exception(), KeyboardInterrupt)


@LOOPS
def test_callback_that_schedules_itself_is_a_leak(new_loop: Loops) -> None:
    """A chain of `call_soon` is named with the line that schedules, and ended."""
    calls = 0

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def tick() -> None:
            nonlocal calls
            calls += 1
            loop.call_soon(tick)

        with pytest.raises(LeakError, match="1 timer leaked") as caught:
            async with no_leaks(budget=0.05):
                tick()
        (group,) = caught.value.report.groups
        line = tick.__code__.co_firstlineno + 3
        assert group.site == f"tests/harness/test_teardown.py:{line} in {tick.__qualname__}"
        assert group.waits_on == "is called in each iteration of the loop, by call_soon"
        before = calls
        for _ in range(3):
            await asyncio.sleep(0)
        assert calls == before
        assert "call_soon" not in vars(loop)

    with contextlib.closing(new_loop()) as loop:
        loop.run_until_complete(main())


@LOOPS
def test_callbacks_that_end_are_no_leak(new_loop: Loops) -> None:
    """A long chain that ends within the budget passes, and so do chains of others."""

    async def main() -> None:
        loop, left = asyncio.get_running_loop(), 200

        def tick() -> None:
            nonlocal left
            left -= 1
            if left:
                loop.call_soon(tick)

        def other() -> None:
            if not ended:
                loop.call_soon(other)

        ended = False
        other()
        async with no_leaks(budget=5):
            tick()
        assert left == 0
        ended = True

    with contextlib.closing(new_loop()) as loop:
        loop.run_until_complete(main())
