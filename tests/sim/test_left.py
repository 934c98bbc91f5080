"""Every kind of leak is found, where it was made; the fixed twin passes."""

import asyncio
import gc
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import closing, suppress
from typing import Any

import pytest

from muxleak import LeakError
from muxleak.checks.report import LeakGroup
from muxleak.search import find_leaks
from muxleak.sim import Choices, Network, check_connections, current, replay, simulate
from muxleak.sim.settings import Settings

WHERE = ("127.0.0.1", 7000)
TASK = asyncio.Task
"""The class as whoever imports it early has it: what that makes is not seen being made."""

Plant = Callable[[list[Any], bool], Coroutine[Any, Any, None]]


async def task(kept: list[Any], fixed: bool) -> None:  # noqa: FBT001 - a twin
    """A task that waits for what never comes."""
    del kept
    waiting = asyncio.get_running_loop().create_task(asyncio.Event().wait())
    if fixed:
        waiting.cancel()


async def task_made_directly(kept: list[Any], fixed: bool) -> None:  # noqa: FBT001 - a twin
    """The same, past the loop."""
    del kept
    waiting: asyncio.Task[Any] = asyncio.Task(asyncio.Event().wait())
    if fixed:
        waiting.cancel()


async def timer(kept: list[Any], fixed: bool) -> None:  # noqa: FBT001 - a twin
    """A time limit that nobody takes back."""
    del kept
    handle = asyncio.get_running_loop().call_later(300, print, "late")
    if fixed:
        handle.cancel()


async def timer_at(kept: list[Any], fixed: bool) -> None:  # noqa: FBT001 - a twin
    """The same, by `call_at`, on a public method of asyncio."""
    kept.append(asyncio.Event())
    handle = asyncio.get_running_loop().call_at(300, kept[-1].set)
    if fixed:
        handle.cancel()


async def transport(kept: list[Any], fixed: bool) -> None:  # noqa: FBT001 - a twin
    """A connection that its client forgets to close."""
    _, writer = await asyncio.open_connection(*WHERE)
    kept.append(writer)
    if fixed:
        writer.close()


async def forgotten(kept: list[Any], fixed: bool) -> None:  # noqa: FBT001 - a twin
    """The socket that asyncio forgets if a race of connections is cancelled."""
    task = asyncio.current_task()
    assert task is not None
    if not fixed:
        cancel_later(task, 5)
    with suppress(asyncio.CancelledError):
        _, writer = await asyncio.open_connection(*WHERE, happy_eyeballs_delay=0.25)
        kept.append(writer)
        writer.close()
    task.uncancel()


def cancel_later(task: asyncio.Task[Any], iterations: int) -> None:
    """Cancel a task after some iterations: `asyncio` connects in fewer, but for the transport."""
    if iterations:
        asyncio.get_running_loop().call_soon(cancel_later, task, iterations - 1)
    else:
        task.cancel()


async def endpoint(kept: list[Any], fixed: bool) -> None:  # noqa: FBT001 - a twin
    """A datagram endpoint that stays open."""
    loop = asyncio.get_running_loop()
    found, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=WHERE)
    kept.append(found)
    if fixed:
        found.close()


async def server(kept: list[Any], fixed: bool) -> None:  # noqa: FBT001 - a twin
    """A server that goes on listening."""
    kept.append(await asyncio.start_server(hang_up, "127.0.0.1", 7001))
    if fixed:
        kept[-1].close()


async def generator(kept: list[Any], fixed: bool) -> None:  # noqa: FBT001 - a twin
    """An async generator that is left at its first item."""
    kept.append(count())
    await anext(kept[-1])
    if fixed:
        await kept[-1].aclose()


async def error(kept: list[Any], fixed: bool) -> None:  # noqa: FBT001 - a twin
    """A task whose exception nobody asks for."""
    del kept
    failing = asyncio.create_task(fail())
    await asyncio.wait([failing])
    if fixed:
        failing.exception()


async def error_in_a_cycle(kept: list[Any], fixed: bool) -> None:  # noqa: FBT001 - a twin
    """The same, where the task is reachable from its own traceback."""
    del kept
    holder: list[Any] = []

    async def fails() -> None:
        holder.append(asyncio.current_task())
        raise ValueError(len(holder))

    failing = asyncio.create_task(fails())
    await asyncio.wait([failing])
    if fixed:
        failing.exception()


