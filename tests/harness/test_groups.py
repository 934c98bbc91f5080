"""Task groups and cancel scopes around a check: ending a leak ends neither them nor the test."""

# The block that fails is what is tested:
# ruff: noqa: PT012

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

from loops import LOOPS, REAL
from muxleak import LeakError, no_leaks

if TYPE_CHECKING:
    import anyio
else:
    anyio = pytest.importorskip(
        "anyio", reason="needs anyio: pip install anyio (the extra `dev` has it)"
    )

Loops = Callable[[], asyncio.AbstractEventLoop]


async def forever() -> None:
    """Never end."""
    await asyncio.Event().wait()


async def fails() -> None:
    """Raise in the clean-up."""
    try:
        await forever()
    finally:
        raise ValueError("clean-up")


async def stubborn() -> None:
    """Swallow every cancellation."""
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await forever()


@contextlib.asynccontextmanager
async def anyios() -> AsyncIterator[Callable[..., Any]]:
    """A group of anyio's."""
    async with anyio.create_task_group() as group:
        yield group.start_soon


@contextlib.asynccontextmanager
async def asyncios() -> AsyncIterator[Callable[..., Any]]:
    """A group of asyncio's."""
    async with asyncio.TaskGroup() as group:
        yield lambda function: group.create_task(function())


GROUPS = pytest.mark.parametrize("group", [anyios, asyncios])
CHILDREN = pytest.mark.parametrize("child", [forever, fails, stubborn])


def run(main: Callable[[], Awaitable[Any]], new_loop: Loops = asyncio.SelectorEventLoop) -> Any:
    """Run a coroutine function on a new loop, for at most 20 s."""

    async def limited() -> Any:
        return await asyncio.wait_for(main(), 20)

    with contextlib.closing(new_loop()) as loop:
        return loop.run_until_complete(limited())


@REAL
@GROUPS
@CHILDREN
def test_group_around_a_block_goes_on(group: Any, child: Any, new_loop: Loops) -> None:
    """The leak is reported and ended; the group, its other children and its host go on."""

    async def main() -> list[str]:
        done: list[str] = []

        async def sibling() -> None:
            await go.wait()
            done.append("sibling")

        go = asyncio.Event()
        async with group() as start:
            start(sibling)
            with pytest.raises(LeakError, match="1 task leaked") as caught:
                async with no_leaks(budget=0.05):
                    start(child)
                    await asyncio.sleep(0)
            await asyncio.sleep(0.001)
            done.append("host")
            go.set()
        done.append("after")
        text = str(caught.value)
        assert (child is fails) == ("raised ValueError('clean-up') when it was ended" in text)
        return done

    assert run(main, new_loop) == ["host", "sibling", "after"]


@GROUPS
def test_group_around_a_repetition_goes_on(group: Any) -> None:
    """The same for growth."""

    async def main() -> bool:
        async with group() as start:

            async def connection() -> None:
                start(forever)

            with pytest.raises(LeakError, match="still growing after 6 repetitions"):
                await no_leaks(repeat=6, budget=0.05)(connection)()
            await asyncio.sleep(0.001)
        return True

    assert run(main)


@GROUPS
def test_group_shows_the_report_of_its_body(group: Any) -> None:
    """A report that nobody catches comes out of the group."""

    async def main() -> None:
        async with group() as start:
            async with no_leaks(budget=0.05):
                start(forever)
            raise AssertionError("never reached")

    with pytest.raises(ExceptionGroup) as caught:
        run(main)
    assert [type(each) for each in caught.value.exceptions] == [LeakError]


def limit_of_anyio() -> Any:
    """A scope that takes its cancellation for its own."""
    return anyio.move_on_after(0.01)


@LOOPS
@pytest.mark.parametrize("limit", [lambda: asyncio.timeout(0.01), limit_of_anyio])
@pytest.mark.parametrize("inside", [True, False], ids=["in the block", "in the examination"])
def test_report_is_not_swallowed_by_a_scope(new_loop: Loops, limit: Any, inside: str) -> None:
    """A scope that cancels the block, or its examination, lets the report pass."""

    async def main() -> None:
        scope = limit()
        async with contextlib.AsyncExitStack() as stack:
            if hasattr(scope, "__aenter__"):
                await stack.enter_async_context(scope)
            else:
                stack.enter_context(scope)
            async with no_leaks(budget=0.05):
                task = asyncio.create_task(stays())
                await asyncio.sleep(10 if inside else 0)
        assert task.cancelled()

    async def stays() -> None:
        for _ in range(10_000):
            await asyncio.sleep(0.004)  # so that the whole budget is waited

    with pytest.raises(LeakError, match="1 task leaked"):
        run(main, new_loop)


def test_cancellation_without_a_leak_passes() -> None:
    """A clean block in a cancelled scope changes nothing."""

    async def main() -> str:
        with anyio.move_on_after(0.01) as scope:
            async with no_leaks():
                await forever()
        assert scope.cancelled_caught
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01), no_leaks():
                await forever()
        task = asyncio.create_task(no_leaks(forever)())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return "done"

    assert run(main) == "done"


def test_report_of_a_cancelled_task_reaches_its_awaiter() -> None:
    """Whoever cancels a checked task and awaits it sees its leak."""

    @no_leaks(budget=0.05)
    async def connection() -> None:
        _ = asyncio.create_task(forever())  # noqa: RUF006 - the leak
        await forever()

    async def main() -> None:
        task = asyncio.create_task(connection())
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    with pytest.raises(LeakError, match="1 task leaked"):
        run(main)
