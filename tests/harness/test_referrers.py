"""Referrers: roots that could still wake a task, and objects that a single slot holds."""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from loops import LOOPS as ALL
from loops import REAL as LOOPS
from muxleak.checks.settle import settle
from muxleak.introspect.referrers import held_by_slot, who_can_wake
from muxleak.sim.memory_transport import memory_pair
from muxleak.sim.virtual_loop import VirtualLoop
from seconds import rounded

Loops = Callable[[], asyncio.AbstractEventLoop]

EVENTS: list[asyncio.Event] = []
slot: Any = None


class Holder:
    """Holds one thing."""

    def __init__(self, thing: Any) -> None:
        self.thing = thing


class Slotted:
    """Holds one thing, without a dict."""

    __slots__ = ("thing",)
    shared: Any = None

    def __init__(self, thing: Any) -> None:
        self.thing = thing


async def wait(event: Any) -> None:
    """Wait for an event."""
    await event.wait()


def verdict(
    coroutine: Callable[[], Awaitable[Any]],
    new_loop: Loops = asyncio.SelectorEventLoop,
    ready: Callable[[], bool] = lambda: True,
) -> str:
    """Return the verdict on a task that blocks, once `ready` is true and the loop is quiescent."""

    async def main() -> str:
        task = asyncio.ensure_future(coroutine())
        assert await settle(until=ready)
        await asyncio.sleep(0.005)
        found = who_can_wake(task)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return found

    with contextlib.closing(new_loop()) as loop:
        return loop.run_until_complete(main())


@ALL
def test_wake_is_impossible_when_only_the_task_holds_it(new_loop: Loops) -> None:
    """Nobody can set an event, a queue or a future that is in the task's own frame only."""
    assert verdict(lambda: wait(asyncio.Event()), new_loop) == "nothing alive can wake it"
    assert verdict(lambda: asyncio.Queue[int]().get(), new_loop) == "nothing alive can wake it"
    own = verdict(lambda: asyncio.Semaphore(0).acquire(), new_loop)
    assert own == "nothing alive can wake it"


def test_wake_is_possible_through_a_module() -> None:
    """An event that a module holds, however deep, can still be set."""
    EVENTS.append(asyncio.Event())
    try:
        assert verdict(lambda: wait(EVENTS[0])) == (f"could still be woken by {__name__}.EVENTS")
    finally:
        EVENTS.clear()


def test_wake_is_possible_from_a_running_function() -> None:
    """A local variable of a function under way can still be set, and is named."""

    def outer() -> str:
        event = asyncio.Event()
        found = verdict(lambda: wait(event))
        assert not event.is_set()
        return found

    assert outer().startswith("could still be woken by event in ")


@ALL
def test_wake_by_a_timer(new_loop: Loops) -> None:
    """A sleep ends by its timer."""
    found = rounded(verdict(lambda: asyncio.sleep(60), new_loop))
    assert found == "its timer fires in 60 s; budget= decides"


@ALL
def test_wake_through_other_tasks(new_loop: Loops) -> None:
    """Waiting for a task is waiting for whoever can wake that one."""

    async def joined(inner: Callable[[], Awaitable[Any]]) -> None:
        await asyncio.ensure_future(inner())

    never = verdict(lambda: joined(lambda: wait(asyncio.Event())), new_loop)
    sometime = rounded(verdict(lambda: joined(lambda: asyncio.sleep(60)), new_loop))
    assert never == "nothing alive can wake it"
    assert sometime == (
        "could still be woken by task sleep, whose timer fires in 60 s; budget= decides"
    )


def test_wake_of_two_that_wait_for_each_other() -> None:
    """Two blocked tasks that hold each other's event are not alive."""

    async def main() -> None:
        one, two = asyncio.Event(), asyncio.Event()

        async def pair(own: asyncio.Event, other: asyncio.Event) -> None:
            await own.wait()
            other.set()

        tasks = [asyncio.create_task(pair(one, two)), asyncio.create_task(pair(two, one))]
        del one, two
        await asyncio.sleep(0)
        assert [who_can_wake(task) for task in tasks] == ["nothing alive can wake it"] * 2
        for task in tasks:
            task.cancel()

    asyncio.run(main())


@LOOPS
def test_wake_by_a_transport(new_loop: Loops) -> None:
    """An open connection may bring bytes."""

    async def read() -> None:
        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            reading.append(None)
            await reader.read(1)
        finally:
            for each in (writer, *accepted):
                each.close()
            server.close()
            await asyncio.sleep(0.01)

    async def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(writer)

    accepted: list[asyncio.StreamWriter] = []
    reading: list[None] = []
    found = verdict(read, new_loop, lambda: bool(reading and accepted))
    assert found.startswith("could still be woken by ")
    assert "Transport to ('127.0.0.1'," in found


def test_wake_by_a_transport_in_memory() -> None:
    """An open connection of a virtual loop may bring bytes."""

    async def read() -> None:
        loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
        ends.extend(memory_pair(loop, asyncio.StreamReaderProtocol(reader), asyncio.Protocol()))
        await reader.read(1)

    ends: list[asyncio.Transport] = []
    found = verdict(read, VirtualLoop)
    assert found.startswith("could still be woken by an open MemoryTransport to ")


@LOOPS
def test_wake_by_a_job(new_loop: Loops) -> None:
    """A thread may bring a result."""

    async def job() -> None:
        go = threading.Event()
        try:
            await asyncio.to_thread(go.wait)
        finally:
            go.set()
            await asyncio.get_running_loop().shutdown_default_executor()

    found = verdict(job, new_loop)
    assert found == "could still be woken by an executor job"


def test_wake_of_a_task_that_can_run() -> None:
    """A task that is ready waits for nobody."""

    async def main() -> None:
        task = asyncio.create_task(asyncio.sleep(0))
        assert who_can_wake(task) == "it is ready to run"
        await task

    asyncio.run(main())


def test_slot_is_a_name_or_attribute_for_one() -> None:
    """A module's name, an attribute, a class's attribute; never a container."""
    global slot  # noqa: PLW0603 - that is what is tested
    thing = Holder(None)
    assert held_by_slot(thing) is None
    for holder in (thing, Holder(thing), Slotted(thing), Holder(Slotted(thing))):
        slot = holder
        assert str(held_by_slot(thing)).startswith(f"{__name__}.slot")
    for container in ([thing], {1: thing}, deque([thing]), (thing,), Holder([thing])):
        slot = container
        assert held_by_slot(thing) is None
    slot = None
    Slotted.shared = thing
    assert str(held_by_slot(thing)).endswith("Slotted.shared")
    Slotted.shared = None
