"""The loop on virtual time: order, clock, rest, refusals and a teardown that cannot hang."""

import asyncio
import gc
import inspect
import os
import socket
import subprocess
import sys
import threading
import warnings
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from muxleak.checks.teardown import close_coroutines
from muxleak.ledger.ledger import Ledger
from muxleak.sim.errors import DeadlockError, LivelockError, SimulationError
from muxleak.sim.virtual_loop import Timer, VirtualLoop
from tasks import forever, spawn


async def stubborn() -> None:
    """Swallow every cancellation."""
    while True:
        try:
            await forever()
        except asyncio.CancelledError:
            continue


async def spin() -> None:
    """Never rest."""
    while True:  # noqa: ASYNC110 - the livelock
        await asyncio.sleep(0)


def test_loop_relies_on_members_that_exist() -> None:
    """The private members of asyncio that the loop uses are there, of the expected kind."""
    with VirtualLoop() as loop:
        assert isinstance(loop._ready, deque)
        assert isinstance(loop._scheduled, list)
        assert (loop._timer_cancelled_count, loop._stopping, loop._closed) == (0, False, False)
        assert (loop._thread_id, loop._task_factory, loop._debug) == (None, None, False)
        assert len(loop._asyncgens) == 0
        for name in ("_check_closed", "_check_running", "_asyncgen_firstiter_hook"):
            assert callable(getattr(loop, name))
        assert callable(loop._asyncgen_finalizer_hook)
        assert "self._run_once()" in inspect.getsource(asyncio.BaseEventLoop.run_forever)
        handle = loop.call_later(1, int)
        assert loop._scheduled[0] is handle
        assert (handle._cancelled, handle._scheduled) == (False, True)  # type: ignore[attr-defined]
        assert callable(handle._run)
        assert handle._callback is int  # type: ignore[attr-defined]
        task = loop.create_task(forever())
        assert task._log_destroy_pending  # type: ignore[attr-defined]
        assert task._fut_waiter is None  # type: ignore[attr-defined]


def test_ready_queue_is_first_in_first_out(loop: VirtualLoop) -> None:
    """Callbacks run in the order they were scheduled, those they schedule in the next iteration."""
    seen: list[int] = []
    for number in range(3):
        loop.call_soon(seen.append, number)
        loop.call_soon(loop.call_soon, seen.append, number + 10)
    loop.turn()
    assert seen == [0, 1, 2]

    loop.turn()
    assert seen == [0, 1, 2, 10, 11, 12]


def test_run_until_complete_is_a_running_loop(loop: VirtualLoop) -> None:
    """Tasks, timeouts, queues, locks and gather work, and time jumps without passing."""

    async def main() -> list[object]:
        running = asyncio.get_running_loop()
        task = asyncio.current_task()
        queue: asyncio.Queue[int] = asyncio.Queue()
        running.call_later(7, queue.put_nowait, 5)
        try:
            async with asyncio.timeout(100):
                await forever()
        except TimeoutError:
            timed_out = running.time()
        done, pending = await asyncio.wait([asyncio.ensure_future(forever())], timeout=1)
        for each in pending:
            each.cancel()
        results = await asyncio.gather(asyncio.sleep(3, "a"), asyncio.sleep(2, "b"))
        return [running, task is not None, await queue.get(), timed_out, len(done), *results]

    assert loop.run_until_complete(main()) == [loop, True, 5, 100.0, 0, "a", "b"]
    assert loop.time() == 104.0


def test_run_until_quiescent_jumps_to_each_timer_within_the_horizon(loop: VirtualLoop) -> None:
    """Timers within the horizon fire at exactly their time; the next stays pending."""
    seen: list[tuple[str, float]] = []
    for when in (0.3, 0.1, 0.2):
        loop.call_at(when, lambda: seen.append(("timer", loop.time())))
    loop.call_soon(lambda: seen.append(("soon", loop.time())))

    assert loop.run_until_quiescent() == 1
    assert seen == [("soon", 0.0)]

    assert loop.run_until_quiescent(0.2) == 2
    assert seen[1:] == [("timer", 0.1), ("timer", 0.2)]
    assert (loop.time(), loop.pending_timers) == (0.2, 1)
    assert loop.run_until_quiescent() == 0


def test_advance_leaves_the_clock_where_it_was_told(loop: VirtualLoop) -> None:
    """Advancing runs what is due and moves the clock by the whole amount."""
    seen: list[float] = []
    loop.call_later(1, lambda: seen.append(loop.time()))

    assert loop.advance(0.75) == 0
    assert loop.advance(0.75) == 1
    assert (seen, loop.time()) == ([1.0], 1.5)


