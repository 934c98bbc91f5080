"""One run: what it returns, what it refuses, what it finds left, and that it leaves nothing."""

import _thread
import asyncio
import concurrent.futures
import contextlib
import contextvars
import gc
import multiprocessing
import os
import queue
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import warnings
from collections.abc import Callable, Coroutine
from pathlib import Path
from time import sleep as imported_by_name
from types import ModuleType
from typing import Any

import pytest

from muxleak import LeakError
from muxleak.sim import (
    Choices,
    DeadlockError,
    LivelockError,
    Settings,
    Simulation,
    SimulationError,
    current,
    simulate,
    simulated,
)
from muxleak.sim.guard import _GUARDED
from muxleak.sim.run import run
from racing import pause
from tasks import forever

WHERE = ("127.0.0.1", 7000)


def connect() -> None:
    """Use a real socket."""
    with socket.socket() as sock:
        sock.connect(("127.0.0.1", 9))


def send() -> None:
    """Send a datagram that nobody expects."""
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", ("127.0.0.1", 9))


def submit() -> None:
    """Give a job to a pool of threads."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        pool.submit(print)


def spawn() -> None:
    """Start a process without `subprocess`."""
    multiprocessing.get_context("spawn").Process(target=print).start()


async def noop() -> None:
    """Do nothing."""


async def nap() -> float:
    """Sleep an hour."""
    await asyncio.sleep(3600)
    return asyncio.get_running_loop().time()


async def leaky() -> None:
    """Leave a task behind."""
    _ = asyncio.get_running_loop().create_task(forever())


def test_simulate_returns_the_result_in_virtual_time() -> None:
    """An hour's sleep takes no time, and the clock says an hour."""
    outcome = simulate(nap)

    assert (outcome.value, outcome.now) == (3600.0, 3600.0)
    assert [str(event) for event in outcome.events] == [
        "0.000000 task 1 nap",
        "3600.000000 end 1 returned",
    ]


def test_simulate_reports_what_is_left_over() -> None:
    """A task that lives on is a leak, named with where it was made and how to repeat the run."""
    with pytest.raises(LeakError, match="1 x forever") as caught:
        simulate(leaky)

    assert caught.value.report.groups[0].site.endswith("in leaky")
    command = f"muxleak replay sim1:AAAAAA {__name__}:leaky"
    assert caught.value.__notes__ == [f"replay with: {command}"]
    with pytest.raises(LeakError) as caught:
        simulate(leaky, step_limit=999)
    # No command would know of the limit.
    assert caught.value.__notes__ == ["replay with: sim1:AAAAAA"]
    assert simulate(leaky, leaks=False).value is None


@pytest.mark.parametrize(("seconds", "leaks"), [(5, False), (50, True)])
def test_simulate_gives_grace(seconds: float, leaks: bool) -> None:  # noqa: FBT001 - a parameter
    """What ends by itself within the grace period is no leak."""

    async def program() -> None:
        _ = asyncio.get_running_loop().create_task(asyncio.sleep(seconds))

    if not leaks:
        assert simulate(program).now == 5.0
        return
    with pytest.raises(LeakError):
        simulate(program)
    assert simulate(program, grace=60).now == 50.0


def test_simulate_explains_a_deadlock() -> None:
    """Who waits for what is in the message."""

    async def program() -> None:
        lock = asyncio.Lock()
        async with lock, asyncio.timeout(None):
            await asyncio.gather(forever(), lock.acquire())

    with pytest.raises(DeadlockError, match="blocked tasks: 3") as caught:
        simulate(program)

    assert len(caught.value.tasks) == 3
    first, *groups = str(caught.value).split("\n  1 x ")
    assert first == "nothing is ready and no timer is set, blocked tasks: 3"
    program_, gathered, lock = (each.splitlines() for each in groups)
    assert program_[0].endswith(".program")
    assert gathered[0] == "forever"
    assert gathered[1].startswith("    made at tests/sim/test_simulate.py:")
    assert gathered[2].startswith("    waits in forever (tests/support/tasks.py:")
    assert gathered[3] == "    nothing alive can wake it"
    assert lock[0] == "Lock.acquire"
    assert "<asyncio.locks.Lock [locked, waiters:1]>" in lock[2]


