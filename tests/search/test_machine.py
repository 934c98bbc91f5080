"""State machines of Hypothesis with coroutines as rules, on a simulated and on a real loop."""

import asyncio
import gc
import os
import pickle
import re
import signal
import threading
import time
import unittest
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.errors import InvalidDefinition
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    run_state_machine_as_test,
)

from chat_room import ChatRoom
from loops import needs_uvloop
from muxleak import CallTimeoutError, LeakError, ServerMachine, closes, ignore_name
from muxleak.search.machine import initialize, rule
from muxleak.sim import DeadlockError, LivelockError, Network, Settings, SimulationError, current
from tasks import forever

UVLOOP = pytest.param("uvloop", marks=needs_uvloop)
TARGETS = ("simulated", "asyncio", UVLOOP)
HOST = "127.0.0.1"


def options(examples: int = 30, steps: int = 8) -> settings:
    """Settings without a database; the explanation of a failure would trace every line."""
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        database=None,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )


def failure(machine: type[RuleBasedStateMachine], examples: int = 30, steps: int = 8) -> Any:
    """The failure of a machine."""
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - the caller looks at it
        run_state_machine_as_test(machine, settings=options(examples, steps))
    return caught.value


def program(error: BaseException) -> list[str]:
    """The lines of the program that Hypothesis prints, without the first and the last."""
    lines = "\n".join(error.__notes__).splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith("state = "))
    steps = [line for line in lines[start + 1 :] if not line.startswith("state.teardown")]
    return [line.replace("state.", "") for line in steps]


class Chat(ServerMachine):
    """Clients that join, speak and leave."""

    fixed: ClassVar[bool] = False
    clients = Bundle("clients")

    @initialize()
    async def listen(self) -> None:
        """Start the server."""
        room = ChatRoom(fixed=self.fixed)
        self.server = await asyncio.start_server(room.serve, HOST, 0)
        self.port = self.server.sockets[0].getsockname()[1]
        self.writers: list[asyncio.StreamWriter] = []

    @rule(target=clients, name=st.sampled_from(["ann", "bob"]))
    async def join(self, name: str) -> int:
        """Connect, and send a name."""
        _, writer = await asyncio.open_connection(HOST, self.port)
        writer.write(f"{name}\n".encode())
        self.writers.append(writer)
        return len(self.writers) - 1

    @rule(client=clients)
    def say(self, client: int) -> None:
        """Send a line, by a plain function."""
        if not self.writers[client].is_closing():
            self.writers[client].write(b"hello\n")

    @rule(client=clients)
    @closes
    async def leave(self, client: int) -> None:
        """Close a connection."""
        self.writers[client].close()

    async def teardown(self) -> None:  # type: ignore[override] # Hypothesis knows plain ones only
        """Close everything."""
        for writer in getattr(self, "writers", ()):
            writer.close()
        if hasattr(self, "server"):
            self.server.close()


class SimulatedChat(Chat):
    """On virtual time."""


class DrawnChat(Chat):
    """With decisions of the network."""

    drawn = True


class RealChat(Chat):
    """On real sockets."""

    target = "asyncio"
    budget = 0.01


def chat_on(target: str, **attributes: Any) -> type[Chat]:
    """Return the machine for one of the targets. A class on uvloop cannot be made without it."""
    kind = SimulatedChat if target == "simulated" else RealChat
    return type("ChatOnTarget", (kind,), {"target": target, **attributes})


MINIMAL = [
    "listen()",
    "clients_0 = join(name='ann')",
    "clients_1 = join(name='ann')",
    "leave(client=clients_0)",
]


def assert_is_the_leak(error: BaseException) -> None:
    """The sender of the first client is left, found after two joins and one close.

    Or it is found at the end, if nobody has left by then.
    """
    assert isinstance(error, LeakError)
    (group,) = error.report.groups
    assert (group.kind, group.name) == ("task", "ChatRoom.send")
    lines = [line.replace("'bob'", "'ann'") for line in program(error)]
    assert lines in (MINIMAL, MINIMAL[:-1])


