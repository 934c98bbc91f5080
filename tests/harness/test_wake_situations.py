"""Who can wake a task: situations whose true answer is known by the way they are built.

Each situation is a coroutine function that blocks. It runs as a task of its own, so that only the
task's frame holds what is local to it; what it opens it closes when it is cancelled.
"""

# The name of a situation describes it:
# ruff: noqa: D103

import asyncio
import concurrent.futures
import contextlib
import contextvars
import ctypes
import functools
import gc
import importlib.util
import itertools
import math
import os
import re
import signal
import socket
import sys
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from loops import REAL
from muxleak.checks.settle import settle
from muxleak.introspect.referrers import who_can_wake
from seconds import rounded

if TYPE_CHECKING or importlib.util.find_spec("anyio"):
    import anyio

Situation = Callable[[], Awaitable[Any]]

DEAD = "nothing alive can wake it"
HERE = re.escape(__name__)
VARIABLE: contextvars.ContextVar[Any] = contextvars.ContextVar("variable")
HELD: list[Any] = []
TABLE: dict[str, Any] = {}
WEAK: list[Any] = []
SITUATIONS: list[Any] = []


def situation(expected: str) -> Callable[[Situation], Situation]:
    """Add a situation to the table, with a pattern for its true answer."""

    def add(function: Situation) -> Situation:
        SITUATIONS.append(pytest.param(function, expected, id=function.__name__))
        return function

    return add


def alive(by: str) -> str:
    """Return the pattern of an answer that names who can wake it."""
    return f"could still be woken by {by}"


def fires(own: str) -> str:
    """Return the pattern of the answer for a timer of its own; 20 stands for 5 (see `rounded`)."""
    return f"its timer fires in {own} s; budget= decides"


class Box:
    """Holds a thing."""

    def __init__(self, thing: Any = None) -> None:
        self.thing = thing
        self.other: Any = None

    def ring(self) -> None:
        """Wake whoever waits."""
        self.thing.set()

    def sweep(self) -> None:
        """Cancel what is held."""


class Kept:
    """Holds a thing in its class."""

    thing: Any = None


async def dead() -> None:
    """Wait for an event that nobody else has."""
    await asyncio.Event().wait()


# Nothing alive.


@situation(DEAD)
async def own_event() -> None:
    await dead()


@situation(DEAD)
async def own_queue() -> None:
    await asyncio.Queue[int]().get()


@situation(DEAD)
async def own_full_queue() -> None:
    queue = asyncio.Queue[int](1)
    await queue.put(1)
    await queue.put(2)


@situation(DEAD)
async def own_semaphore() -> None:
    await asyncio.Semaphore(0).acquire()


@situation(DEAD)
async def own_lock_twice() -> None:
    lock = asyncio.Lock()
    async with lock:
        await lock.acquire()


@situation(DEAD)
async def own_condition() -> None:
    condition = asyncio.Condition()
    async with condition:
        await condition.wait()


@situation(DEAD)
async def own_barrier() -> None:
    await asyncio.Barrier(2).wait()


@situation(DEAD)
async def own_future() -> None:
    await asyncio.get_running_loop().create_future()


@situation(DEAD)
async def own_anyio_event() -> None:
    await anyio.Event().wait()


@situation(DEAD)
async def cycle_of_objects() -> None:
    one, other = Box(asyncio.Event()), Box()
    one.other, other.other = other, one
    await one.thing.wait()


@situation(DEAD)
async def two_that_wait_for_each_other() -> None:
    mine, its = asyncio.Event(), asyncio.Event()

    async def second() -> None:
        await its.wait()
        mine.set()

    task = asyncio.create_task(second())
    try:
        await mine.wait()
        its.set()
    finally:
        task.cancel()


@situation(DEAD)
async def consumer_of_a_blocked_producer() -> None:
    queue = asyncio.Queue[int]()

    async def produce() -> None:
        await dead()
        queue.put_nowait(1)

    task = asyncio.create_task(produce())
    try:
        await queue.get()
    finally:
        task.cancel()


@situation(DEAD)
async def child_that_is_dead() -> None:
    await asyncio.create_task(dead())


@situation(DEAD)
async def gather_of_the_dead() -> None:
    await asyncio.gather(dead(), dead())


