"""What a simulation may vary and what not: never what asyncio documents, unless asked to."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from muxleak.search import find_leaks
from muxleak.sim import Choices, Network, current, simulate
from muxleak.sim.loop import ChoosingLoop, SimLoop
from muxleak.sim.settings import Settings

WHERE = ("127.0.0.1", 7000)


async def relies_on_fifo() -> None:
    """Assert every order that asyncio documents or that programs rely on."""
    loop = asyncio.get_running_loop()
    seen: list[str] = []
    for name in "abc":
        loop.call_soon(seen.append, name)

    async def step(name: str) -> None:
        seen.append(name)
        await asyncio.sleep(0)
        seen.append(name.upper())

    tasks = [asyncio.create_task(step(name)) for name in "def"]
    loop.call_soon(seen.append, "g")
    await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert "".join(seen) == "abcdefgDEF", seen
    queue: asyncio.Queue[int] = asyncio.Queue()
    takers = [asyncio.create_task(queue.get()) for _ in range(3)]
    await asyncio.sleep(0)
    for number in range(3):
        queue.put_nowait(number)
    assert await asyncio.gather(*takers) == [0, 1, 2]
    times: list[int] = []
    for number in (3, 1, 2):
        loop.call_later(number / 1000, times.append, number)
    await asyncio.sleep(0.01)
    assert times == [1, 2, 3]


async def relies_on_one_connection() -> None:
    """Assert that the bytes of one connection come in order and before its end."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.read() == b"0123456789" * 3
        writer.close()

    server = await asyncio.start_server(serve, *WHERE)
    _, writer = await asyncio.open_connection(*WHERE)
    for _ in range(3):
        writer.write(b"0123456789")
        await current().gap()
    writer.close()
    await writer.wait_closed()
    await current().settle()
    server.close()


class Steps(asyncio.Protocol):
    """Notes the first step of a task that it makes once it is connected, and the end of file."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def connection_made(self, transport: Any) -> None:
        """Start a task; close the sending side, as the other end does."""
        self.task = asyncio.create_task(self.step())
        transport.write_eof()

    async def step(self) -> None:
        """Note that it runs."""
        self.log.append("step")

    def eof_received(self) -> None:
        """Note the end of file."""
        self.log.append("end")


async def relies_on_the_first_step() -> None:
    """Assert that a task made by `connection_made` begins before anything is received."""
    loop = asyncio.get_running_loop()
    logs: list[list[str]] = [[], []]
    server = await loop.create_server(lambda: Steps(logs[0]), *WHERE)
    transport, _ = await loop.create_connection(lambda: Steps(logs[1]), *WHERE)
    await asyncio.sleep(1)
    transport.close()
    server.close()
    assert logs == [["step", "end"]] * 2, logs


@pytest.mark.parametrize(
    "program", [relies_on_fifo, relies_on_one_connection, relies_on_the_first_step]
)
def test_default_raises_no_false_alarm(program: Any) -> None:
    """A program that relies on what is documented passes, however the world behaves."""
    assert find_leaks(program, examples=150, network=Network(latency=(0, 0.1))) is None


@pytest.mark.slow
def test_default_raises_no_false_alarm_in_ten_thousand_runs() -> None:
    """The same at length."""
    assert find_leaks(relies_on_fifo, examples=10_000) is None


def test_wakeups_are_labelled_beyond_asyncio() -> None:
    """Permuted, the same program fails, and the finding says that it is beyond stock asyncio."""
    found = find_leaks(relies_on_fifo, wakeups=True)

    assert found is not None
    assert found.beyond
    assert "stock asyncio does not wake tasks in this order" in str(found)


def test_wakeups_permute_tasks_and_nothing_else() -> None:
    """Callbacks keep their order and each task its own steps; only tasks overtake each other."""
    orders: set[str] = set()

    async def program() -> None:
        loop = asyncio.get_running_loop()
        seen: list[str] = []

        async def steps(name: str) -> None:
            for number in range(3):
                seen.append(f"{name}{number}")
                await asyncio.sleep(0)

        tasks = []
        for name in "abc":
            loop.call_soon(seen.append, f"x{name}")
            tasks.append(asyncio.create_task(steps(name)))
        await asyncio.gather(*tasks)
        assert [each for each in seen if each[0] == "x"] == ["xa", "xb", "xc"]
        for name in "abc":
            assert [each for each in seen if each[0] == name] == [f"{name}{n}" for n in range(3)]
        orders.add("".join(each[0] for each in seen if each[0] != "x"))

    assert find_leaks(program, examples=200, wakeups=True) is None
    assert "abcabcabc" in orders
    assert len(orders) > 50


def test_task_callbacks_are_known_by_name() -> None:
    """The names by which a task's wake-ups are told from other callbacks hold on this Python."""
    seen: list[Sequence[Any]] = []

    class Spy(Choices):
        def _wake(self, tasks: Sequence[Any]) -> int:
            seen.append([task.get_coro().__name__ for task in tasks])
            return 0

    async def waiter(future: asyncio.Future[None]) -> None:
        await future

    async def program() -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        tasks = [asyncio.create_task(waiter(future)) for _ in range(2)]
        await asyncio.sleep(0)
        loop.call_soon(tasks[0].get_name)
        future.set_result(None)
        await asyncio.gather(*tasks)

    simulate(program, choices=Spy(), wakeups=True)

    assert seen[:2] == [["waiter", "waiter", "program"], ["waiter", "program"]]
    assert ["waiter", "waiter"] in seen


