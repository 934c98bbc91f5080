"""The benchmark: both sides of each comparison do the work that the row names."""

import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterable
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from itertools import pairwise
from statistics import median
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muxleak import Ledger
from muxleak.ledger.counters import CURRENT
from muxleak_scenarios import SimTarget, TcpTarget
from muxleak_scenarios.bench import (
    ROWS,
    cancelled_waiters,
    examples,
    leaked_sessions,
    ledger,
    row_process,
    search_runs,
    sequence,
    ticks,
)
from muxleak_scenarios.bench.bare_server import BareServer
from muxleak_scenarios.bench.cancelled_waiters import ContextWaiter
from muxleak_scenarios.bench.frame_decoding import PAYLOAD, decode, read
from muxleak_scenarios.bench.measure import BenchPlan, Beside, Comparison, each, in_turns
from muxleak_scenarios.bench.plain_echo import PlainEcho, PlainStream
from muxleak_scenarios.sequence.steps import Sequence
from muxleak_scenarios.sequence.strategies import sequences
from muxleak_scenarios.targets.run import SequenceRun
from muxleak_scenarios.targets.target import USER
from muxleak_vless import Lifecycle, ProtocolError
from muxleak_vless.bugs.watcher_outlives_connection.buggy import WatchedContext
from muxleak_vless.frames import DATA, FrameStatus
from muxleak_vless.header import Command, Request, encode_request

QUICK = BenchPlan(1, quick=True, leaks=100)
ECHOES = [
    str(sequence.SEQUENCE),
    "a:open a:close",
    "a:open a:new:1:echo a:data:1+300 a:end:1 a:data:1+5 a:close",
    "a:open a:new:7:echo+5 a:reset:7 a:data:7+5 a:end:7 a:new:7:echo+60 a:close",
    "a:open a:data:9+5 a:keep:9 a:end:9 a:keepalive a:padding a:close",
    "a:open a:new:1:echo+5~0 a:end:1+5 a:close",
]


@pytest.fixture
def buggy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plant the bug of issue #2421 into the reference: a task stays for every connection."""
    monkeypatch.setattr(Lifecycle, "watched_context", WatchedContext.watched_context)


def echoed(script: sequence.RecordedSequence, cuts: Iterable[int] = ()) -> bytes:
    """Return the bytes of plain callbacks for recorded input, in its own pieces or in others."""
    written: list[bytes] = []
    plain = PlainEcho({USER}, written.append)
    pieces: Iterable[bytes] = script.sent
    if cuts:
        data = b"".join(script.sent)
        bounds = [0, *sorted(cuts), len(data)]
        pieces = [data[start:stop] for start, stop in pairwise(bounds)]
    for piece in pieces:
        plain.data_received(piece)
    return b"".join(written)


# Timing.


def test_in_turns_interleaves_and_forgets_the_first_round() -> None:
    """All works are done in every round, in order; the first warms up; every round ticks."""
    done: list[str] = []
    ticked: list[None] = []

    def work(name: str) -> int:
        done.append(name)
        return len(done)

    works = {name: partial(work, name) for name in "ab"}
    found = in_turns(works, BenchPlan(2, tick=lambda: ticked.append(None)))

    assert done == ["a", "b"] * 3
    assert found == {"a": (3, 5), "b": (4, 6)}
    assert len(ticked) == 3