async def destroyed(kept: list[Any], fixed: bool) -> None:  # noqa: FBT001 - a twin
    """A task made past the loop and unseen, which only its own cycle holds."""
    del kept
    found: asyncio.Task[Any] = TASK(asyncio.Event().wait())
    await asyncio.sleep(0)
    if fixed:
        found.cancel()
    await asyncio.sleep(0)
    del found
    gc.collect(0)


PLANTS: dict[Plant, str] = {
    task: "task",
    task_made_directly: "task",
    timer: "timer",
    timer_at: "timer",
    transport: "transport",
    forgotten: "transport",
    endpoint: "transport",
    server: "server",
    generator: "generator",
    error: "error",
    error_in_a_cycle: "error",
    destroyed: "destroyed",
}
BLIND_TO_PLACE = {"destroyed"}  # asyncio tells neither where it was made nor, on 3.11, for whom


async def count() -> AsyncIterator[int]:
    """Yield for ever."""
    while True:
        yield 1


async def fail() -> None:
    """Fail."""
    raise ValueError("no")


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Wait for the other end's end."""
    await reader.read()
    writer.close()


def at_the_end(
    plant: Plant, *, fixed: bool, kept: list[Any] | None = None
) -> Callable[[], Coroutine[Any, Any, None]]:
    """A program that leaves something behind, and takes no notice."""
    kept = [] if kept is None else kept

    async def program() -> None:
        kept.clear()
        listening = await asyncio.start_server(hang_up, *WHERE)
        await plant(kept, fixed)
        await current().settle()
        listening.close()

    return program


def in_operation(plant: Plant, *, fixed: bool) -> Callable[[], Coroutine[Any, Any, str]]:
    """A program of two concurrent operations of which one leaves something behind; the report."""
    kept: list[Any] = []

    async def operate(name: str, planted: Awaitable[None]) -> LeakGroup | None:
        try:
            async with current().operation(name):
                await planted
        except LeakError as exc:
            return exc.report.groups[0]
        return None

    async def program() -> str:
        kept.clear()
        listening = await asyncio.start_server(hang_up, *WHERE)
        bad, good = await asyncio.gather(
            operate("request 1", plant(kept, fixed)), operate("request 2", asyncio.sleep(0))
        )
        listening.close()
        assert good is None, good
        return "clean" if bad is None else f"{bad.kind} {bad.site}"

    return program


@pytest.mark.parametrize("plant", PLANTS)
def test_left_at_the_end_is_found(plant: Plant) -> None:
    """What is left at the program's end is reported with its kind and place, else nothing is."""
    with pytest.raises(LeakError) as caught:
        simulate(at_the_end(plant, fixed=False))

    kind = PLANTS[plant]
    sites = [group.site for group in caught.value.report.groups if group.kind == kind]
    assert sites
    assert kind in BLIND_TO_PLACE or any(site.endswith(f" in {plant.__name__}") for site in sites)
    simulate(at_the_end(plant, fixed=True))


@pytest.mark.parametrize("plant", [each for each in PLANTS if each is not destroyed])
def test_left_by_an_operation_is_its_own(plant: Plant) -> None:
    """The operation that left it is told, and not the other one that ran at the same time."""
    found = simulate(in_operation(plant, fixed=False), leaks=False).value

    assert found.startswith(f"{PLANTS[plant]} ")
    assert found.endswith(f" in {plant.__name__}")
    assert simulate(in_operation(plant, fixed=True)).value == "clean"


@pytest.mark.parametrize("plant", PLANTS)
def test_kinds_can_be_left_out(plant: Plant) -> None:
    """A kind that does not count is not looked for."""
    others = Settings().counted - {PLANTS[plant], "transport", "task"}

    simulate(at_the_end(plant, fixed=False), kinds=others)


@pytest.mark.parametrize("plant", PLANTS)
def test_left_is_searched_for_shrunk_and_replayed(plant: Plant) -> None:
    """A leak of any kind that needs two draws is found, shrunk to them, and there again."""

    async def program() -> None:
        draws = [current().choices.below(4) for _ in range(6)]
        fixed = draws[1] < 2
        await at_the_end(plant, fixed=fixed, kept=kept)()

    kept: list[Any] = []
    found = find_leaks(program)

    assert found is not None
    assert found.replay.program == b"\0\2"
    again = replay(found.replay.line, program)
    assert isinstance(again.error, LeakError)
    assert {group.kind for group in again.error.report.groups} >= {PLANTS[plant]}