def test_deadlock_of_many_tasks_is_a_screen_of_groups() -> None:
    """Tasks made and waiting at one place are one group, charged to their connections."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def program() -> None:
        await asyncio.start_server(serve, *WHERE)
        streams = [await asyncio.open_connection(*WHERE) for _ in range(30)]
        # Each of these has a name and a place of its own.
        scope: dict[str, Any] = {"forever": forever}
        exec("".join(f"async def t{n}(): await forever()\n" for n in range(30)), scope)  # noqa: S102
        others = (scope[f"t{number}"]() for number in range(30))
        await asyncio.gather(*(reader.read() for reader, _ in streams), *others)

    with pytest.raises(DeadlockError, match="blocked tasks: 91") as caught:
        simulate(program)

    report = caught.value.report
    assert (report.groups[0].count, report.groups[1].count) == (30, 30)
    assert {group.name for group in report.groups[:2]} == {serve.__qualname__, "StreamReader.read"}
    served = next(each for each in report.groups if each.name == serve.__qualname__)
    assert served.scopes[0] == "connection 1 to 127.0.0.1:7000"
    assert served.notes[0].startswith("could still be woken by an open SimTransport to ")
    lines = str(caught.value).splitlines()
    assert len(lines) <= 25
    assert lines[-1].startswith("  groups not shown: ")


def test_deadlock_in_a_search_walks_the_heap_only_for_the_finding() -> None:
    """A run without a trace, of which a search makes thousands, is not diagnosed."""
    plain = run(forever, Choices(), Settings(), traced=False).error
    traced = run(forever, Choices(), Settings()).error

    assert isinstance(plain, DeadlockError)
    assert isinstance(traced, DeadlockError)
    assert not plain.report.groups[0].notes
    assert traced.report.groups[0].notes
    assert str(plain).splitlines()[0] == str(traced).splitlines()[0]


def test_deadlock_names_tasks_of_another_factory() -> None:
    """A program that installs a task factory of its own hides nothing."""
    made = asyncio.Task

    async def program() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(lambda loop, coro, **_: made(coro, loop=loop))
        await asyncio.create_task(forever())

    with pytest.raises(DeadlockError, match=r"1 x forever"):
        simulate(program)


def test_simulate_stops_a_livelock() -> None:
    """A program that never rests is stopped, by name."""

    async def program() -> None:
        while True:  # noqa: ASYNC110 - the livelock
            await asyncio.sleep(0)

    with pytest.raises(LivelockError, match=r"ready: task .*program"):
        simulate(program, step_limit=1000)


def test_simulate_passes_on_what_the_program_raises() -> None:
    """The program's own error arrives with its traceback, and a note that repeats the run."""

    async def program() -> None:
        assert current().choices.below(3) == 1, "not today"
        raise ValueError("today")

    with pytest.raises(ValueError, match="today") as caught:
        simulate(program, choices=Choices(b"\1"))

    assert caught.value.__notes__ == ["replay with: sim1:AAAAAQE"]
    assert caught.traceback[-1].name == "program"


def test_simulate_passes_on_a_cancelled_program() -> None:
    """A program that cancels itself was cancelled."""

    async def program() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(1)

    with pytest.raises(asyncio.CancelledError):
        simulate(program)


def test_simulate_keeps_what_reached_the_exception_handler() -> None:
    """An error in a callback is in the outcome, not in a log."""

    async def program() -> None:
        asyncio.get_running_loop().call_soon(int, "x", 99)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    assert "ValueError" in simulate(program).errors[0]


LEAVING = pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: threading.Thread(target=print).start(), "Thread.start"),
        (connect, "socket.connect"),
        (lambda: _thread.start_new_thread(print, ()), "_thread.start_new_thread"),
        (submit, "ThreadPoolExecutor.submit"),
        (lambda: threading.Event().wait(0.001), "Condition.wait"),
        (lambda: queue.Queue[int]().get(timeout=0.001), "Condition.wait"),
        (send, "socket.sendto"),
        (lambda: socket.create_connection(("127.0.0.1", 9)), "socket.getaddrinfo"),
        (lambda: urllib.request.urlopen("http://127.0.0.1:9"), "socket.getaddrinfo"),
        (lambda: socket.gethostbyname("localhost"), "socket.gethostbyname"),
        (lambda: socket.getaddrinfo("localhost", 1), "socket.getaddrinfo"),
        (lambda: select.select([], [], [], 0), "select.select"),
        (spawn, "fork_exec"),
        (lambda: os.posix_spawn("/no/such", ["such"], {}), "os.posix_spawn"),
        (lambda: os.execv("/no/such", ["such"]), "os.execv"),  # noqa: S606
        (lambda: signal.setitimer(signal.ITIMER_VIRTUAL, 0), "signal.setitimer"),
        (lambda: imported_by_name(0.001), "time.sleep"),
        (lambda: subprocess.Popen(["/bin/true"]), "Popen"),
        (lambda: os.system("true"), "posix.system|os.system"),  # noqa: S605, S607
        (lambda: signal.signal(signal.SIGUSR1, signal.SIG_DFL), "signal.signal"),
        (lambda: time.sleep(1), "time.sleep"),
        (lambda: asyncio.get_running_loop().run_in_executor(None, print), "run_in_executor"),
        (
            lambda: asyncio.get_running_loop().add_signal_handler(signal.SIGINT, print),
            "add_signal_handler",
        ),
        (lambda: asyncio.get_running_loop().add_reader(0, print), "add_reader"),
        (lambda: asyncio.get_running_loop().add_writer(0, print), "add_writer"),
    ],
)