def test_each_does_the_work_as_often_as_it_divides_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is that of one."""
    now = 0.0

    def work() -> None:
        nonlocal now
        now += 3.0

    monkeypatch.setattr("muxleak_scenarios.bench.measure.time.process_time", lambda: now)

    assert each(work, 5)() == 3.0
    assert now == 15.0


def test_comparison_says_how_much_less_and_over_a_floor_how_much_more() -> None:
    """Ratios are of medians; a goal is at least, over a floor at most, and of itself at most."""
    less = Beside("dear", (30.0, 50.0, 40.0), goal=20)
    more = Beside("floor", (1.0,), floor=True, goal=2.0)
    ours = Comparison("ours", (1.0, 9.0, 2.0), (less, more), goal=1.5)

    assert (ours.value, ours.ratio(less), ours.ratio(more)) == (2.0, 20.0, 2.0)
    assert (ours.met(less), ours.met(more), ours.met()) == (True, True, False)
    assert ours.met(less._replace(goal=20.1)) is False
    assert ours.met(more._replace(goal=1.9)) is False
    assert ours._replace(goal=2.0).met() is True
    assert ours.met(less._replace(goal=None)) is None


def test_comparison_without_a_baseline_claims_nothing() -> None:
    """A peer that was not measured has no figure, no ratio and no result."""
    missing = Beside("peer", goal=2, note="not installed: pip install peer")
    data = Comparison("ours", (1.0,), (missing,)).to_json()["beside"][0]

    assert [data[key] for key in ("value", "ratio", "ours_costs", "met")] == [None] * 4
    assert data["note"] == "not installed: pip install peer"


# The sequence.


@pytest.mark.parametrize("line", ECHOES)
def test_plain_echo_answers_with_the_servers_bytes(line: str) -> None:
    """It does the work of the server: the same bytes in, the same bytes out."""
    script = sequence.record(Sequence.parse(line))

    assert echoed(script) == script.received


@given(st.lists(st.integers(0, 300), min_size=1))
@settings(max_examples=20)
def test_plain_echo_takes_bytes_cut_anywhere(cuts: list[int]) -> None:
    """As a server on real sockets must."""
    script = sequence.recording()

    assert echoed(script, cuts) == script.received


@pytest.mark.parametrize(("user", "command"), [(UUID(int=1), Command.MUX), (USER, Command.REVERSE)])
def test_plain_echo_refuses_strangers(user: UUID, command: Command) -> None:
    """It checks the header as the server does."""
    plain = PlainEcho({USER}, print)

    with pytest.raises(PermissionError, match="expected a known user"):
        plain.data_received(encode_request(Request(user, command, None)))


def test_plain_echo_refuses_malformed_frames() -> None:
    """Its decoder makes the same checks as the server's."""
    plain = PlainEcho({USER}, print)

    with pytest.raises(ProtocolError, match="metadata length"):
        plain.data_received(sequence.recording().sent[0] + bytes(2))


def test_sequence_exchanges_the_same_bytes_over_tcp() -> None:
    """Both targets of the comparison do the same work: their peers send and receive the same."""
    assert sequence.record(sequence.SEQUENCE, TcpTarget) == sequence.record(sequence.SEQUENCE)


def test_sequence_recording_has_every_step_that_sends() -> None:
    """Ten steps, of which the last sends nothing; three streams are echoed."""
    script = sequence.recording()

    assert len(sequence.SEQUENCE) == 10
    assert len(script.sent) == len(script.answers) == 9
    assert len({step.stream for step in sequence.SEQUENCE} - {None}) == 3
    assert sum(step.size for step in sequence.SEQUENCE) == 60
    # Five data frames at least, of 8 bytes with their header, and the response header of 2.
    assert len(script.received) > 60 + 2


@pytest.mark.parametrize(
    "work",
    [
        sequence.plain,
        sequence.naive,
        lambda: sequence.served(counted=False),
        lambda: sequence.served(counted=True),
    ],
    ids=["plain", "naive", "served", "counted"],
)
def test_sequence_variants_answer_alike(work: Callable[[], bytes]) -> None:
    """Every timed variant has echoed the recorded bytes."""
    assert work() == sequence.recording().received


