"""The oracle: every property is seen to fail on a fault of its own, and on that fault alone."""

import asyncio
import contextvars
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings

from muxleak_scenarios import (
    PROPERTIES,
    Sequence,
    SequenceOutcome,
    SimTarget,
    Target,
    TcpTarget,
    run_sequence,
)
from muxleak_scenarios import sequences as some_sequences
from muxleak_scenarios.pairs.check import check_sequence
from muxleak_scenarios.pairs.registry import FLAGSHIP, load_pairs
from muxleak_scenarios.sequence.decoder import WIDTH, decode
from muxleak_scenarios.sequence.handlers import HANDLERS, Switchboard, echo, sink
from muxleak_scenarios.targets.run import SequenceRun
from muxleak_vless import Address, Context, Lifecycle, Limits, MuxSession, Stream
from muxleak_vless.link import Link
from muxleak_vless.stream import Handler
from muxleak_vless.versions import VERSIONS

RunLine = Callable[..., SequenceOutcome]
NewTarget = Callable[[Lifecycle], Target]

FLAGSHIP_BUGGY = load_pairs()[FLAGSHIP].buggy


# Faults of a handler, in place of the handler `echo`.


async def leaves_a_task(stream: Stream, context: Context) -> None:
    """Start a task that never ends."""
    _ = asyncio.get_running_loop().create_task(asyncio.Event().wait())
    await echo(stream, context)


async def leaves_an_exception(stream: Stream, context: Context) -> None:
    """Start a task whose exception is not retrieved, and keep the two in a cycle."""
    failed: list[asyncio.Task[None]] = []

    async def fail() -> None:
        error = RuntimeError("unseen")
        failed.append(task)
        raise error

    task = asyncio.get_running_loop().create_task(fail())
    await echo(stream, context)


async def leaves_a_timer(stream: Stream, context: Context) -> None:
    """Set a timer and do not cancel it."""
    asyncio.get_running_loop().call_later(1000, stream.close)
    await echo(stream, context)


async def drops_a_byte(stream: Stream, _: Context) -> None:
    """Echo all but the first byte of each packet."""
    while data := await stream.read():
        await stream.write(data[1:])


async def reorders(stream: Stream, _: Context) -> None:
    """Echo each packet backwards."""
    while data := await stream.read():
        await stream.write(data[::-1])


async def repeats(stream: Stream, _: Context) -> None:
    """Echo twice."""
    while data := await stream.read():
        await stream.write(data * 2)


async def says_nothing(stream: Stream, context: Context) -> None:
    """Take bytes and lose them."""
    await sink(stream, context)


async def answers_under_another_id(stream: Stream, _: Context) -> None:
    """Echo under the next stream's id, whether it was opened or not."""
    while data := await stream.read():
        stream.stream_id += 1
        owner = stream._owner
        assert isinstance(owner, MuxSession)
        owner.streams[stream.stream_id] = stream
        await stream.write(data)


async def resets(stream: Stream, _: Context) -> None:
    """Fail the stream instead of echoing."""
    await stream.read()
    stream.close(error=True)


async def hangs_up(stream: Stream, _: Context) -> None:
    """End the whole connection instead of echoing."""
    await stream.read()
    owner = stream._owner
    assert isinstance(owner, MuxSession)
    owner.link.close()


HANDLER_FAULTS: dict[Handler, tuple[str, ...]] = {
    leaves_a_task: ("tasks", "bounds"),
    leaves_an_exception: ("exceptions",),
    leaves_a_timer: ("timers",),
    drops_a_byte: ("data",),
    reorders: ("data",),
    repeats: ("data",),
    says_nothing: ("data",),
    answers_under_another_id: ("data",),
    resets: ("data",),
    hangs_up: ("data",),
}


EXACT_ONLY = {leaves_a_timer, resets, hangs_up}


# Faults of the life cycle.


class CleansUpTwice(Lifecycle):
    """Each call of the cleanup acts."""

    def may_clean_up(self, session: MuxSession) -> bool:
        """Say yes."""
        del session
        return True


class NeverCleansUp(Lifecycle):
    """Everything is released, but not by the cleanup."""

    def receive_ended(self, session: MuxSession, cause: BaseException) -> None:
        """Release by hand."""
        for stream in session.reachable():
            session.end_stream(stream, cause)
        session.link.close()
        session.context.cancel(cause)

    def may_clean_up(self, session: MuxSession) -> bool:
        """Say no."""
        del session
        return False