def searched(machine: type[Chat], number: int, steps: int = 50) -> BaseException:
    """The failure that a search with a seed finds and shrinks."""
    one = seeded(number)(type(machine.__name__, (machine,), {}))
    with pytest.raises(LeakError) as caught:
        run_state_machine_as_test(one, settings=settings(options(100, steps), derandomize=False))
    return caught.value


@pytest.mark.slow
@pytest.mark.parametrize(
    ("machine", "number"),
    [(SimulatedChat, number) for number in range(10)] + [(RealChat, 0), (RealChat, 1)],
)
def test_machine_shrinks_the_leak_on_every_seed(machine: type[Chat], number: int) -> None:
    """On a simulated loop, and on a real one."""
    assert_is_the_leak(searched(machine, number))


@pytest.mark.slow
def test_machine_shrinks_the_leak_with_decisions_of_the_network() -> None:
    """On nine seeds of ten at most one step is left that does not matter."""
    lengths = [
        sum(not line.startswith("#") for line in program(searched(DrawnChat, number)))
        for number in range(10)
    ]

    assert sum(length <= len(MINIMAL) + 1 for length in lengths) >= 9, lengths


@pytest.mark.slow
@needs_uvloop
def test_machine_on_uvloop_finds_the_leak() -> None:
    """The third kind of loop."""
    assert_is_the_leak(searched(chat_on("uvloop"), 0, steps=20))


@pytest.mark.parametrize(
    ("target", "drawn"),
    [
        ("simulated", False),
        ("simulated", True),
        ("asyncio", False),
        pytest.param("uvloop", False, marks=needs_uvloop),
    ],
)
def test_machine_passes_the_fixed_server(target: str, *, drawn: bool) -> None:
    """A name that is taken is refused, and nothing is left."""
    fixed = chat_on(target, fixed=True, drawn=drawn)

    run_state_machine_as_test(fixed, settings=options(5, 8))


@pytest.mark.parametrize("target", TARGETS)
def test_machine_runs_the_program_that_is_printed(target: str) -> None:
    """Its rules may be called as plain functions, outside of Hypothesis."""
    state: Any = chat_on(target)()
    state.listen()
    first = state.join(name="ann")
    state.join(name="ann")
    state.say(client=first)
    with pytest.raises(LeakError, match=r"1 x ChatRoom\.send"):
        state.leave(client=first)
    state.teardown()
    with pytest.raises(RuntimeError, match="torn down; make a new one"):
        state.join(name="ann")


@pytest.mark.parametrize("machine", [SimulatedChat, RealChat])
def test_machine_does_not_count_the_leftovers_of_another(machine: type[Chat]) -> None:
    """Hypothesis keeps the locals of failed examples alive."""
    first: Any = machine()
    first.listen()
    first.join(name="ann")
    client = first.join(name="ann")
    with pytest.raises(LeakError) as caught:
        first.teardown()
    second: Any = machine()
    second.listen()
    client = second.join(name="ann")
    second.leave(client=client)
    second.teardown()

    assert caught.value.report.total == 1
    assert first.writers


class Restless(ServerMachine):
    """A machine without a purpose."""

    budget = 0.01

    @rule()
    async def rest(self) -> None:
        """Do nothing of note."""
        await asyncio.sleep(0)


def on(target: str, **functions: Any) -> type[ServerMachine]:
    """A machine on a target, with these functions."""
    return type("Machine", (Restless,), {"target": target, **functions})


async def hang(_machine: object) -> None:
    """Never return."""
    await forever()


def test_machine_names_a_rule_that_never_returns() -> None:
    """In a simulation it is a deadlock."""
    error = failure(on("simulated", hang=rule()(hang)))

    assert isinstance(error, DeadlockError)
    assert "1 x Machine.hang\n" in str(error)
    assert "waits in forever (" in str(error)
    assert program(error) == ["hang()"]