def test_sequence_variants_notice_another_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variant that did less work would not be timed."""
    assert sequence.recording()
    monkeypatch.setattr(PlainStream, "data_received", lambda _self, _data: None)

    with pytest.raises(AssertionError, match="expected the bytes of the recorded run"):
        sequence.plain()


@pytest.mark.parametrize(
    "work",
    [sequence.checked, sequence.naive, lambda: sequence.served(counted=True)],
    ids=["checked", "naive", "counted"],
)
def test_sequence_variants_that_check_notice_a_leak(
    work: Callable[[], object], request: pytest.FixtureRequest
) -> None:
    """Every variant that is timed as checked fails with the bug."""
    assert sequence.recording()
    work()
    request.getfixturevalue("buggy")

    with pytest.raises(AssertionError, match="expected"):
        work()


def test_sequence_unchecked_leaves_out_the_check_alone(buggy: None) -> None:
    """It overrides methods of the run, has the same outcome, and does not report the leak."""
    del buggy
    outcomes = []
    for kind in (SequenceRun, sequence.Unchecked):
        target = SimTarget(Lifecycle())
        outcomes.append(kind(target).run(sequence.SEQUENCE))
        target.dispose()
    checked, unchecked = outcomes

    assert {"check", "check_server"} <= vars(SequenceRun).keys() & vars(sequence.Unchecked).keys()
    assert (checked.violated, unchecked.violated) == (("tasks",), ())
    assert (checked.connections, checked.left) == (unchecked.connections, unchecked.left) == (1, 1)


def test_breakdown_adds_up_to_the_whole() -> None:
    """No time is lost or counted twice."""
    rounds, found = sequence.breakdown(QUICK)

    assert sum(part.seconds for part in found) == pytest.approx(median(rounds))
    assert len(found) == 6


# Hypothesis.


def test_examples_of_ours_are_many_connections() -> None:
    """One drawn script is about 35 connections, of about as many steps as a list has."""
    found = examples.drive(sequences(examples.STEPS), 12)

    assert 25 <= found.connections / 12 <= 45
    assert found.steps / found.connections == pytest.approx(examples.LIST_STEPS, abs=1)
    assert min(found.spent) > 0


def test_examples_of_lists_are_one_connection_each() -> None:
    """The baseline draws and runs one connection an example, of a fixed number of steps."""
    found = examples.drive(examples.lists(), 10)

    assert (found.connections, found.steps) == (10, 10 * examples.LIST_STEPS)


@pytest.mark.parametrize("strategy", [sequences(10), examples.lists()], ids=["ours", "lists"])
def test_examples_are_checked(buggy: None, strategy: st.SearchStrategy[Sequence]) -> None:
    """Both sides hold every connection against the properties."""
    del buggy
    with pytest.raises(AssertionError, match="expected a clean run"):
        examples.drive(strategy, 10)


# Counting.


def test_check_of_the_bench_is_a_check() -> None:
    """It is clean beside tasks of others, and not once its scope has a task."""
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        with ledger.background(loop, 10) as clean:
            assert clean()
            assert len(asyncio.all_tasks(loop)) == 10

        assert len(asyncio.all_tasks(loop)) == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bare", set()),
        ("ledger of tasks", {"ledger"}),
        ("ledger of every kind", {"ledger"}),
        ("the same, in a scope", {"ledger", "scope"}),
        (ledger.DEBUG, {"debug"}),
    ],
)
def test_task_variants_are_what_they_are_called(name: str, expected: set[str]) -> None:
    """A ledger, a scope and debug mode are on only in the variants that name them."""
    seen: dict[str, bool] = {}

    async def work(created: int) -> None:
        assert created == 7
        loop = asyncio.get_running_loop()
        seen["ledger"] = loop.get_task_factory() is not None
        seen["scope"] = CURRENT.get() is not None
        seen["debug"] = loop.get_debug()

    ledger.create(ledger.PREPARE[name], work, 7)

    assert {what for what, there in seen.items() if there} == expected


@pytest.mark.parametrize("work", [ledger.one_by_one, ledger.in_batches])
def test_task_shapes_create_as_many_as_they_say(
    work: Callable[[int], Coroutine[Any, Any, None]],
) -> None:
    """The time is divided by the number of tasks that were really made."""
    with asyncio.Runner() as runner, ExitStack() as stack:
        counter = stack.enter_context(Ledger().watching(runner.get_loop()))
        runner.run(work(200))

        assert counter.created == 200 + 1


# Runs of the search.


def test_toy_runs_on_a_stock_loop_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program that is explored is an ordinary one."""
    monkeypatch.setattr(search_runs, "SLEEPS", 3)
    asyncio.run(search_runs.toy())


def test_search_of_the_bench_finds_a_planted_leak() -> None:
    """The timed search would find a leak."""

    async def forgetful() -> None:
        tasks = [asyncio.create_task(asyncio.Event().wait())]
        await asyncio.sleep(0)
        assert tasks

    assert search_runs.ours(forgetful, 3) == 1
    assert search_runs.ours(search_runs.toy, 3) is None


def test_schedules_tell_how_to_get_a_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that is not installed is named, with the release that was tried."""
    for package in search_runs.RIVALS:
        monkeypatch.setitem(sys.modules, package, None)
    (row,) = search_runs.measure(QUICK)

    assert [(each.name, each.note) for each in row.beside] == [
        ("detangle", "not installed: pip install detangle==0.1.0"),
        ("simloom", "not installed: pip install simloom==0.5.0"),
        ("simloop", "not installed: pip install simloop==0.2.2"),
    ]


def test_schedules_measure_a_peer_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs the same program, and its release is in the note."""
    peer = ModuleType("simloop")
    given: list[object] = []
    monkeypatch.setattr(
        peer, "explore", lambda program, seeds: given.append((program, len(seeds))), raising=False
    )
    for package in search_runs.RIVALS:
        monkeypatch.setitem(sys.modules, package, peer if package == "simloop" else None)
    monkeypatch.setattr(search_runs, "version", lambda _package: "9.9")
    (row,) = search_runs.measure(QUICK)

    assert given == [(search_runs.toy, 1)] * 2
    assert row.beside[0].name == "simloop, random"
    assert row.beside[0].note == "release 9.9"
    assert len(row.beside[0].rounds) == 1