@LEAVING
def test_simulate_refuses_what_would_leave_it(call: Callable[[], object], name: str) -> None:
    """Threads, sockets, processes, signals and sleeping are refused, naming the call."""

    async def program() -> None:
        call()

    with pytest.raises(SimulationError, match=f"({name}).* leaves the simulation"):
        simulate(program)


@LEAVING
def test_refusal_that_the_program_swallows_is_the_verdict(
    call: Callable[[], object], name: str
) -> None:
    """With the line of the call, although the program goes on, fails otherwise, or leaks."""

    def swallow() -> None:
        with contextlib.suppress(Exception):
            call()

    async def goes_on() -> None:
        swallow()

    async def fails() -> None:
        try:
            call()
        except Exception as error:
            raise LookupError("no port") from error

    async def leaks() -> None:
        asyncio.get_running_loop().call_soon(swallow)
        asyncio.get_running_loop().call_later(60, print)
        await asyncio.sleep(0)

    for program in (goes_on, fails, leaks):
        with pytest.raises(SimulationError, match=f"({name}).* leaves the simulation") as caught:
            simulate(program, grace=0)
        assert "refused in tests/sim/test_simulate.py:" in str(caught.value)
        assert str(caught.value).endswith("and the program went on without it")
        assert (caught.value.__cause__ is None) == (program is goes_on)


@pytest.mark.parametrize(("owner", "name"), [each for each in _GUARDED if each[0] is not gc])
def test_every_guarded_function_is_refused(owner: Any, name: str) -> None:
    """Before it looks at its arguments, and only in a simulation."""

    async def program() -> None:
        getattr(owner, name)()

    original = getattr(owner, name)
    with pytest.raises(SimulationError, match=f"{name.strip('_')}|Popen"):
        simulate(program)
    assert getattr(owner, name) == original


ASYNCIO = pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda _: asyncio.to_thread(print), "run_in_executor"),
        (lambda _: asyncio.create_subprocess_exec("true"), "subprocess_exec"),
        (lambda _: asyncio.create_subprocess_shell("true"), "subprocess_shell"),
        (lambda _: asyncio.open_unix_connection("/no/such"), "create_unix_connection"),
        (lambda _: asyncio.start_unix_server(print, "/no/such"), "create_unix_server"),
        (lambda loop: loop.connect_read_pipe(asyncio.Protocol, 0), "connect_read_pipe"),
        (lambda loop: loop.connect_accepted_socket(asyncio.Protocol, 0), "connect_accepted_socket"),
        (lambda loop: loop.sock_connect(0, WHERE), "sock_connect"),
        (lambda loop: loop.sendfile(None, None), "sendfile"),
    ],
)


@ASYNCIO
def test_simulate_refuses_what_asyncio_would_do_outside(
    call: Callable[[Any], Any], name: str
) -> None:
    """Also where the program swallows the refusal of an awaited call."""

    async def program() -> None:
        with contextlib.suppress(RuntimeError):
            await call(asyncio.get_running_loop())

    with pytest.raises(SimulationError, match=f"{name} leaves .*the program went on without it"):
        simulate(program)


def test_refusal_in_a_thread_from_before_is_the_verdict() -> None:
    """A thread that was started before the simulation cannot reach into it."""
    loops: queue.Queue[Any] = queue.Queue()
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def reach() -> None:
        loop = loops.get()
        try:
            loop.call_soon_threadsafe(print)
        except RuntimeError as error:
            answers.put(error)

    async def program() -> None:
        loops.put(asyncio.get_running_loop())
        answers.get()  # unseen: a wait in C

    thread = threading.Thread(target=reach)
    thread.start()
    with pytest.raises(SimulationError, match="call_soon_threadsafe from another thread"):
        simulate(program)
    thread.join()