def test_turn_runs_iterations_without_moving_time(loop: VirtualLoop) -> None:
    """A turn is one iteration, and no timer comes nearer by it."""
    task = loop.create_task(spin())
    loop.call_later(0.1, task.cancel)
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1
        loop.call_soon(count)

    loop.call_soon(count)
    loop.turn(5)
    assert (steps, loop.time(), loop.pending_timers) == (5, 0.0, 1)


def test_timers_are_listed_and_counted_without_the_cancelled(loop: VirtualLoop) -> None:
    """Reports see what is set, in due order, by the name of what it calls."""
    handles = [loop.call_later(when, int) for when in range(300, 0, -1)]
    spawn(loop, asyncio.sleep(0.5))
    loop.run_until_quiescent()
    for handle in handles[:298]:
        handle.cancel()

    assert loop.pending_timers == 3
    assert loop.timers() == [
        Timer(0.5, "_set_result_unless_cancelled"),
        Timer(1.0, "int"),
        Timer(2.0, "int"),
    ]

    loop.advance(1)
    assert (loop.pending_timers, len(loop._scheduled)) == (1, 1)


def test_livelock_is_an_error_that_names_what_is_ready() -> None:
    """Work that never rests stops at the step limit."""
    with VirtualLoop(step_limit=50) as loop:
        for _ in range(2):
            spawn(loop, spin())
        with pytest.raises(LivelockError, match=r"50 iterations at 0 s, ready: task spin \(x2\)"):
            loop.run_until_quiescent()


def test_deadlock_is_an_error_that_names_where_each_task_waits(loop: VirtualLoop) -> None:
    """With nothing ready and no timer, run_until_complete says who is blocked, in order."""

    async def main() -> None:
        tasks = [asyncio.create_task(asyncio.Event().wait()) for _ in range(2)]
        await asyncio.wait(tasks)

    with pytest.raises(DeadlockError) as caught:
        loop.run_until_complete(main())
    lines = str(caught.value).splitlines()
    assert lines[0] == "nothing is ready and no timer is set, blocked tasks: 3"
    assert lines[1] == "  2 x Event.wait"
    assert lines[3].startswith("    waits in Event.wait (asyncio/locks.py:")
    assert any(line.startswith("    waits in test_deadlock_is_an_error_") for line in lines[4:])
    assert len(caught.value.tasks) == 3


def test_stop_ends_run_forever(loop: VirtualLoop) -> None:
    """run_forever runs until stop, on virtual time."""
    loop.call_later(3600, loop.stop)
    loop.run_forever()

    assert loop.time() == 3600


def test_loop_cannot_run_twice_or_within_another(loop: VirtualLoop) -> None:
    """Driving a loop from inside a running loop is refused."""

    async def main() -> None:
        with pytest.raises(RuntimeError, match="already running"):
            loop.run_until_quiescent(1)
        with VirtualLoop() as other:
            other.call_soon(int)
            with pytest.raises(RuntimeError, match="another loop is running"):
                other.run_until_quiescent()
            other._ready.clear()

    loop.call_later(1, int)
    loop.call_soon(int)
    loop.run_until_complete(main())


def outside_calls() -> list[tuple[str, Callable[[VirtualLoop], Any]]]:
    """One call of each kind that would leave the simulation."""
    ours = socket.socketpair()
    for sock in ours:
        sock.close()
    return [
        ("run_in_executor", lambda loop: loop.run_in_executor(None, int)),
        ("create_connection", lambda loop: loop.create_connection(asyncio.Protocol, "host", 1)),
        ("create_server", lambda loop: loop.create_server(asyncio.Protocol, "host", 1)),
        (
            "create_datagram_endpoint",
            lambda loop: loop.create_datagram_endpoint(asyncio.DatagramProtocol),
        ),
        ("add_reader", lambda loop: loop.add_reader(0, int)),
        ("add_writer", lambda loop: loop.add_writer(0, int)),
        ("add_signal_handler", lambda loop: loop.add_signal_handler(2, int)),
        ("subprocess_exec", lambda loop: loop.subprocess_exec(asyncio.SubprocessProtocol, "true")),
        ("subprocess_shell", lambda loop: loop.subprocess_shell(asyncio.SubprocessProtocol, "")),
        ("getaddrinfo", lambda loop: loop.getaddrinfo("host", 1)),
        ("sock_recv", lambda loop: loop.sock_recv(ours[0], 1)),
    ]