def test_timers_due_at_one_instant_are_free() -> None:
    """Only the order of timers due at the same time varies."""
    orders: set[str] = set()

    async def program() -> None:
        loop = asyncio.get_running_loop()
        seen: list[str] = []
        for name in "abc":
            loop.call_at(1.0, seen.append, name)
        loop.call_at(0.5, seen.append, "0")
        loop.call_at(1.5, seen.append, "9")
        await asyncio.sleep(2)
        assert (seen[0], seen[-1]) == ("0", "9")
        orders.add("".join(seen[1:-1]))

    assert find_leaks(program, examples=100) is None
    assert orders == {"abc", "acb", "bac", "bca", "cab", "cba"}


def test_arrivals_on_connections_are_free() -> None:
    """What waits on several connections may be seen in any order, and not all at once."""
    orders: set[str] = set()

    async def program() -> None:
        seen: list[str] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.append((await reader.read()).decode())
            writer.close()

        server = await asyncio.start_server(serve, *WHERE)
        writers = [(await asyncio.open_connection(*WHERE))[1] for _ in range(3)]
        for name, writer in zip("abc", writers, strict=True):
            writer.write(name.encode())
            writer.close()
        await current().settle()
        server.close()
        orders.add("".join(seen))

    assert simulate(program).value is None
    assert orders == {"abc"}
    assert find_leaks(program, examples=300) is None
    assert len(orders) == 6


@pytest.mark.parametrize("kind", [SimLoop, ChoosingLoop])
def test_loop_runs_forever_as_any_loop(kind: type[SimLoop]) -> None:
    """Driven by asyncio's own `run_until_complete`, it sees arrivals too."""

    async def program() -> bytes:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readexactly(2))
            writer.close()

        server = await asyncio.start_server(serve, *WHERE)
        reader, writer = await asyncio.open_connection(*WHERE)
        writer.write(b"ok")
        answer = await reader.read()
        writer.close()
        await asyncio.sleep(1)
        server.close()
        return answer

    loop = kind(Choices(), Settings(wakeups=True))
    assert loop.run_until_complete(program()) == b"ok"
    loop.dispose()


def test_cancellation_falls_at_every_await_of_what_is_declared() -> None:
    """A cancellable task is cancelled at each of its awaits in some run, others in none."""
    where: set[tuple[str, str]] = set()

    async def awaiting(name: str) -> None:
        place = "start"
        try:
            for place in ("one", "two", "three"):  # noqa: B007 - looked at below
                await asyncio.sleep(0.1)
            place = "end"
        except asyncio.CancelledError:
            where.add((name, place))

    async def worker() -> None:
        await awaiting("worker")

    async def other() -> None:
        await awaiting("other")

    async def program() -> None:
        jobs: list[Coroutine[Any, Any, None]] = [worker(), other()]
        await asyncio.gather(*jobs, return_exceptions=True)

    assert find_leaks(program, examples=300, cancel=("worker",)) is None
    assert where == {("worker", place) for place in ("one", "two", "three")}
    where.clear()
    assert find_leaks(program, examples=50) is None
    assert not where


def test_cancellation_can_meet_the_result() -> None:
    """A cancel may fall together with the wake-up that brings a result."""
    seen: set[str] = set()

    async def taker(future: asyncio.Future[str]) -> None:
        try:
            await future
        except asyncio.CancelledError:
            seen.add("lost" if future.done() and not future.cancelled() else "cancelled")
            raise
        seen.add("taken")

    async def program() -> None:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(taker(future))
        await current().settle()
        if not future.done():
            future.set_result("it")
        await asyncio.wait([task])

    find_leaks(program, examples=100, cancel=("taker",))

    assert seen == {"taken", "cancelled", "lost"}