@situation(DEAD)
async def wait_for_the_dead() -> None:
    task = asyncio.create_task(dead())
    try:
        await asyncio.wait([task])
    finally:
        task.cancel()


@situation(DEAD)
async def shield_of_the_dead() -> None:
    task = asyncio.create_task(dead())
    try:
        await asyncio.shield(task)
    finally:
        task.cancel()


@situation(DEAD)
async def group_of_the_dead() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(dead())


@situation(DEAD)
async def anyio_group_of_the_dead() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(dead)


@situation(DEAD)
async def own_context_variable() -> None:
    VARIABLE.set(asyncio.Event())
    await VARIABLE.get().wait()


@situation(DEAD)
async def cancelled_timer() -> None:
    event = asyncio.Event()
    handle = asyncio.get_running_loop().call_later(60, event.set)
    handle.cancel()
    await event.wait()
    del handle


@situation(DEAD)
async def timer_that_has_fired() -> None:
    event = asyncio.Event()
    handle = asyncio.get_running_loop().call_later(0, bool, event)
    await event.wait()
    del handle


@situation(f"({DEAD}|{fires('[0-9]{7,}')})")  # uvloop's infinity is a time of years
async def sleeps_for_ever() -> None:
    await asyncio.sleep(math.inf)


@situation(DEAD)
async def thread_that_has_ended() -> None:
    event = asyncio.Event()
    thread = threading.Thread(target=bool, args=(event,))
    thread.start()
    thread.join()
    await event.wait()


@situation(DEAD)
async def job_that_nobody_runs() -> None:
    await asyncio.wrap_future(concurrent.futures.Future[None]())


@situation(DEAD)
async def own_generator() -> None:
    event = asyncio.Event()

    async def items() -> AsyncIterator[int]:
        await event.wait()
        yield 1

    async for _ in items():
        pass


@situation(DEAD)
async def result_of_a_finished_task() -> None:
    async def make() -> asyncio.Event:
        return asyncio.Event()

    task = asyncio.create_task(make())
    await (await task).wait()


# Timers.


@situation(fires("60"))
async def sleeps() -> None:
    await asyncio.sleep(60)


@situation(fires("20"))
async def wait_for_with_timeout() -> None:
    await asyncio.wait_for(asyncio.Event().wait(), 5)


@situation(fires("20"))
async def in_a_timeout() -> None:
    async with asyncio.timeout(5):
        await dead()


@situation(fires("20"))
async def in_the_nearer_of_two_timeouts() -> None:
    async with asyncio.timeout(60), asyncio.timeout(5):
        await dead()


@situation(fires("20"))
async def wait_with_timeout() -> None:
    task = asyncio.create_task(dead())
    try:
        await asyncio.wait([task], timeout=5)
    finally:
        task.cancel()


@situation(fires("20"))
async def in_anyios_scope() -> None:
    with anyio.move_on_after(5):
        await dead()


@situation(fires("60"))
async def cancelled_by_a_timer() -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().call_later(60, task.cancel)
    await dead()


@situation(alive("a timer of Event.set in 60 s; budget= decides"))
async def timer_that_sets_the_event() -> None:
    event = asyncio.Event()
    asyncio.get_running_loop().call_later(60, event.set)
    await event.wait()


@situation(alive("a timer of Event.set in 60 s; budget= decides"))
async def timer_with_a_partial() -> None:
    event = asyncio.Event()
    asyncio.get_running_loop().call_later(60, functools.partial(event.set))
    await event.wait()


@situation(alive("a timer of Box.ring in 60 s; budget= decides"))
async def timer_of_an_object() -> None:
    box = Box(asyncio.Event())
    asyncio.get_running_loop().call_later(60, box.ring)
    await box.thing.wait()


@situation(alive("a timer of Box.sweep in 60 s; budget= decides"))
async def timer_of_an_object_that_holds_the_task() -> None:
    asyncio.get_running_loop().call_later(60, Box({asyncio.current_task()}).sweep)
    await dead()


SLEEPER = alive("task sleep, whose timer fires in 60 s; budget= decides")


@situation(SLEEPER)
async def child_that_sleeps() -> None:
    await asyncio.create_task(asyncio.sleep(60))