OUTSIDE = outside_calls()


@pytest.mark.parametrize("call", [call for _, call in OUTSIDE], ids=[name for name, _ in OUTSIDE])
def test_leaving_the_simulation_is_refused_by_name(
    loop: VirtualLoop, call: Callable[[VirtualLoop], Any], request: pytest.FixtureRequest
) -> None:
    """Threads, sockets, signals, processes and name resolution raise an error that names them."""
    name = request.node.callspec.id
    with pytest.raises(SimulationError, match=f"^{name} leaves the simulation"):
        call(loop)


def test_high_level_calls_are_refused_too(loop: VirtualLoop) -> None:
    """to_thread and open_connection meet the same fence."""

    async def main() -> None:
        with pytest.raises(SimulationError, match="run_in_executor"):
            await asyncio.to_thread(int)
        with pytest.raises(SimulationError, match="create_connection"):
            await asyncio.open_connection("127.0.0.1", 1)

    loop.run_until_complete(main())


def test_call_soon_threadsafe_is_for_the_own_thread(loop: VirtualLoop) -> None:
    """From the loop's thread it is call_soon; from another it is refused."""
    seen: list[int] = []
    errors: list[Exception] = []

    def intrude() -> None:
        try:
            loop.call_soon_threadsafe(seen.append, 2)
        except SimulationError as exc:
            errors.append(exc)

    loop.call_soon_threadsafe(seen.append, 1)
    thread = threading.Thread(target=intrude)
    thread.start()
    thread.join()
    loop.run_until_quiescent()

    assert seen == [1]
    assert "call_soon_threadsafe from another thread" in str(errors[0])


def test_runner_drives_the_loop() -> None:
    """asyncio.Runner works with it, shutdown of generators and executor included."""

    async def main() -> float:
        await asyncio.sleep(60)
        return asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        assert runner.run(main()) == 60.0


def test_callback_errors_reach_the_exception_handler(loop: VirtualLoop) -> None:
    """An exception in a callback is reported and the loop goes on."""
    seen: list[object] = []
    loop.set_exception_handler(lambda _, context: seen.append(context["exception"]))
    loop.call_soon(int, "x")
    loop.call_soon(seen.append, "next")
    loop.run_until_quiescent()

    assert isinstance(seen[0], ValueError)
    assert seen[1:] == ["next"]


def test_interrupt_leaves_the_loop_usable(loop: VirtualLoop) -> None:
    """KeyboardInterrupt passes through, and what was ready stays ready."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    seen: list[int] = []
    loop.call_soon(interrupt)
    loop.call_soon(seen.append, 1)
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_quiescent()
    assert not loop.is_running()

    loop.run_until_quiescent()
    assert seen == [1]


def test_debug_mode_is_asyncios_own() -> None:
    """With asyncio's debug mode on, handles keep their source traceback as ever."""
    with VirtualLoop() as loop:
        loop.set_debug(True)
        handle = loop.call_soon(int)
        loop.run_until_quiescent()

    assert handle._source_traceback  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="closed"):
        loop.call_soon(int)


@pytest.mark.parametrize("counted", [False, True])
def test_dispose_cancels_in_creation_order(*, counted: bool) -> None:
    """With and without a ledger, and with names of one's own under a ledger."""
    order: list[int] = []

    async def watcher(number: int) -> None:
        try:
            await forever()
        finally:
            order.append(number)

    loop = VirtualLoop()
    ledger = Ledger()
    if counted:
        ledger.install(loop)
    for number in range(12):
        spawn(loop, watcher(number), name=f"{'z' * (20 - number)}" if counted else None)
    loop.run_until_quiescent()
    assert loop.dispose() == []

    assert order == list(range(12))
    assert loop.is_closed()
    assert loop.dispose() == []
    ledger.uninstall()


def test_dispose_gives_back_what_would_not_end(recwarn: pytest.WarningsRecorder) -> None:
    """A task that swallows cancellation is abandoned, named, and makes no noise."""
    gc.collect()
    recwarn.clear()
    errors: list[object] = []
    loop = VirtualLoop()
    loop.set_exception_handler(lambda _, context: errors.append(context))
    for coroutine in (stubborn(), forever(), spin()):
        spawn(loop, coroutine)
    loop.turn(3)

    (left,) = loop.dispose()
    assert "stubborn" in repr(left)
    close_coroutines([left])
    del left, loop, coroutine
    gc.collect()
    assert (errors, list(recwarn)) == ([], [])