class KeepsTheWatcher(Lifecycle):
    """The watcher waits for the server's end."""

    def watched_context(self, session: MuxSession) -> Context | None:
        """Return the wrong one."""
        return session.parent


LIFECYCLE_FAULTS: dict[type[Lifecycle], str] = {
    CleansUpTwice: "cleanup: connection a: expected exactly 1 cleanup, got 2",
    NeverCleansUp: "cleanup: connection a: expected exactly 1 cleanup, got 0",
    KeepsTheWatcher: "tasks: connection a: expected 0 alive after its close, got 1",
}


@pytest.mark.parametrize("line", ["a:open a:new:1:echo+5 a:data:1+60 a:close"])
def test_oracle_is_content_with_the_reference(run: RunLine, target: NewTarget, line: str) -> None:
    """Without a fault, no property fails on the sequence that the faults are shown on."""
    assert run(line, target=target).violations == []


@pytest.mark.parametrize(("fault", "violated"), HANDLER_FAULTS.items())
def test_oracle_sees_a_handler_fault(
    run: RunLine, monkeypatch: pytest.MonkeyPatch, fault: Handler, violated: tuple[str, ...]
) -> None:
    """Each fault of a handler breaks the property it should, and no other."""
    monkeypatch.setitem(HANDLERS, "echo", fault)

    assert run("a:open a:new:1:echo+5 a:data:1+60 a:close").violated == violated


@pytest.mark.parametrize(
    ("fault", "violated"),
    [(fault, HANDLER_FAULTS[fault]) for fault in HANDLER_FAULTS if fault not in EXACT_ONLY],
)
@pytest.mark.slow
def test_oracle_sees_a_handler_fault_over_tcp(
    run: RunLine, monkeypatch: pytest.MonkeyPatch, fault: Handler, violated: tuple[str, ...]
) -> None:
    """The same on sockets, where timers cannot be seen and a busy machine excuses resets."""
    monkeypatch.setitem(HANDLERS, "echo", fault)

    assert run("a:open a:new:1:echo+5 a:close", target=TcpTarget).violated == violated


@pytest.mark.parametrize(("fault", "first"), LIFECYCLE_FAULTS.items())
def test_oracle_sees_a_lifecycle_fault(run: RunLine, fault: type[Lifecycle], first: str) -> None:
    """Each wrong method breaks the property it should, and no other."""
    outcome = run("a:open a:new:1:echo+5 a:close", fault)

    assert outcome.violated == (first.partition(":")[0],)
    assert str(outcome.violations[0]) == first


def test_oracle_sees_a_cleanup_long_after_the_close(run: RunLine) -> None:
    """V1 cleans up again when the server ends, and releases a connection that is not open."""
    task, count = run("a:open a:close cancel", VERSIONS["V1"]).violations

    assert (task.property, task.connection) == ("tasks", "a")
    assert (count.property, count.connection) == ("cleanup", "(all)")
    assert count.detail == "expected 0 connections counted as open after all closes, got -1"