# Many leaks.


def test_leaked_sessions_are_as_many_as_asked() -> None:
    """Each leaves one task; the tenths are timed one by one."""
    ticked: list[None] = []
    server = BareServer(WatchedContext(), counted=True)
    found = leaked_sessions.leak(server, 100, BenchPlan(1, tick=lambda: ticked.append(None)))
    server.dispose()

    assert found.sessions == 100
    assert len(found.tenths) == len(ticked) == 10
    assert found.seconds == pytest.approx(sum(found.tenths) / 10)
    assert found.scan > 0


def test_leaked_sessions_are_checked_after_each_close() -> None:
    """A server without the bug fails at the first close."""
    server = BareServer(Lifecycle(), counted=True)

    with pytest.raises(AssertionError, match="expected the bug to leave 1 task"):
        leaked_sessions.leak(server, 100, QUICK)
    server.dispose()


# Parts of the server.


def test_decoders_read_the_same_frames() -> None:
    """Ours and the one on asyncio's streams give the same fields, in the same order."""
    ours = [(stream_id, FrameStatus.KEEP, DATA, data) for stream_id, data in decode()]

    assert ours == asyncio.run(read())
    assert {len(data or b"") for *_, data in ours} == {PAYLOAD}
    assert len(ours) > 400


@pytest.mark.parametrize("make", [cancelled_waiters.on_context, cancelled_waiters.on_event])
def test_waiters_are_cancelled_one_by_one(
    make: Callable[[], ContextWaiter],
) -> None:
    """All of them wait, all of them end, and none stays registered."""
    assert cancelled_waiters.cancel(make, 50) > 0


def test_waiters_that_stay_registered_are_noticed() -> None:
    """A context that forgot to remove its waiters would not be timed as if it had."""

    def careless() -> ContextWaiter:
        return ContextWaiter(asyncio.Event().wait, lambda: 50)

    with pytest.raises(AssertionError, match="expected no waiter, got 50"):
        cancelled_waiters.cancel(careless, 50)


# The rows.


@pytest.mark.parametrize("name", ROWS)
def test_rows_name_functions_that_exist(name: str) -> None:
    """Each function that the table imports on demand exists."""
    row = ROWS[name]

    assert callable(getattr(import_module(f"muxleak_scenarios.bench.{row.module}"), row.function))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if not row.apart])
def test_rows_tick_as_often_as_they_say(name: str) -> None:
    """Progress comes to its end, and not beyond."""
    ticked: list[None] = []
    row = ROWS[name]
    measure = getattr(import_module(f"muxleak_scenarios.bench.{row.module}"), row.function)
    found = measure(QUICK._replace(tick=lambda: ticked.append(None)))

    assert len(ticked) == ticks(name, QUICK)
    assert min(min(each.ours) for each in found) > 0
    assert {len(each.ours) for each in found} == {1}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.apart])
def test_rows_apart_come_back_from_their_process(name: str) -> None:
    """A row of a process of its own arrives whole, and so do its ticks."""
    ticked: list[None] = []
    found = row_process.measure_apart(name, QUICK._replace(tick=lambda: ticked.append(None)))

    assert len(ticked) == ticks(name, QUICK)
    assert found[0].value > 0
    # Memory may be what a process has had anyway.
    assert min(each.value for each in found) >= 0
    for beside in found[0].beside:
        # Nothing is there of a peer that is not installed, and of all else something.
        assert ("not installed" in beside.note) is (found[0].ratio(beside) is None)


@pytest.mark.slow
def test_rows_apart_say_that_their_process_failed(capfd: pytest.CaptureFixture[str]) -> None:
    """The failure is on stderr there, and an error here."""
    with pytest.raises(RuntimeError, match="measuring 'nothing' failed: exit code 1"):
        row_process.measure_apart("nothing", QUICK)

    assert "KeyError: 'nothing'" in capfd.readouterr().err