def test_machine_names_the_wait_of_a_rule_on_a_real_loop() -> None:
    """There it is a timeout."""
    state: Any = on("asyncio", hang=rule()(hang), timeout=0.1)()
    with pytest.raises(CallTimeoutError) as caught:
        state.hang()
    state.teardown()

    assert re.fullmatch(
        r"expected Machine\.hang to end within 0\.1 s, but it waits in forever \(\S+:\d+\) on "
        r"<Future pending>; raise `timeout` if it needs longer",
        str(caught.value),
    )
    assert type(pickle.loads(pickle.dumps(caught.value))) is CallTimeoutError  # noqa: S301 - ours


@pytest.mark.parametrize("target", ["simulated", "asyncio"])
def test_machine_tears_down_after_a_rule_that_resists(target: str) -> None:
    """A rule that ignores its cancellation has a task to itself; the teardown gets another."""
    seen = []

    async def resist(_machine: object) -> None:
        while True:
            try:
                await forever()
            except asyncio.CancelledError:
                seen.append("cancelled")
                if len(seen) > 8:
                    raise

    async def teardown(_machine: object) -> None:
        await asyncio.sleep(0)
        seen.append("torn down")

    state: Any = on(target, resist=rule()(resist), teardown=teardown, timeout=0.1)()
    with pytest.raises((DeadlockError, CallTimeoutError)):
        state.resist()
    state.teardown()

    assert seen[:2] == ["cancelled", "torn down"]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("interrupted", [False, True])