def test_made_before_the_operation_is_no_leak() -> None:
    """A singleton that was there before, and what it keeps, is not held against an operation."""

    async def program() -> None:
        kept: list[Any] = []
        listening = await asyncio.start_server(hang_up, *WHERE)
        for plant in (task, timer, transport, generator):
            await plant(kept, fixed=False)
        async with current().operation("request"):
            kept[0].write(b"hello")
            await kept[0].drain()
            await anext(kept[1])
        kept[0].close()
        listening.close()

    simulate(program, leaks=False)


def test_timers_of_a_wait_are_their_tasks() -> None:
    """A sleep, a timeout and a time limit are told as the task that waits, and once."""

    async def wait(how: int) -> None:
        event = asyncio.Event()
        if how == 0:
            await asyncio.sleep(300)
        elif how == 1:
            await asyncio.wait_for(event.wait(), 300)
        elif how == 2:
            async with asyncio.timeout(300):
                await event.wait()
        else:
            await asyncio.wait([asyncio.ensure_future(event.wait())], timeout=300)

    async def program() -> None:
        kept.extend(asyncio.create_task(wait(how)) for how in range(4))

    kept: list[Any] = []
    with pytest.raises(LeakError) as caught:
        simulate(program)

    assert {group.kind for group in caught.value.report.groups} == {"task"}


def test_heartbeat_never_ends() -> None:
    """A timer that sets itself again is found at the end, charged to whoever set the first."""

    async def program() -> None:
        loop = asyncio.get_running_loop()

        def beat() -> None:
            loop.call_later(5, beat)

        async with current().operation("request"):
            beat()

    with pytest.raises(LeakError, match=r"timer: .*beat[\s\S]*of request"):
        simulate(program)