def test_dispose_ends_the_others_if_a_cancellation_raises() -> None:
    """A future's own `cancel` may raise: its task stays, and no other does."""

    class Fragile(asyncio.Future[None]):
        def cancel(self, msg: object = None) -> bool:
            raise OSError(msg)

    async def wait(loop: VirtualLoop) -> None:
        await Fragile(loop=loop)

    loop = VirtualLoop()
    first, other = loop.create_task(wait(loop)), loop.create_task(forever())
    loop.turn(1)

    left = loop.dispose()

    assert left == [first]
    assert other.cancelled()
    close_coroutines(left)


def test_dispose_cannot_hang_on_spinning_tasks() -> None:
    """A task that spins, swallows cancellation and breeds is given up after a few rounds."""

    async def breed() -> None:
        while True:
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                spawn(asyncio.get_running_loop(), breed())

    loop = VirtualLoop()
    spawn(loop, breed())
    loop.turn(2)
    left = loop.dispose(rounds=2)

    assert len(left) == 4
    assert loop.is_closed()
    close_coroutines(left)


def test_close_coroutines_asks_more_than_once() -> None:
    """A coroutine that awaits again in its clean-up is closed without a complaint."""

    async def untidy() -> None:
        try:
            await stubborn()
        finally:
            await forever()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loop = VirtualLoop()
        spawn(loop, untidy())
        loop.run_until_quiescent()
        left = loop.dispose()
        close_coroutines(left)
        assert inspect.getcoroutinestate(left[0].get_coro()) == inspect.CORO_CLOSED  # type: ignore[arg-type]
        del left
        gc.collect()


def test_dispose_closes_asynchronous_generators() -> None:
    """A generator that was left in the middle gets to its finally."""
    closed: list[str] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            closed.append("yes")

    async def main() -> None:
        held.append(numbers())
        await anext(held[0])

    held: list[AsyncIterator[int]] = []
    loop = VirtualLoop()
    loop.run_until_complete(main())
    assert loop.dispose() == []

    assert closed == ["yes"]


def test_dispose_runs_what_is_ready_and_closes_on_interrupt() -> None:
    """Callbacks that were ready still run; an interrupt in one does not keep the loop open."""
    seen: list[int] = []
    loop = VirtualLoop()
    loop.call_soon(seen.append, 1)
    loop.dispose()
    assert seen == [1]

    def interrupt() -> None:
        raise KeyboardInterrupt

    loop = VirtualLoop()
    loop.call_soon(interrupt)
    with pytest.raises(KeyboardInterrupt):
        loop.dispose()
    assert loop.is_closed()


def test_cancelled_tasks_leave_no_cycle() -> None:
    """After a sequence with cancelled tasks the garbage collector finds nothing."""

    def sequence() -> None:
        with VirtualLoop() as loop:
            for _ in range(3):
                spawn(loop, forever())
            loop.run_until_quiescent()

    sequence()
    gc.collect()
    gc.disable()
    try:
        sequence()
        assert gc.collect() == 0
    finally:
        gc.enable()


SCRIPT = """
import asyncio
from muxleak import VirtualLoop
from muxleak.sim.errors import DeadlockError, LivelockError

async def work(name, queue):
    for _ in range(3):
        await asyncio.sleep(len(name) / 10)
        await queue.put(name)
        print(name, asyncio.get_running_loop().time())
    await asyncio.Event().wait()

with VirtualLoop(step_limit=100) as loop:
    queue = asyncio.Queue(2)
    for name in sorted({"a", "bb", "ccc", "dddd"}):
        loop.create_task(work(name, queue))
    loop.create_task(queue.join())
    print(loop.run_until_quiescent(1), loop.timers())
    try:
        loop.run_until_complete(work("main", asyncio.Queue()))
    except DeadlockError as exc:
        print(exc)
    loop.call_soon(again := lambda: loop.call_soon(again))
    try:
        loop.run_until_quiescent()
    except LivelockError as exc:
        print(exc)
"""


def test_loop_is_the_same_in_fresh_processes() -> None:
    """Two interpreters under two hash seeds print the same run and the same errors."""
    runs = [
        subprocess.Popen(  # noqa: S603 - our own script
            [sys.executable, "-W", "error", "-c", SCRIPT],
            env=os.environ | {"PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("7", "1234")
    ]
    first, second = (run.communicate()[0] for run in runs)

    assert [run.returncode for run in runs] == [0, 0]
    assert "blocked tasks: 5" in first
    assert "not quiescent after 100 iterations" in first
    assert first == second