def test_machine_gives_no_warnings_for_connections_of_a_rule_that_is_ended(
    target: str, *, interrupted: bool
) -> None:
    """A rule that hangs is cancelled, and its open connection is no news."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def connect(machine: Any) -> None:
        machine.server = await asyncio.start_server(serve, HOST, 0)
        port = machine.server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection(HOST, port)
        if interrupted:
            asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGINT)
        await reader.read()
        writer.close()

    def teardown(machine: Any) -> None:
        machine.server.close()

    state: Any = on(target, connect=rule()(connect), teardown=teardown, timeout=0.1)()
    with pytest.raises((DeadlockError, CallTimeoutError, KeyboardInterrupt)):
        state.connect()
    state.teardown()
    gc.collect()


def test_machine_names_a_rule_that_never_settles() -> None:
    """A callback that calls itself is a livelock, of the step in which it began."""

    def spin(machine: Any) -> None:
        def again() -> None:
            machine.handle = asyncio.get_running_loop().call_soon(again)

        again()

    error = failure(on("simulated", spin=rule()(spin), simulation=Settings(step_limit=50)))

    assert isinstance(error, LivelockError)
    assert program(error) == ["spin()"]


class TwoLeaks(Restless):
    """A machine with two leaks."""

    @rule()
    def one(self) -> None:
        """Leak a task."""
        self.first = asyncio.get_running_loop().create_task(forever())

    @rule()
    def other(self) -> None:
        """Leak a task that is made elsewhere."""
        self.second = asyncio.get_running_loop().create_task(forever())


@pytest.mark.parametrize("target", ["simulated", "asyncio"])
def test_machine_raises_each_leak_as_a_failure_of_its_own(target: str) -> None:
    """All are raised at one line, which Hypothesis would take for one failure of one class."""

    def raised(step: str) -> LeakError:
        state: Any = type("Machine", (TwoLeaks,), {"target": target})()
        getattr(state, step)()
        with pytest.raises(LeakError) as caught:
            state.teardown()
        return caught.value

    one, again, other = raised("one"), raised("one"), raised("other")
    copy = pickle.loads(pickle.dumps(one))  # noqa: S301 - our own bytes

    assert type(one) is type(again)
    assert type(one) is not type(other)
    assert type(copy) is LeakError
    assert str(copy) == str(one)
    assert {type(each).__name__ for each in (one, other)} == {"LeakError"}


@pytest.mark.slow
def test_machine_reports_both_leaks() -> None:
    """Hypothesis shrinks each by itself, if it meets both before it is content with one."""
    found = set()
    for number in range(10):
        machine = seeded(number)(type("Machine", (TwoLeaks,), {}))
        with pytest.raises((LeakError, ExceptionGroup)) as caught:
            run_state_machine_as_test(machine, settings=settings(options(), derandomize=False))
        errors = getattr(caught.value, "exceptions", [caught.value])
        found.add(tuple(sorted(" ".join(program(each)) for each in errors)))

    assert found <= {("one()", "other()"), ("one()",), ("other()",)}
    assert ("one()", "other()") in found


def test_machine_of_plain_functions() -> None:
    """They run on the loop as well, so that they may make tasks."""

    class Plain(ServerMachine):
        """A counter."""

        count = 0

        @rule()
        def up(self) -> None:
            """Count."""
            self.count += 1
            self.task = asyncio.get_running_loop().create_task(asyncio.sleep(0))

        @invariant()
        def is_small(self) -> None:
            """The property that does not hold."""
            assert self.count < 3
            assert self.count == 0 or self.task.done()

    error = failure(Plain)

    assert isinstance(error, AssertionError)
    assert not isinstance(error, LeakError)
    assert [line for line in program(error) if line == "up()"] == ["up()"] * 3


class Features(ServerMachine):
    """Everything that Hypothesis offers for state machines."""

    numbers, words, pairs = Bundle("numbers"), Bundle("words"), Bundle("pairs")
    ready = 0

    @initialize(target=numbers)
    async def begin(self) -> int:
        """Run first, once."""
        await asyncio.sleep(0)
        assert not self.ready
        self.ready = 1
        return 1

    @rule(targets=(numbers, words), value=st.integers(2, 5))
    async def add(self, value: int) -> int:
        """Add to two bundles."""
        assert self.ready
        return value

    @rule(target=pairs, one=numbers)
    async def pair(self, one: int) -> MultipleResults[int]:
        """Add two values."""
        await asyncio.sleep(1)
        return multiple(one, -one)

    @rule(value=consumes(words))
    async def use(self, value: int) -> None:
        """Remove a value."""
        assert value >= 2

    @rule(one=pairs, data=st.data())
    @precondition(lambda self: self.ready)
    async def draw(self, one: int, data: st.DataObject) -> None:
        """Draw inside of a rule."""
        assert abs(one) in range(1, 6)
        assert data.draw(st.integers(0, abs(one))) <= 5
        await self.nested()

    @precondition(lambda self: not self.ready)
    @rule()
    async def never(self) -> None:
        """Never run."""
        raise AssertionError

    @rule()
    async def nested(self) -> None:
        """Called by Hypothesis and by a rule."""
        await asyncio.sleep(0)

    @invariant(check_during_init=True)
    async def holds(self) -> None:
        """Holds at all times."""
        await asyncio.sleep(0)
        assert self.ready in {0, 1}


@pytest.mark.parametrize("target", ["simulated", pytest.param("asyncio", marks=pytest.mark.slow)])
def test_machine_has_all_features(target: str) -> None:
    """Bundles, targets, preconditions, `consumes`, `multiple`, data drawn in a rule."""

    class Failing(Features):
        """Fails at last."""

        pair = None  # type: ignore[assignment] # it sleeps for a second

        @rule(value=consumes(Features.words))
        async def fail(self, value: int) -> None:
            """Fail for a value that a rule has made."""
            await asyncio.sleep(0)
            assert value != 3

    error = failure(type("Failing", (Failing,), {"target": target}), examples=60)

    assert isinstance(error, AssertionError)
    lines = [line for line in program(error) if "holds" not in line]
    assert lines[0] == "numbers_0 = begin()"
    assert re.fullmatch(r"numbers_1 = words_0 = add\(value=3\)", lines[1])
    assert lines[2:] == ["fail(value=words_0)"]


def test_machine_passes_with_all_features() -> None:
    """On virtual time, in which a rule may sleep for a second."""
    run_state_machine_as_test(Features, settings=options(10, 10))


class FixedChat(SimulatedChat):
    """For the test below, and collected by pytest itself."""

    fixed = True


TestFixedChat = FixedChat.TestCase
TestFixedChat.settings = options(5)


def test_machine_is_a_test_case_of_unittest() -> None:
    """It fails and passes as such, and pytest collects it."""
    case: Any = on("simulated", hang=rule()(hang)).TestCase
    case.settings = options(5, 3)
    result = unittest.TestResult()
    case("runTest").run(result)
    fixed: Any = FixedChat.TestCase
    fixed.settings = options(5)
    passed = unittest.TestResult()
    fixed("runTest").run(passed)

    assert len(result.errors) == 1
    assert "DeadlockError: nothing is ready" in result.errors[0][1]
    assert (passed.testsRun, passed.wasSuccessful()) == (1, True)


@pytest.mark.parametrize("target", ["simulated", "asyncio"])
def test_machine_makes_all_calls_in_one_task(target: str) -> None:
    """A scope that one rule enters, another may leave; context variables stay."""

    async def enter(machine: Any) -> None:
        machine.task = asyncio.current_task()
        machine.group = asyncio.TaskGroup()
        await machine.group.__aenter__()

    def spawn(machine: Any) -> None:
        machine.group.create_task(asyncio.sleep(0))

    async def teardown(machine: Any) -> None:
        if hasattr(machine, "group"):
            assert machine.task is asyncio.current_task()
            await machine.group.__aexit__(None, None, None)

    run_state_machine_as_test(
        on(target, enter=initialize()(enter), spawn=rule()(spawn), teardown=teardown),
        settings=options(3, 4),
    )


@pytest.mark.parametrize("target", ["simulated", "asyncio"])
def test_machine_passes_on_the_errors_of_a_task_group(target: str) -> None:
    """Hypothesis sees the group; no leak is reported in its place."""

    async def fail(_machine: object) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(forever())
            group.create_task(raises())

    async def raises() -> None:
        raise LookupError("planted")

    error = failure(on(target, fail=rule()(fail)), examples=5, steps=3)

    while isinstance(error, BaseExceptionGroup):
        assert len(error.exceptions) == 1
        (error,) = error.exceptions
    assert isinstance(error, LookupError)


@pytest.mark.parametrize("target", ["simulated", "asyncio"])
def test_machine_keeps_the_error_of_a_rule(target: str) -> None:
    """What the rule had no time to close is no news."""

    def fail(machine: Any) -> None:
        machine.left = asyncio.get_running_loop().create_task(forever())
        raise LookupError("planted")

    assert isinstance(failure(on(target, fail=rule()(fail)), examples=5, steps=3), LookupError)


@pytest.mark.parametrize("target", ["simulated", "asyncio"])
def test_machine_reports_a_rule_that_is_cancelled(target: str) -> None:
    """A bare cancellation would end the whole search."""

    async def fail(_machine: object) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    error = failure(on(target, fail=rule()(fail)), examples=5, steps=3)

    assert isinstance(error, RuntimeError)
    assert str(error) == "Machine.fail was cancelled"


@pytest.fixture
def no_loops_left() -> Iterator[None]:
    """No loop is open after the test that was not before; warnings are errors in any case."""

    def open_loops() -> set[int]:
        gc.collect()
        loops = [each for each in gc.get_objects() if isinstance(each, asyncio.AbstractEventLoop)]
        return {id(each) for each in loops if not each.is_closed()}

    before = open_loops()
    yield
    assert open_loops() <= before


@pytest.mark.usefixtures("no_loops_left")
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("raised", ["by the rule", "by a signal"])
def test_machine_ends_in_order_when_interrupted(target: str, raised: str) -> None:
    """Ctrl-C ends the search, after the teardown; nothing stays open."""
    seen = []

    async def interrupt(machine: Any) -> None:
        machine.left = asyncio.get_running_loop().create_task(forever())
        if raised == "by the rule":
            raise KeyboardInterrupt
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGINT)
        await forever()

    async def teardown(_machine: object) -> None:
        await asyncio.sleep(0)
        seen.append("torn down")

    machine = on(target, interrupt=rule()(interrupt), teardown=teardown)
    assert isinstance(failure(machine), KeyboardInterrupt)
    assert seen[-1] == "torn down"


@pytest.mark.parametrize("target", TARGETS)
def test_machine_puts_back_what_it_replaces(target: str) -> None:
    """The class of tasks, and the functions that a simulation guards."""
    before = asyncio.Task, time.sleep, dict(vars(threading.Thread))
    state: Any = on(target)()
    state.rest()
    during = asyncio.Task, time.sleep, dict(vars(threading.Thread))
    state.teardown()

    assert during != before
    assert (asyncio.Task, time.sleep, dict(vars(threading.Thread))) == before


@pytest.mark.usefixtures("no_loops_left")
def test_machine_whose_constructor_fails_opens_no_loop() -> None:
    """Hypothesis calls no teardown then."""

    class Broken(Restless):
        """Has no chance."""

        target = "asyncio"

        def __init__(self) -> None:
            super().__init__()
            raise LookupError("planted")

    assert isinstance(failure(Broken), LookupError)


def test_machine_refuses_calls_that_leave_the_simulation() -> None:
    """Also if the rule catches the refusal."""

    async def fail(_machine: object) -> None:
        with suppress(RuntimeError):
            await asyncio.create_subprocess_exec("true")

    assert isinstance(failure(on("simulated", fail=rule()(fail))), SimulationError)


class Heartbeats(ServerMachine):
    """A server whose heartbeat goes on if the peer resets the connection."""

    drawn = True
    simulation = Settings(network=Network(faults=("reset",)))

    @initialize()
    async def listen(self) -> None:
        """Start the server."""
        self.server = await asyncio.start_server(self.serve, HOST, 80)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client."""
        heartbeat = asyncio.create_task(forever())
        await reader.read()  # raises if the peer resets the connection
        heartbeat.cancel()
        writer.close()

    @rule()
    @closes
    async def visit(self) -> None:
        """Connect, send and close."""
        _, writer = await asyncio.open_connection(HOST, 80)
        writer.write(b"hello\n")
        writer.close()

    async def teardown(self) -> None:  # type: ignore[override] # Hypothesis knows plain ones only
        """Stop."""
        self.server.close()