def test_connection_that_was_dropped_and_collected_is_a_leak() -> None:
    """Only a collection by the program itself closes it; a real loop's would come at any time."""

    class Drops(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            transport.pause_reading()

    ends: list[bytes] = []

    async def program() -> None:
        loop = asyncio.get_running_loop()
        listening = await loop.create_server(Drops, *WHERE)
        reader, writer = await asyncio.open_connection(*WHERE)
        await current().settle()
        gc.collect()
        ends.append(await reader.read())
        writer.close()
        listening.close()

    with pytest.raises(LeakError, match=r"1 transport leaked[\s\S]*was dropped, and freed without"):
        simulate(program)
    assert ends == [b""]
    again = simulate(program, leaks=False)
    assert again.trace_hash == simulate(program, leaks=False).trace_hash


def test_accepted_connection_is_charged_to_itself() -> None:
    """A server that forgets its end is told which connection, and where it listens."""

    async def forget(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        kept.append(writer)

    async def program() -> None:
        listening = await asyncio.start_server(forget, *WHERE)
        _, writer = await asyncio.open_connection(*WHERE)
        writer.close()
        await current().settle()
        listening.close()

    kept: list[Any] = []
    with pytest.raises(LeakError, match=r"accepted connection[\s\S]*of connection 1 to 127") as got:
        simulate(program)

    assert got.value.report.groups[0].site.endswith(".program")


def test_failed_handler_of_a_server_is_no_leak() -> None:
    """What asyncio itself tells of, on some Pythons, is in the errors at most."""

    async def break_down(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        raise ConnectionResetError

    async def program() -> None:
        listening = await asyncio.start_server(break_down, *WHERE)
        _, writer = await asyncio.open_connection(*WHERE)
        writer.close()
        await current().settle()
        listening.close()

    assert "ConnectionResetError" in simulate(program).errors[0]


def test_tasks_of_another_factory_are_found() -> None:
    """A program that installs a task factory of its own hides nothing."""

    async def program() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(lambda loop, coro, **_: TASK(coro, loop=loop))
        kept.append(asyncio.create_task(asyncio.Event().wait()))

    kept: list[Any] = []
    with pytest.raises(LeakError, match=r"1 x Event\.wait"):
        simulate(program)


def test_a_fault_is_not_held_against_who_closes() -> None:
    """Who closes a connection that a black hole cut has done what there is to do."""

    async def program() -> None:
        seen: list[asyncio.StreamWriter] = []
        listening = await asyncio.start_server(lambda _, writer: seen.append(writer), *WHERE)
        _, writer = await asyncio.open_connection(*WHERE)
        await current().settle()
        current().fault("black hole", *WHERE)
        for end in (seen[0], writer):
            end.write(b"never arrives")
            end.close()
        await current().settle()
        listening.close()

    simulate(program)


@pytest.mark.parametrize("fixed", [False, True])
def test_callbacks_that_pile_up_are_found_when_asked_for(fixed: bool) -> None:  # noqa: FBT001 - a twin
    """A callback that an operation leaves on a long-lived future counts if it is asked for."""

    def on_close(_: object) -> None:
        """Never called."""

    async def program() -> None:
        shutdown: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for number in range(300):
            async with current().operation(f"request {number}"):
                shutdown.add_done_callback(on_close)
                await asyncio.sleep(0)
                if fixed or number < 290:
                    shutdown.remove_done_callback(on_close)

    simulate(program)
    kinds = {*Settings().counted, "callback"}
    if fixed:
        simulate(program, kinds=kinds)
        return
    with pytest.raises(LeakError, match=r"on_close[\s\S]*waits on a future[\s\S]*request 290"):
        simulate(program, kinds=kinds)


def presence(*, fixed: bool, seconds: float = 0.0) -> Callable[[], Coroutine[Any, Any, None]]:
    """Make a program of two clients; the second one's task waits for the first one to leave."""

    async def program() -> None:
        left = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            watcher = asyncio.create_task(left.wait())
            lingering = asyncio.create_task(asyncio.sleep(seconds))
            await reader.read()
            if fixed:
                watcher.cancel()
            writer.close()
            await lingering

        listening = await asyncio.start_server(serve, *WHERE)
        _, first = await asyncio.open_connection(*WHERE)
        _, second = await asyncio.open_connection(*WHERE)
        with closing(first), closing(second):
            await current().settle()
            second.close()
            await current().settle()
            first.close()
        left.set()
        listening.close()

    return program


def test_left_by_a_connection_is_found_while_others_are_open() -> None:
    """A task that ends with another client is found by `check_connections`, and only by it."""
    simulate(presence(fixed=False))
    with pytest.raises(LeakError, match=r"1 task leaked[\s\S]*Event.wait[\s\S]*of connection 2 to"):
        simulate(presence(fixed=False), check=check_connections)

    simulate(presence(fixed=True), check=check_connections)


def test_task_that_sleeps_after_its_connection_counts() -> None:
    """`check_connections` does not wait: a task that sleeps outlives its connection."""
    simulate(presence(fixed=True, seconds=5))
    with pytest.raises(LeakError, match="of connection 2 to"):
        simulate(presence(fixed=True, seconds=5), check=check_connections)


def test_fault_that_was_drawn_is_among_the_steps() -> None:
    """A finding has the fault on which it depends, after the step in which it was drawn."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pings = asyncio.create_task(asyncio.Event().wait())
        await reader.read()
        pings.cancel()
        writer.close()

    async def program() -> None:
        listening = await asyncio.start_server(serve, *WHERE)
        current().step("connect")
        with suppress(OSError):
            _, writer = await asyncio.open_connection(*WHERE)
            writer.close()
        listening.close()

    found = find_leaks(program, network=Network(faults=("reset",)))
    assert found is not None
    assert found.steps[0] == "connect"
    assert found.steps[1].startswith("the network resets connection 1 to 127.0.0.1:7000, ")

    again = replay(found.replay.line, program, network=Network(faults=("reset",)))
    assert tuple(again.steps) == found.steps


@pytest.mark.parametrize("fault", ["refuse", "black hole", "stall", "half-close"])
def test_every_fault_that_can_be_drawn_has_its_words(fault: str) -> None:
    """Faults of a connection that is made name its address; one-sided ones name the side."""

    async def program() -> None:
        listening = await asyncio.start_server(hang_up, *WHERE)
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(1):
                _, writer = await asyncio.open_connection(*WHERE)
                writer.close()
        await current().settle()
        listening.close()
        drawn = [each for each in current().steps if each.startswith("the network ")]
        assert not drawn, drawn

    found = find_leaks(program, network=Network(faults=(fault,)), leaks=False)
    assert found is not None
    words = {
        "refuse": "refuses a connection to 127.0.0.1:7000",
        "black hole": "swallows a connection to 127.0.0.1:7000: no answer comes",
        "stall": r"stalls connection 1 to 127.0.0.1:7000 at the \w+ for 1 s, before any byte",
        "half-close": r"half-closes connection 1 to 127.0.0.1:7000 at the \w+, before any byte",
    }
    assert re.fullmatch(f"the network {words[fault]}", found.steps[0])


@pytest.mark.parametrize("how", ["task", "operation"])
@pytest.mark.parametrize("fault", ["reset", "stall", "half-close"])
def test_fault_in_words_says_whose_connection_which_end_and_how_many_bytes(
    fault: str, how: str
) -> None:
    """At its place among the steps: after the step that sends, with the bytes that had passed."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while line := await reader.readline():
                writer.write(line)
        writer.close()

    async def client() -> None:
        _, writer = await asyncio.open_connection(*WHERE)
        for number in range(3):
            current().step(f"send {number}")
            writer.write(b"x\n")
            await current().settle()
        writer.close()

    async def program() -> None:
        listening = await asyncio.start_server(serve, *WHERE)
        if how == "task":
            await asyncio.create_task(client(), name="bob")
        else:
            async with current().operation("fetch 7"):
                await client()
        listening.close()
        drawn = [each for each in current().steps if each.startswith("the network ")]
        assert not (drawn and "after 2 bytes from the client" in drawn[0]), drawn

    settings: Any = {"network": Network(faults=(fault,), cut=False), "leaks": False}
    found = find_leaks(program, **settings)
    assert found is not None
    of = "client bob" if how == "task" else "fetch 7"
    where, end = f"connection 1 of {of} to 127.0.0.1:7000", "after 2 bytes from the client"
    words = {
        "reset": f"resets {where}, {end}",
        "stall": f"stalls {where} at the server for 1 s, {end}",
        "half-close": f"half-closes {where} at the server, {end}",
    }
    sent = found.steps.index(f"the network {words[fault]}")
    assert found.steps[sent - 1] == ("send 0" if fault != "stall" else "send 1")
    again = replay(found.replay.line, program, **settings)
    assert tuple(again.steps) == found.steps
    assert again.trace_hash == found.replay.trace


def test_cancellation_that_was_drawn_is_among_the_steps() -> None:
    """A finding names the task that was cancelled; the length of a gap stays at its step."""

    async def fetch() -> None:
        event = asyncio.Event()
        asyncio.get_running_loop().call_later(1, event.set)
        inner = asyncio.create_task(asyncio.Event().wait())
        await event.wait()
        inner.cancel()

    async def program() -> None:
        current().step("fetch")
        task = asyncio.create_task(fetch())
        await asyncio.wait([task])

    found = find_leaks(program, cancel=("fetch",))

    assert found is not None
    assert found.steps[0] == "fetch"
    assert re.fullmatch(
        r"task test_\w+\.<locals>\.fetch is cancelled while it waits in test_\w+\.<locals>\.fetch "
        r"\(tests/sim/test_left.py:\d+\)(, in the iteration in which it is woken)?",
        found.steps[1],
    )


def test_gap_after_a_fault_belongs_to_the_step() -> None:
    """The length of a short gap is appended to the program's last step, not to a fault."""

    async def program() -> None:
        current().step("say")
        current().drawn("the network resets connection 1")
        await current().gap()

    outcome = simulate(program, choices=Choices(bytes([3]), b""))

    assert outcome.steps == ("say !1", "the network resets connection 1")


def test_kinds_must_be_possible() -> None:
    """What cannot exist in a simulation is refused with what can; one kind may stand alone."""
    with pytest.raises(ValueError, match=r"\['thread'\] cannot be left .* there are callback, de"):
        Settings(kinds=["task", "thread"])
    with pytest.raises(ValueError, match=r"unknown kinds \['tasks'\]"):
        Settings(kinds="tasks")
    assert Settings(kinds="task").counted == {"task"}


@pytest.mark.filterwarnings("ignore:unclosed <StreamWriter:ResourceWarning")
@pytest.mark.parametrize("closes", [False, True])
def test_connection_of_a_dropped_stream_is_a_leak(closes: bool) -> None:  # noqa: FBT001 - a twin
    """Although the finalizer of the stream closes it, where Python has one: the program did not."""
    peers: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.append(await reader.read())
        writer.close()

    async def visit() -> None:
        _, writer = await asyncio.open_connection(*WHERE)
        writer.write(b"x")
        if closes:
            writer.close()

    async def program() -> None:
        async with await asyncio.start_server(serve, *WHERE):
            await visit()
            await current().settle()

    if closes:
        simulate(program)
        assert peers == [b"x"]
        return
    with pytest.raises(LeakError, match=r"1 x transport: connection\s+made at \S+ in \S+visit"):
        simulate(program)