def test_module_that_takes_the_place_of_another_is_searched_too() -> None:
    """Its id may be that of a module that was freed, and its name the same."""
    for _ in range(20):
        module = ModuleType("replaced")
        sys.modules["replaced"] = module
        exec("from time import sleep\nasync def program(): sleep(0)", vars(module))  # noqa: S102
        with pytest.raises(SimulationError, match=r"time\.sleep"):
            simulate(module.program)
        del sys.modules["replaced"], module
        gc.collect(0)


def test_unseen_calls_pass_and_are_documented() -> None:
    """The clock, chance and files are not refused, since every library uses them."""
    bound = getattr(time, "sleep")  # noqa: B009 - a reference that is kept elsewhere

    async def program(sleep: Any = bound) -> None:
        time.time()
        random.random()
        os.urandom(1)
        os.kill(os.getpid(), 0)
        Path(__file__).read_bytes()  # noqa: ASYNC240 - it is meant to block
        threading.Lock().acquire()
        sleep(0)

    simulate(program)
    text = (Path(__file__).parents[2] / "docs" / "simulation.md").read_text("utf-8")
    for name in ("time.time", "random", "os.urandom", "os.kill", "open", "Lock.acquire"):
        assert f"`{name}`" in text, name
    assert "default argument" in text


def test_refusal_of_another_thread_and_of_an_argument_is_the_verdict() -> None:
    """Also those that are not refused by name alone; an allowed call is none."""

    async def argument() -> None:
        with contextlib.suppress(RuntimeError), socket.socket() as sock:
            await asyncio.start_server(lambda *_: None, sock=sock)

    async def allowed() -> None:
        await asyncio.to_thread(print)

    with pytest.raises(SimulationError, match=r"create_server\(sock=...\) leaves"):
        simulate(argument)
    simulate(allowed, allow=("executor",))


def test_simulate_refuses_subprocesses() -> None:
    """Those of asyncio itself too."""

    async def program() -> None:
        await asyncio.create_subprocess_exec("true")

    with pytest.raises(SimulationError, match="subprocess_exec leaves the simulation"):
        simulate(program)


def test_simulate_guards_only_itself() -> None:
    """Outside a simulation, and in other threads, all is as it was."""
    before = (threading.Thread.start, socket.getaddrinfo, subprocess.Popen.__init__, time.sleep)
    methods = dict(vars(socket.socket))  # in which another test's tool may have left its own
    simulate(noop)

    assert before == (
        threading.Thread.start,
        socket.getaddrinfo,
        subprocess.Popen.__init__,
        time.sleep,
    )
    assert dict(vars(socket.socket)) == methods
    threading.Thread(target=print).start()


def test_simulate_runs_jobs_inline_where_that_is_allowed() -> None:
    """With the executor allowed, `to_thread` runs in the loop's own thread, errors included."""

    async def program() -> tuple[int, str]:
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 // 0)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, print)
        assert loop.remove_signal_handler(signal.SIGINT)
        gone = loop.run_in_executor(None, print, "never")
        gone.cancel()
        return await asyncio.to_thread(threading.get_ident), "done"

    outcome = simulate(program, allow=("executor", "signals"))

    assert outcome.value == (threading.get_ident(), "done")


def test_simulate_checks_its_settings() -> None:
    """What cannot be allowed is refused with what can."""
    with pytest.raises(ValueError, match=r"cannot allow \['network'\], expected some of executor"):
        simulate(noop, allow=("network",))


def test_settle_waits_for_all_else_to_rest() -> None:
    """Settling lets everything ready run, and no time pass unless asked."""

    async def program() -> list[float]:
        seen: list[float] = []
        loop = asyncio.get_running_loop()

        async def work(steps: int) -> None:
            for _ in range(steps):
                await asyncio.sleep(0)
            seen.append(loop.time())

        tasks = [asyncio.create_task(work(5)), asyncio.create_task(work(50))]
        await current().settle()
        assert len(seen) == 2
        timer = loop.call_later(3, seen.append, -1.0)
        await current().settle()
        assert loop.time() == 0
        await current().settle(2)
        assert loop.time() == 0
        await asyncio.gather(current().settle(3), current().settle(4))
        assert timer.when() == loop.time() == 3
        await asyncio.gather(*tasks)
        return seen

    assert simulate(program).value == [0.0, 0.0, -1.0]