@pytest.mark.parametrize("ending", ["a:close", "a:half", "a:junk:status", "wait", "cancel"])
def test_oracle_sees_wrong_bytes_whatever_ends_the_connection(
    run: RunLine, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    """Bytes that came in the iteration of the end are checked, too."""
    monkeypatch.setitem(HANDLERS, "echo", repeats)

    assert "data" in run(f"a:open a:new:1:echo+5~9 {ending}").violated


def test_oracle_tells_streams_of_a_connection_apart(
    run: RunLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two streams with equally many bytes that echo each other's are seen."""

    async def swap(stream: Stream, _: Context) -> None:
        owner = stream._owner
        assert isinstance(owner, MuxSession)
        while data := await stream.read():
            stream.stream_id = 3 - stream.stream_id
            owner.streams[stream.stream_id] = stream
            await stream.write(data)

    monkeypatch.setitem(HANDLERS, "echo", swap)

    assert run("a:open a:new:1:echo a:new:2:echo a:data:1+5~0 a:data:2+5").violated == ("data",)


def test_oracle_says_it_once(run: RunLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte that is missing at every check is one violation."""
    monkeypatch.setitem(HANDLERS, "echo", says_nothing)

    assert len(run("a:open a:new:1:echo+5 a:keepalive a:keepalive").violations) == 1


def test_oracle_sees_a_dialled_link_left_open(
    run: RunLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that the server made for a stream, and did not close, is a transport left."""

    async def leak(self: Switchboard, stream: Stream, context: Context) -> None:
        link = await self._outbound._dial(Address.of("silent.dest", 7), Limits())
        assert link._idle is not None
        link._idle.cancel()  # A leaked timer would be a second fault.
        await sink(stream, context)

    monkeypatch.setattr(Switchboard, "__call__", leak)

    outcome = run("a:open a:new:1:sink a:close b:open b:close")
    assert outcome.violated == ("transports",)
    assert [violation.connection for violation in outcome.violations] == ["a"]


def test_oracle_sees_an_accepted_link_left_open(
    run: RunLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that the peer half-closed, and the server does not close, is a transport left.

    The peer keeps its side open, or its own close would end the connection for the server.
    """

    def keep(self: Link) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._end()

    async def no_wait(_: Link) -> None:
        pass

    monkeypatch.setattr(Link, "close", keep)
    monkeypatch.setattr(Link, "wait_closed", no_wait)

    assert run("a:open a:half").violated == ("transports",)


def test_oracle_sees_an_exception_when_the_server_ends(run: RunLine) -> None:
    """Exceptions are collected after the server's end, too."""

    class Faulty(KeepsTheWatcher):
        """The watcher fails when the server ends, and its exception is not retrieved."""

        def may_clean_up(self, session: MuxSession) -> bool:
            """Fail in a task that nothing awaits."""
            if session.parent.cancelled:
                raise RuntimeError("unseen")
            return super().may_clean_up(session)

    outcome = run("a:open a:close", Faulty)
    assert outcome.violated == ("tasks", "exceptions")
    assert "never retrieved: RuntimeError('unseen')" in str(outcome.violations[-1])


def test_oracle_sees_a_task_of_no_connection(run: RunLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that was started outside every connection's scope is reported without a name."""

    async def escape(stream: Stream, context: Context) -> None:
        loop = asyncio.get_running_loop()
        waiting = asyncio.Event().wait()
        loop.call_soon(loop.create_task, waiting, context=contextvars.Context())
        await sink(stream, context)

    monkeypatch.setitem(HANDLERS, "sink", escape)

    outcome = run("a:open a:new:1:sink a:close")
    assert [str(each) for each in outcome.violations] == [
        "tasks: connection (all): expected 0 tasks of no connection after all closes, got 1"
    ]


def test_oracle_sees_what_waits_for_the_peer(run: RunLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer of a fatal frame does not close: the server must end the connection by itself.

    Once the peer closes, nothing is left here: the violations were seen before.
    """
    monkeypatch.setattr(Link, "close", lambda _: None)
    monkeypatch.setattr(Link, "eof_received", lambda _: False)
    outcome = run("a:open a:new:1:echo+5 a:junk:status")

    assert outcome.violated == ("tasks", "transports")
    assert outcome.left == 0


def test_oracle_sees_a_link_of_no_connection(run: RunLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that was dialled outside every scope is reported without a name."""

    async def leak(self: Switchboard, stream: Stream, context: Context) -> None:
        dialling = self._outbound._dial(Address.of("silent.dest", 7), Limits())
        start = asyncio.get_running_loop().create_task
        link = await contextvars.Context().run(start, dialling)
        assert link._idle is not None
        link._idle.cancel()  # A leaked timer would be a second fault.
        await sink(stream, context)

    monkeypatch.setattr(Switchboard, "__call__", leak)

    (violation,) = run("a:open a:new:1:sink a:close").violations
    assert (violation.property, violation.connection) == ("transports", "(all)")
    assert violation.detail == "expected 0 transports of no connection after all closes, got 1"


# Attribution: the connection that a violation names, and the moment.


def test_leak_is_reported_while_others_are_open(target: NewTarget) -> None:
    """The leak of `a` is reported after its close, with b and c open, and counts for `a` alone."""
    server = target(FLAGSHIP_BUGGY())
    try:
        run = SequenceRun(server)
        run.steps(Sequence.parse("a:open b:open c:open b:new:1:echo+5 c:new:1:linger a:close"))
        reported = [str(violation) for violation in run.outcome.violations]
        open_ = [connection.peer.scope.live for connection in run.connections.values()]
    finally:
        server.dispose()

    assert reported == ["tasks: connection a: expected 0 alive after its close, got 1"]
    assert open_ == [3, 3]


def test_leak_is_reported_when_the_server_ends_the_connection(
    target: NewTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection is over when the server says so, not only when its peer does."""
    monkeypatch.setitem(HANDLERS, "echo", leaves_a_task)
    server = target(Lifecycle())
    try:
        run = SequenceRun(server)
        run.steps(Sequence.parse("a:open a:new:1:echo+5 cancel"))
        reported = [str(violation) for violation in run.outcome.violations]
    finally:
        server.dispose()

    assert reported == [
        "bounds: connection a: expected at most 3 while it is open, got 4",
        "tasks: connection a: expected 0 alive after its close, got 1",
    ]


def test_leaks_are_attributed_one_by_one(run: RunLine) -> None:
    """Each violation names its own connection, in the order of their closes."""
    outcome = run("a:open b:open c:open b:close a:close c:close", FLAGSHIP_BUGGY)

    assert [violation.connection for violation in outcome.violations] == ["b", "a", "c"]


def test_open_connections_are_never_flagged(run: RunLine, target: NewTarget) -> None:
    """However much a connection runs, it is not flagged while it is open."""
    line = "a:open a:new:1:linger a:new:2:@silent+5 a:new:3:deaf b:open b:close c:open c:abort"
    outcome = run(line, target=target)

    assert outcome.violations == []
    assert outcome.tasks >= 5


def test_report_names_what_was_left(run: RunLine) -> None:
    """The report of the first leak names task, server and connection."""
    report = run("a:open b:open b:close a:close", FLAGSHIP_BUGGY).report

    assert report is not None
    assert report.total == 1
    assert report.groups[0].name == "MuxSession._watch"
    assert report.groups[0].scopes == ("connection 2",)
    assert "<Context 'server' live>" in report.groups[0].waits_on


# What a run counts.


FOUR = {
    "a:open a:close": "V0 0/0/0 V1 1/2/0 P-A 0/1/0 P-B 0/2/0 P-C 0/1/0 V2 0/1/0 REF 0/1/0",
    "a:open a:new:1:echo a:close": (
        "V0 1/0/1 V1 1/2/0 P-A 0/1/0 P-B 0/2/0 P-C 0/1/0 V2 0/1/0 REF 0/1/0"
    ),
    "a:open a:new:1:echo a:new:1:echo a:close": (
        "V0 2/0/2 V1 2/2/1 P-A 1/1/1 P-B 1/2/1 P-C 1/1/1 V2 1/1/1 REF 0/1/0"
    ),
    "a:open cancel a:new:1:echo a:close": (
        "V0 1/0/1 V1 0/2/0 P-A 0/1/0 P-B 0/2/0 P-C 1/1/1 V2 1/1/1 REF 0/1/0"
    ),
}
CELLS = [
    (line, name, cell)
    for line, row in FOUR.items()
    for name, cell in zip(row.split()[::2], row.split()[1::2], strict=True)
]


@pytest.mark.parametrize(("line", "version", "expected"), CELLS)
def test_run_counts_what_each_version_leaves(
    run: RunLine, line: str, version: str, expected: str
) -> None:
    """Tasks left, cleanups, and tasks left after the server's end, as in the original commits."""
    outcome = run(line, VERSIONS[version])

    assert f"{outcome.left}/{outcome.cleanups}/{outcome.left_after_end}" == expected


@pytest.mark.parametrize(("line", "version", "expected"), CELLS)
@pytest.mark.slow
def test_run_counts_the_same_over_tcp(
    run: RunLine, target: NewTarget, line: str, version: str, expected: str
) -> None:
    """Each target counts the same."""
    outcome = run(line, VERSIONS[version], target)

    assert f"{outcome.left}/{outcome.cleanups}/{outcome.left_after_end}" == expected


def test_run_counts_connections_and_live_tasks(run: RunLine, target: NewTarget) -> None:
    """The tasks are those after the last step: two for each open connection, one for a stream."""
    outcome = run("a:open b:open b:new:1:echo c:bad:user", target=target)

    assert (outcome.connections, outcome.tasks, outcome.left, outcome.cleanups) == (3, 5, 0, 2)


def test_outcome_is_plain_data(run: RunLine) -> None:
    """The outcome as it is printed with ``--json``."""
    outcome = run("a:open a:close", FLAGSHIP_BUGGY)

    plain = outcome.to_json()
    assert plain.pop("report")["total"] == 1
    assert plain == {
        "violated": ["tasks"],
        "violations": ["tasks: connection a: expected 0 alive after its close, got 1"],
        "connections": 1,
        "tasks_left": 1,
        "tasks_left_after_server_end": 0,
        "cleanups": 1,
    }


def test_outcome_lists_properties_in_their_order(run: RunLine) -> None:
    """The order is that of the properties, not that of the violations."""
    violated = run("a:open a:new:1:@echo+5 a:close", VERSIONS["V0"]).violated

    assert violated == tuple(name for name in PROPERTIES if name in violated)
    assert len(violated) > 1


# Steps that do not fit the state.


def test_run_refuses_an_unknown_connection(run: RunLine, target: NewTarget) -> None:
    """A step of a connection that was never opened is a mistake of the line."""
    with pytest.raises(ValueError, match="step 'b:close': connection 'b' was not opened before"):
        run("a:open b:close", target=target)


def test_run_ignores_steps_of_a_closed_connection(run: RunLine, target: NewTarget) -> None:
    """Shrinking removes steps, so steps of a closed connection may be left."""
    outcome = run("a:open a:close a:new:1:echo+5 a:close", target=target)

    assert (outcome.violations, outcome.connections) == ([], 1)


def test_run_closes_the_connection_whose_letter_is_taken(run: RunLine) -> None:
    """Opening a letter again closes the first connection, and its leak is still reported."""
    outcome = run("a:open a:open a:close", FLAGSHIP_BUGGY)

    assert outcome.connections == outcome.left == 2


@pytest.mark.parametrize(
    "line",
    [
        "a:connect a:new:1:echo+5 a:close",
        "a:connect a:header+5 a:new:1:echo+5",
        "a:open a:header a:new:1:echo+5",
        "a:open a:cut+5 a:new:1:echo+5",
        "a:open a:new:1:close a:data:1+5~0 a:new:1:echo+5",
        "a:open " + " ".join(f"a:new:{n}:deaf+60~0 a:data:{n}+300~0" for n in range(1, 9)) + " "
        "a:new:9:echo+5",
        "a:open a:new:1:@echo wait",
        "a:open " + " ".join(f"a:new:{n}:echo" for n in range(66)) + " a:data:65+5",
        "a:open a:stall a:new:1:flood a:new:2:echo+5 a:resume",
        "a:open a:new:1:flood~0 a:new:2:echo+300~0 a:reset:1",
        "cancel a:open a:new:1:echo+5",
        "a:open a:new:1:echo cancel~0 a:data:1+5~0 a:new:2:echo+5",
        "a:open a:drip a:new:1:@echo+60 a:data:1+300 a:end:1+5 a:data:1+5",
        "a:open a:new:1:@hang+5 a:new:2:@nowhere+5 a:new:3:@refuse a:new:4:@reset+5",
        "a:open a:udp:1:echo+5 a:packet:1+5 a:xudp:2:echo+5 a:keep:2 a:packet:9+5",
        "a:open a:new:1:stubborn a:new:2:stubborn a:end:1 a:abort",
    ],
)
def test_run_raises_no_false_alarm(run: RunLine, line: str) -> None:
    """Sequences that once were, or could be, taken for a fault of the reference."""
    assert run(line).violations == []


# The reference.


@given(some_sequences())
@settings(max_examples=25, deadline=None)
def test_reference_holds(sequence: Sequence) -> None:
    """No property fails on anything that is generated."""
    outcome = check_sequence(sequence, Lifecycle)

    assert outcome.left == outcome.left_after_end == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_reference_holds_in_long_campaigns(seed: int) -> None:
    """No property fails on many more, drawn at random."""
    random = Random(seed)
    for _ in range(600):
        sequence = decode(random.randbytes(WIDTH * 60))
        outcome = run_sequence(sequence, Lifecycle(), SimTarget)
        assert outcome.violations == [], str(sequence)
        assert outcome.left_after_end == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_reference_holds_over_sockets(target: NewTarget, seed: int) -> None:
    """No property fails at the other targets either, on real time."""
    random = Random(seed)
    for _ in range(40):
        sequence = decode(random.randbytes(WIDTH * random.choice([5, 15, 30])), virtual=False)
        outcome = run_sequence(sequence, Lifecycle(), target)
        assert outcome.violations == [], str(sequence)
        assert outcome.left_after_end == 0