@situation(SLEEPER)
async def gather_of_a_sleeper() -> None:
    await asyncio.gather(dead(), asyncio.sleep(60))


@situation(SLEEPER)
async def wait_for_a_sleeper() -> None:
    task = asyncio.create_task(asyncio.sleep(60))
    try:
        await asyncio.wait([task])
    finally:
        task.cancel()


@situation(SLEEPER)
async def shield_of_a_sleeper() -> None:
    task = asyncio.create_task(asyncio.sleep(60))
    try:
        await asyncio.shield(task)
    finally:
        task.cancel()


@situation(SLEEPER)
async def group_of_a_sleeper() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(60))


@situation(SLEEPER)
async def as_completed_of_a_sleeper() -> None:
    task = asyncio.create_task(asyncio.sleep(60))
    try:
        for each in asyncio.as_completed([task]):
            await each
    finally:
        task.cancel()


@situation(alive(".*task .*produce, whose timer fires in 60 s; budget= decides"))
async def queue_of_another_task() -> None:
    queue = asyncio.Queue[int]()

    async def produce() -> None:
        await asyncio.sleep(60)
        queue.put_nowait(1)

    task = asyncio.create_task(produce())
    try:
        await queue.get()
    finally:
        task.cancel()


# Other things that are alive.


@situation(alive(f"{HERE}.HELD"))
async def list_of_a_module() -> None:
    HELD.append(asyncio.Event())
    await HELD[0].wait()


@situation(alive(f"{HERE}.TABLE"))
async def deep_in_a_module() -> None:
    TABLE["a"] = [Box((Box(asyncio.Event()),))]
    await TABLE["a"][0].thing[0].thing.wait()


@situation(alive(f"{HERE}.WEAK"))
async def weak_reference_of_a_module() -> None:
    event = asyncio.Event()
    WEAK.append(weakref.ref(event))
    await event.wait()


@situation(alive(f"({HERE}.Kept|class Kept)"))
async def attribute_of_a_class() -> None:
    Kept.thing = asyncio.Event()
    await Kept.thing.wait()


@situation(alive(f"{HERE}.HELD"))
async def closure_of_a_module() -> None:
    event = asyncio.Event()

    def ring() -> None:
        event.set()

    HELD.append(ring)
    await event.wait()


@situation(alive(f"{HERE}.HELD"))
async def objects_of_c_in_a_module() -> None:
    event = asyncio.Event()
    HELD.append(functools.partial(next, itertools.cycle(deque([event]))))
    await event.wait()


@situation(alive("(class finalize|weakref.finalize.*)"))
async def finalizer_of_an_object() -> None:
    event = asyncio.Event()
    box = Box()
    weakref.finalize(box, event.set).atexit = False
    await event.wait()


@situation(alive("the handler of SIGUSR1"))
async def signal_handler() -> None:
    event = asyncio.Event()
    previous = signal.signal(signal.SIGUSR1, lambda *_: event.set())
    try:
        await event.wait()
    finally:
        signal.signal(signal.SIGUSR1, previous)


@situation(alive("(the handler of SIGUSR2|a callback of the loop|code in C.*)"))
async def signal_handler_of_the_loop() -> None:
    event, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR2, event.set)
    try:
        await event.wait()
    finally:
        loop.remove_signal_handler(signal.SIGUSR2)


@situation(alive("an executor job"))
async def executor_job() -> None:
    go = threading.Event()
    try:
        await asyncio.to_thread(go.wait)
    finally:
        go.set()
        await asyncio.get_running_loop().shutdown_default_executor()


@situation(alive("(thread waker|event in .*)"))
async def thread_that_runs() -> None:
    event, go, loop = asyncio.Event(), threading.Event(), asyncio.get_running_loop()

    def work(event: asyncio.Event) -> None:
        go.wait()
        loop.call_soon_threadsafe(event.set)

    thread = threading.Thread(target=work, args=(event,), name="waker")
    thread.start()
    try:
        await event.wait()
    finally:
        go.set()
        thread.join()