def test_machine_draws_the_faults_of_the_network_and_prints_them() -> None:
    """As comments above the step in which they took effect."""
    error = failure(Heartbeats, examples=100)

    assert isinstance(error, LeakError)
    lines = program(error)
    assert lines[0] == "listen()"
    assert lines[-1] == "visit()"
    assert any(line.startswith("# the network resets connection 1") for line in lines)


def test_machine_drops_no_connection_when_an_example_ends_early() -> None:
    """A draw of the network that is too many must not end the tasks of a rule."""

    class Crowd(Heartbeats):
        """Several clients at a time, in a group."""

        simulation = Settings()
        visit = None  # type: ignore[assignment] # it leaks by a fault

        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            """Serve one client."""
            while await reader.read(100):
                writer.write(b"w")
            writer.close()

        async def client(self) -> None:
            """Be a client."""
            reader, writer = await asyncio.open_connection(HOST, 80)
            writer.write(b"h")
            await reader.read(1)
            writer.close()

        @rule(number=st.integers(1, 4))
        async def come(self, number: int) -> None:
            """Come together."""
            async with asyncio.TaskGroup() as group:
                for _ in range(number):
                    group.create_task(self.client())

        @rule(number=st.integers(0, 50))
        def fail(self, number: int) -> None:
            """Fail, so that Hypothesis shrinks."""
            assert number < 20

    assert isinstance(failure(Crowd, examples=50), AssertionError)