def test_gap_lets_run_as_long_as_is_drawn() -> None:
    """A gap settles, or runs an exact number of iterations; the steps show which."""

    async def program() -> list[int]:
        counts: list[int] = []

        async def work() -> None:
            for number in range(5):
                counts[-1] = number
                await asyncio.sleep(0)

        for name in "abcde":
            counts.append(-1)
            current().step(name)
            task = asyncio.create_task(work())
            await current().gap()
            task.cancel()
            await current().settle()
        return counts

    outcome = simulate(program, choices=Choices(bytes([0, 1, 2, 3, 4])))

    assert outcome.steps == ("a", "b", "c !0", "d !1", "e !2")
    assert outcome.value == [4, 4, -1, 0, 1]
    settled = simulate(program, choices=Choices(bytes([0, 1, 2, 3, 4])), gaps=False)
    assert settled.value == [4] * 5


def test_operation_must_leave_nothing_behind() -> None:
    """A block is held to account at its end, for its own tasks alone."""

    async def program() -> None:
        outside = asyncio.create_task(forever())
        async with current().operation("clean"):
            await asyncio.gather(noop(), noop())
        try:
            with pytest.raises(LeakError, match="of request 7"):
                async with current().operation("request 7"):
                    _ = asyncio.get_running_loop().create_task(forever())
        finally:
            outside.cancel()

    with pytest.raises(LeakError):
        simulate(program)


def test_check_runs_after_every_close() -> None:
    """The check is called once all is at rest after each connection's end, and at the end."""
    seen: list[int] = []

    def check(simulation: Simulation) -> None:
        seen.append(simulation.ledger.count)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def program() -> None:
        server = await asyncio.start_server(serve, *WHERE)
        for _ in range(2):
            _, writer = await asyncio.open_connection(*WHERE)
            writer.close()
            await writer.wait_closed()
            await current().settle()
        server.close()

    simulate(program, check=check)

    assert seen == [1, 1, 0]


def test_check_fails_the_run() -> None:
    """What a check raises fails the run."""

    def check(_: Simulation) -> None:
        raise AssertionError("a slot is taken")

    with pytest.raises(AssertionError, match="a slot is taken"):
        simulate(noop, check=check)


def test_leak_names_the_connection() -> None:
    """A handler that is left over is charged to its connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        try:
            await forever()
        finally:
            writer.close()

    async def program() -> None:
        server = await asyncio.start_server(serve, *WHERE)
        _, writer = await asyncio.open_connection(*WHERE)
        await current().settle()
        writer.close()
        server.close()

    # As in a program of its own, where nothing has set a context variable.
    for context in (contextvars.Context(), contextvars.copy_context()):
        with pytest.raises(LeakError, match=r"of connection 1 to 127\.0\.0\.1:7000"):
            context.run(simulate, program)


def test_current_needs_a_simulation() -> None:
    """Outside, there is none to be had."""

    async def program() -> None:
        current()

    with asyncio.Runner() as runner, pytest.raises(SimulationError, match="not inside"):
        runner.run(program())


def test_program_may_carry_its_settings() -> None:
    """Settings given to a program hold in every run, unless replaced."""

    @simulated(leaks=False)
    async def program() -> None:
        _ = asyncio.get_running_loop().create_task(forever())

    simulate(program)
    with pytest.raises(LeakError):
        simulate(program, leaks=True)
    assert Settings().leaks


def test_simulated_without_settings_changes_nothing() -> None:
    """Bare or called, it gives back the program that it was given."""

    async def program() -> int:
        return 7

    bare: Callable[[], Coroutine[Any, Any, int]] = simulated(program)
    called: Callable[[], Coroutine[Any, Any, int]] = simulated()(program)

    assert bare is called is program
    assert simulate(bare).value == 7


@pytest.mark.parametrize("program", [noop, nap, leaky])
def test_simulate_leaves_no_garbage(program: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """A run leaves nothing for the garbage collector, so that long campaigns can do without it."""
    simulate(program, leaks=False)
    gc.collect()
    gc.disable()
    try:
        simulate(program, leaks=False)

        assert gc.collect() == 0
    finally:
        gc.enable()


def test_simulate_gives_no_resource_warnings_for_a_run_that_fails() -> None:
    """A task that is cancelled at its end drops its open connection, which is no news."""

    async def program() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        await asyncio.start_server(serve, "127.0.0.1", 80)
        _reader, _writer = await asyncio.open_connection("127.0.0.1", 80)
        while True:
            await pause(1)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(LivelockError):
            simulate(program, step_limit=100)

    assert [str(each.message) for each in caught] == []
