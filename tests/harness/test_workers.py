"""Idle workers of thread pools are no leak where somebody ends them; all other threads are."""

import asyncio
import concurrent.futures
import gc
import importlib.util
import operator
import queue
import sys
import threading
import time
import types
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import thread as pools
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from loops import REAL
from muxleak import LeakError, no_leaks
from muxleak.checks.workers import keeper

if TYPE_CHECKING or importlib.util.find_spec("anyio"):
    import anyio.to_thread

Loops = Callable[[], asyncio.AbstractEventLoop]
needs_anyio = pytest.mark.skipif(
    importlib.util.find_spec("anyio") is None, reason="needs: pip install anyio"
)


def run(new_loop: Loops, main: Callable[[], Awaitable[Any]]) -> Any:
    """Run a coroutine function on a loop."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main())  # type: ignore[arg-type]


def leaks(new_loop: Loops, body: Callable[[], Awaitable[Any]]) -> str:
    """Return the report on a block; empty if nothing leaked."""

    async def main() -> None:
        async with no_leaks(budget=0.03):
            await body()

    try:
        run(new_loop, main)
    except LeakError as error:
        return str(error)
    return ""


@needs_anyio
@REAL
def test_idle_worker_of_anyio_passes(new_loop: Loops) -> None:
    """The root task of the loop stops it."""
    assert leaks(new_loop, lambda: anyio.to_thread.run_sync(sum, (1, 2))) == ""


@needs_anyio
@REAL
@pytest.mark.parametrize("function", ["python", "c"])
def test_busy_worker_of_anyio_is_a_leak(new_loop: Loops, function: str) -> None:
    """A function that goes on in it after its caller has left; one written in C shows no frame."""
    busy: queue.SimpleQueue[int] = queue.SimpleQueue()
    begun = threading.Event()
    steps: list[Any] = [begun.set, busy.get]

    def in_python() -> None:
        for step in steps:
            step()

    # `list` calls both without a frame of its own.
    work: Any = in_python if function == "python" else partial(list, map(operator.call, steps))

    async def body() -> None:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(partial(anyio.to_thread.run_sync, work, abandon_on_cancel=True))
                await asyncio.get_running_loop().run_in_executor(None, begun.wait)
                scope.cancel()

    try:
        assert "1 thread leaked" in leaks(new_loop, body)
    finally:
        busy.put(1)


@REAL
def test_consumer_that_nobody_ends_is_a_leak(new_loop: Loops) -> None:
    """It waits for a queue of its own, as an idle worker does."""

    class Consumer(threading.Thread):
        def __init__(self) -> None:
            super().__init__(daemon=True)
            self.queue: queue.Queue[None] = queue.Queue()

        def run(self) -> None:
            self.queue.get()

    consumer = [Consumer()]

    async def body() -> None:
        consumer[0].start()

    try:
        assert "1 thread leaked" in leaks(new_loop, body)
    finally:
        consumer[0].queue.put(None)


@pytest.fixture
def service() -> Iterator[Any]:
    """A module."""
    module = sys.modules["service_with_pool"] = types.ModuleType("service_with_pool")
    yield module
    del sys.modules["service_with_pool"]


@REAL
@pytest.mark.parametrize("held", ["module", "list"])
def test_idle_workers_of_a_pool(new_loop: Loops, service: Any, held: str) -> None:
    """No leaks if a variable of a module holds the pool, however many there are; else leaks."""
    pool: Any = None
    gc.collect()

    async def body() -> None:
        nonlocal pool
        pool = concurrent.futures.ThreadPoolExecutor(5)
        service.POOL = pool if held == "module" else [pool]
        loop = asyncio.get_running_loop()
        barrier = threading.Barrier(5)
        await asyncio.gather(*(loop.run_in_executor(pool, barrier.wait) for _ in range(5)))

    try:
        report = leaks(new_loop, body)
    finally:
        pool.shutdown()
    assert report.partition(" (")[0] == ("" if held == "module" else "5 threads leaked")


def test_only_an_idle_worker_is_kept_with_its_pool() -> None:
    """While it runs a job it is a thread of its own; pins the loop of the standard library."""
    assert "work_queue" in pools._worker.__code__.co_varnames
    busy: queue.SimpleQueue[int] = queue.SimpleQueue()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        job = pool.submit(busy.get)
        while not job.running():
            time.sleep(0)
        (worker,) = pool._threads
        while "run" not in sys._current_frames()[worker.ident or 0].f_code.co_name:
            time.sleep(0)
        assert keeper(worker) is worker
        busy.put(7)
        assert job.result() == 7
        while keeper(worker) is worker:
            time.sleep(0)
        assert keeper(worker) is pool


def test_threads_that_no_check_can_end_are_counted_once() -> None:
    """By the inner check that reports them, not by the one around it."""
    stop = threading.Event()

    @no_leaks(budget=0.03)
    async def start() -> None:
        for _ in range(2):
            threading.Thread(target=stop.wait, args=(5,), daemon=True).start()

    async def main() -> None:
        async with no_leaks(budget=0.03):
            with pytest.raises(LeakError, match="2 threads leaked"):
                await start()

    try:
        asyncio.run(main())
    finally:
        stop.set()
