"""Timers are judged by one rule: by `no_leaks` on a real loop, and in the simulation."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any

import pytest

from muxleak import LeakError, no_leaks
from muxleak.sim import Network, check_connections, current, simulate

HOST = "127.0.0.1"
BUDGET = 0.02  # seconds, so that the real loop waits for no longer
Block = Callable[[], AbstractAsyncContextManager[object]]
Program = Callable[[Block], Coroutine[Any, Any, None]]


class KeepAlive(asyncio.Protocol):
    """Closes a connection that is idle for 5 s.

    Args:
        cancels: True if the timer ends with the connection, as it should.
    """

    def __init__(self, *, cancels: bool) -> None:
        self.cancels = cancels

    def connection_made(self, transport: Any) -> None:
        """Set the timer."""
        loop = asyncio.get_running_loop()
        self.timer = loop.call_later(5, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timer, or forget it."""
        del exc
        if self.cancels:
            self.timer.cancel()


async def visit(*, cancels: bool) -> None:
    """Connect to a server with a keep-alive timer, and leave."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: KeepAlive(cancels=cancels), HOST, 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.close()
    await writer.wait_closed()
    server.close()
    await asyncio.sleep(0.001)  # the server's end notices in the meantime


async def keep_alive_armed(block: Block) -> None:
    """The timer stays armed after its connection has gone."""
    async with block():
        await visit(cancels=False)


async def keep_alive_cancelled(block: Block) -> None:
    """The timer is cancelled with its connection."""
    async with block():
        await visit(cancels=True)


async def event_is_set_later(block: Block) -> None:
    """A timer on a public method of asyncio, set by the program."""
    async with block():
        asyncio.get_running_loop().call_later(5, asyncio.Event().set)


async def heartbeat(block: Block) -> None:
    """A timer that sets itself again."""

    def beat() -> None:
        asyncio.get_running_loop().call_later(3, beat)

    async with block():
        beat()


async def due_within_the_budget(block: Block) -> None:
    """A timer that fires soon, and is not set again."""
    async with block():
        asyncio.get_running_loop().call_later(BUDGET / 2, int)


async def wait_that_has_ended(block: Block) -> None:
    """Time limits of waits that ended before."""
    async with block():
        async with asyncio.timeout(5):
            await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.sleep(0), 5)
        await asyncio.wait([asyncio.ensure_future(asyncio.sleep(0))], timeout=5)


async def timer_of_a_living_task(block: Block) -> None:
    """A task from before the block goes on sleeping, and has a time limit."""

    async def lives() -> None:
        async with asyncio.timeout(60):
            await asyncio.sleep(30)

    task = asyncio.create_task(lives())
    await asyncio.sleep(0)
    async with block():
        await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def timer_of_a_living_service(block: Block) -> None:
    """An object from before the block has a timer, and cancels it in the end."""
    timer = asyncio.get_running_loop().call_later(5, int)
    async with block():
        await asyncio.sleep(0)
    timer.cancel()


async def task_that_sleeps(block: Block) -> None:
    """The timer of a leaked task's sleep is the task's."""
    async with block():
        _ = asyncio.get_running_loop().create_task(asyncio.sleep(5000))
        await asyncio.sleep(0)


LEAKS: dict[Program, set[str]] = {
    keep_alive_armed: {"timer"},
    event_is_set_later: {"timer"},
    heartbeat: {"timer"},
    task_that_sleeps: {"task"},
    keep_alive_cancelled: set(),
    due_within_the_budget: set(),
    wait_that_has_ended: set(),
    timer_of_a_living_task: set(),
    timer_of_a_living_service: set(),
}


class nothing:  # noqa: N801 - used like a function
    """A block that is not checked."""

    async def __aenter__(self) -> None:
        """Do nothing."""

    async def __aexit__(self, *_error: object) -> None:
        """Do nothing."""


def kinds(run: Callable[[], object]) -> set[str]:
    """Return the kinds of the leaks that a run reports."""
    try:
        run()
    except LeakError as error:
        return {group.kind for group in error.report.groups}
    return set()


@pytest.mark.parametrize("program", LEAKS, ids=lambda program: str(program.__name__))
def test_block_is_judged_alike_on_a_real_loop_and_in_the_simulation(program: Program) -> None:
    """`no_leaks` around a block, and `operation`."""

    def real() -> None:
        with asyncio.Runner() as runner:
            runner.run(program(lambda: no_leaks(budget=BUDGET)))

    def simulated() -> None:
        block: Block = lambda: current().operation("block")  # noqa: E731
        simulate(lambda: program(block), leaks=False, budget=BUDGET)

    assert kinds(real) == kinds(simulated) == LEAKS[program]


@pytest.mark.parametrize("program", LEAKS, ids=lambda program: str(program.__name__))
def test_program_is_judged_alike_on_a_real_loop_and_in_the_simulation(program: Program) -> None:
    """`no_leaks` on a whole program, and `simulate`, although that has a grace of 10 s."""

    def real() -> None:
        with asyncio.Runner() as runner:
            runner.run(no_leaks(budget=BUDGET)(program)(nothing))

    def simulated() -> None:
        simulate(lambda: program(nothing), budget=BUDGET)

    assert kinds(real) == kinds(simulated) == LEAKS[program]


def test_timer_counts_although_it_fires_within_the_grace() -> None:
    """The report says in how many seconds it is due; the run goes on to the end of the grace."""
    fired: list[float] = []

    async def program() -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(5, lambda: fired.append(loop.time()))

    with pytest.raises(LeakError, match="is due in 5 s"):
        simulate(program)
    assert fired == [5.0]
    simulate(program, budget=5.0)
    simulate(program, kinds={"task"})


def test_timer_is_waited_for_while_a_task_needs_the_grace() -> None:
    """A task that ends by itself may need its timers until then."""

    async def drain(done: asyncio.Event) -> None:
        await done.wait()

    async def program() -> None:
        done = asyncio.Event()
        loop = asyncio.get_running_loop()
        draining.append(loop.create_task(drain(done)))
        loop.call_later(4, done.set)

    draining: list[asyncio.Task[None]] = []
    simulate(program)


def test_short_heartbeat_is_found_when_its_second_timer_is_late() -> None:
    """Each of its timers is due within the budget, but the second not of the first moment."""

    async def program() -> None:
        loop = asyncio.get_running_loop()

        def beat() -> None:
            loop.call_later(0.3, beat)

        beat()

    with pytest.raises(LeakError, match="timer"):
        simulate(program)


@pytest.mark.parametrize("cancels", [True, False])
def test_timer_of_a_closed_connection_is_found_while_its_server_serves(
    cancels: bool,  # noqa: FBT001 - a parameter
) -> None:
    """`check_connections` looks at once, long before the timer fires."""

    async def program() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: KeepAlive(cancels=cancels), HOST, 80)
        _, writer = await asyncio.open_connection(HOST, 80)
        writer.close()
        await asyncio.sleep(60)
        server.close()

    simulate(program)
    found = kinds(lambda: simulate(program, check=check_connections))
    assert found == (set() if cancels else {"timer"})


def test_timer_is_judged_with_everything_under_way_arrived() -> None:
    """Latency holds the bytes that end a connection, and with it its timer."""

    async def program() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: KeepAlive(cancels=True), HOST, 80)
        _, writer = await asyncio.open_connection(HOST, 80)
        writer.close()
        server.close()

    simulate(program, network=Network(latency=(2.0, 2.0)))