def test_machine_takes_the_plain_course_if_nothing_is_drawn() -> None:
    """The fault is allowed, and does not occur."""
    plain = type("Plain", (Heartbeats,), {"drawn": False})

    run_state_machine_as_test(plain, settings=options(10))


def test_machine_draws_short_gaps() -> None:
    """So that a rule may meet a program that has not settled."""

    class Racing(ServerMachine):
        """Its task needs three iterations."""

        drawn = True
        busy = False

        async def work(self) -> None:
            """Be busy for a while."""
            self.busy = True
            for _ in range(3):
                await asyncio.sleep(0)
            self.busy = False

        @rule()
        async def start(self) -> None:
            """Start work."""
            self.task = asyncio.create_task(self.work())

        @rule()
        def stop(self) -> None:
            """Find it busy."""
            assert not self.busy

    settled = type("Settled", (Racing,), {"drawn": False})
    run_state_machine_as_test(settled, settings=options(10))
    error = failure(Racing, examples=100)

    assert [line for line in program(error) if not line.startswith("#")] == ["start()", "stop()"]
    assert any(
        re.fullmatch(r"# only [012] iterations of the loop until the next step:", line)
        for line in program(error)
    )


def test_machine_counts_the_kinds_that_are_asked_for() -> None:
    """On each target by its own setting."""

    def leave(machine: Any) -> None:
        machine.handle = asyncio.get_running_loop().call_later(1_000, machine.rest)

    steps = {"leave": rule()(leave)}
    for machine in (
        on("simulated", **steps, simulation=Settings(kinds=["task"])),
        on("simulated", **steps, simulation=Settings(leaks=False)),
        on("asyncio", **steps, kinds=["task"]),
    ):
        run_state_machine_as_test(machine, settings=options(2, 3))
    for target in ("simulated", "asyncio"):
        state: Any = on(target, **steps)()
        state.leave()
        with pytest.raises(LeakError, match="1 timer leaked"):
            state.teardown()