@situation(alive("(a variable of a thread|local in .*)"))
async def variable_of_a_thread() -> None:
    go, stored, events = threading.Event(), threading.Event(), [asyncio.Event()]

    def work(local: threading.local) -> None:
        local.event = events.pop()
        stored.set()
        go.wait()

    event = events[0]
    thread = threading.Thread(target=work, args=(threading.local(),))
    thread.start()
    stored.wait()
    try:
        await event.wait()
    finally:
        go.set()
        thread.join()


@situation(alive("an open (_SelectorSocket|Unix)Transport"))
async def open_connection() -> None:
    one, other = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=one)
    try:
        await reader.read(1)
    finally:
        writer.close()
        other.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@situation("(could still be woken by .*|who could wake it cannot be seen.*)")
async def listening_server() -> None:
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    try:
        await server.serve_forever()
    finally:
        server.close()


@situation("(could still be woken by .*|who could wake it cannot be seen.*)")
async def child_process() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "input()", stdin=asyncio.subprocess.PIPE
    )
    try:
        await process.wait()
    finally:
        process.kill()
        await process.wait()


@situation("(could still be woken by .*|who could wake it cannot be seen.*)")
async def watched_pipe() -> None:
    event, loop, (read, write) = asyncio.Event(), asyncio.get_running_loop(), os.pipe()
    loop.add_reader(read, event.set)
    try:
        await event.wait()
    finally:
        loop.remove_reader(read)
        os.close(read)
        os.close(write)


@situation("(could still be woken by .*|who could wake it cannot be seen.*)")
async def raw_socket() -> None:
    one, other = socket.socketpair()
    one.settimeout(0)
    try:
        await asyncio.get_running_loop().sock_recv(one, 1)
    finally:
        await asyncio.sleep(0)
        one.close()
        other.close()


@situation("(could still be woken by .*|who could wake it cannot be seen.*)")
async def datagram_endpoint() -> None:
    event = asyncio.Event()

    class Protocol(asyncio.DatagramProtocol):
        def datagram_received(self, _data: bytes, _peer: Any) -> None:
            event.set()

    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        Protocol, local_addr=("127.0.0.1", 0)
    )
    try:
        await event.wait()
    finally:
        transport.close()


@situation("who could wake it cannot be seen: code in C holds what it waits for")
async def reference_of_c() -> None:
    future = asyncio.get_running_loop().create_future()
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(future))
    try:
        await future
    finally:
        ctypes.pythonapi.Py_DecRef(ctypes.py_object(future))


@situation("who could wake it cannot be seen: code in C holds what it waits for")
async def reference_of_c_to_an_object() -> None:
    box = Box(asyncio.Event())
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(box))
    try:
        await box.thing.wait()
    finally:
        ctypes.pythonapi.Py_DecRef(ctypes.py_object(box))


@situation("who could wake it cannot be seen: gc.freeze hides its holders")
async def frozen_heap() -> None:
    HELD.append(asyncio.Event())
    gc.freeze()
    try:
        await HELD[0].wait()
    finally:
        gc.unfreeze()


@situation(DEAD)
async def loop_of_another_thread() -> None:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(dead(), loop))
    finally:
        for task in asyncio.all_tasks(loop):
            loop.call_soon_threadsafe(task.cancel)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(autouse=True)
def nothing_held() -> Iterator[None]:
    """Empty what the situations put into this module."""
    yield
    HELD.clear()
    TABLE.clear()
    WEAK.clear()
    Kept.thing = None


def asked(function: Situation, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> str:
    """Return the answer about a situation, once it blocks."""

    async def main() -> str:
        task = asyncio.ensure_future(function())
        await settle(horizon=0.001)
        await asyncio.sleep(0.01)
        await settle(horizon=0.001)
        found = who_can_wake(task)
        task.cancel()
        await asyncio.wait([task])
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for each in others:
            each.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        return found

    with contextlib.closing(new_loop()) as loop:
        return loop.run_until_complete(main())


@REAL
@pytest.mark.parametrize(("function", "expected"), SITUATIONS)
def test_wake_situation(
    function: Situation, expected: str, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """The answer is the true one."""
    if "anyio" in function.__name__:
        pytest.importorskip("anyio", reason="needs: pip install anyio")
    found = rounded(asked(function, new_loop))
    assert re.fullmatch(expected, found), found