def test_machine_sees_its_simulation() -> None:
    """Rules may declare faults."""

    def look(_machine: object) -> None:
        assert current().ledger.count

    run_state_machine_as_test(on("simulated", look=rule()(look)), settings=options(3))


@pytest.mark.parametrize(
    ("attributes", "kind", "message"),
    [
        (
            {"target": "trio"},
            ValueError,
            "Wrong.target: expected one of 'simulated', 'asyncio', 'uvloop', got 'trio'",
        ),
        ({"simulation": {}}, TypeError, "Wrong.simulation: expected muxleak.sim.Settings, got {}"),
        (
            {"target": "asyncio", "drawn": True},
            ValueError,
            "Wrong.drawn: only a simulated network can be drawn, not 'asyncio'",
        ),
        ({"timeout": 0}, ValueError, "Wrong.timeout: expected seconds above 0, got 0"),
        ({"budget": "1"}, ValueError, "Wrong.budget: expected seconds above 0, got '1'"),
        ({"kinds": ["tusk"]}, ValueError, "unknown kinds"),
        ({"ignore": ["x"]}, TypeError, "expected ignore values, got"),
    ],
)
def test_machine_refuses_wrong_attributes(
    attributes: dict[str, Any], kind: type[Exception], message: str
) -> None:
    """When the class is made."""
    with pytest.raises(kind, match=re.escape(message)):
        type("Wrong", (Restless,), attributes)


async def condition(_machine: object) -> bool:
    """Return a coroutine, which is always true."""
    return False


async def generator(_machine: object) -> Any:
    """Yield, by mistake."""
    yield 1


def test_machine_refuses_wrong_rules() -> None:
    """A condition that is a coroutine would always hold; a generator function would do nothing."""
    wrong: Any = condition
    asked = on("simulated", asked=precondition(wrong)(rule()(Restless.teardown)))
    with pytest.raises(InvalidDefinition, match=r"a precondition of Machine\.\w+ is a coroutine"):
        asked()
    with pytest.raises(InvalidDefinition, match=r"Machine\.generator is a generator function"):
        on("simulated", generator=rule()(generator))()


def test_closes_may_stand_anywhere_and_refuses_others() -> None:
    """Above or below the decorators of Hypothesis; not on a class, or a rule of another machine."""

    class Above(SimulatedChat):
        """As before, with the mark above."""

        @closes
        @precondition(lambda _: True)
        @rule(client=Chat.clients)
        async def leave(self, client: int) -> None:
            """Close a connection."""
            self.writers[client].close()

    state: Any = Above()
    state.listen()
    state.join(name="ann")
    state.join(name="ann")
    with pytest.raises(LeakError):
        state.leave(client=0)
    state.teardown()
    with pytest.raises(TypeError, match="closes marks a rule, got <class"):
        closes(Restless)
    with pytest.raises(TypeError, match=r"closes marks rules, got the invariant Features\.holds"):
        closes(Features.holds)

    class Other(RuleBasedStateMachine):
        """A plain one of Hypothesis."""

        @rule()
        @closes
        def leave(self) -> None:
            """Do nothing."""

    assert "closes marks rules of a ServerMachine, got one of" in str(failure(Other))


def test_machine_refuses_to_run_on_a_loop() -> None:
    """It runs a loop of its own."""

    async def main() -> None:
        for target in ("asyncio", "simulated"):
            with pytest.raises(RuntimeError, match="Machine runs a loop of its own; start it"):
                run_state_machine_as_test(on(target), settings=options(1, 1))

    asyncio.run(main())


class Reaped(ServerMachine):
    """A server whose first connection starts one task for all of them."""

    server: Any = None
    reaping: "asyncio.Task[None] | None" = None
    idle = 0.0

    @initialize()
    async def listen(self) -> None:
        """Start the server."""
        self.server = await asyncio.start_server(self.serve, HOST, 0)

    async def reaper(self) -> None:
        """Stay until the teardown."""
        await forever()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Start the task, and wait for the client's end."""
        self.reaping = self.reaping or asyncio.create_task(self.reaper())
        await reader.read()
        writer.close()

    @rule()
    @closes
    async def visit(self) -> None:
        """Connect and leave."""
        _, writer = await asyncio.open_connection(*self.server.sockets[0].getsockname())
        writer.close()
        await asyncio.sleep(self.idle)

    async def teardown(self) -> None:  # type: ignore[override] # Hypothesis knows plain ones only
        """End the server, and its task unless it is meant to stay."""
        if self.server is not None:
            self.server.close()
        if self.reaping is not None and not self.idle:
            self.reaping.cancel()


@pytest.mark.parametrize(
    "target",
    [
        "simulated",
        pytest.param("asyncio", marks=pytest.mark.slow),
        pytest.param("uvloop", marks=[needs_uvloop, pytest.mark.slow]),
    ],
)
def test_exemptions_hold_on_every_target(target: str) -> None:
    """After a close, beyond the limit of a close, and at the end."""
    exempt = ignore_name("Reaped.reaper", reason="one for all connections")
    idle = 100.0 if target == "simulated" else 0.001
    kind: Any = type("Exempt", (Reaped,), {"target": target, "ignore": exempt, "idle": idle})
    run_state_machine_as_test(kind, settings=options(2, steps=3))
    kind = type("Counted", (Reaped,), {"target": target})
    error = failure(kind, examples=2, steps=3)
    assert isinstance(error, LeakError)
    assert "Reaped.reaper" in str(error)
