"""The targets: scopes, links, settling and disposal, simulated and on sockets."""

import asyncio
import gc
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path

import pytest

from muxleak_scenarios import Sequence, SimTarget, Target, TcpTarget, run_sequence
from muxleak_scenarios.sequence.handlers import HANDLERS
from muxleak_scenarios.sequence.limits import LIMITS
from muxleak_scenarios.sequence.model import ConnectionModel
from muxleak_scenarios.targets.run import SequenceRun
from muxleak_scenarios.targets.target import USER
from muxleak_scenarios.targets.tcp import SCALED
from muxleak_vless import Context, Lifecycle, Stream
from muxleak_vless.stream import Handler
from muxleak_vless.versions import VERSIONS

NewTarget = Callable[[Lifecycle], Target]


def starting(work: Callable[[], Coroutine[None, None, None]]) -> Handler:
    """Make a handler that starts a task, and leaves it."""

    async def start(stream: Stream, context: Context) -> None:
        del stream
        task = asyncio.get_running_loop().create_task(work())
        await context.wait()
        del task

    return start


async def endless() -> None:
    """Swallow every cancellation, and wait again when even that has an end."""
    try:
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.get_running_loop().create_future()
    finally:
        await asyncio.sleep(0)


def steps(server: Target, line: str) -> SequenceRun:
    """Perform a line's steps, and leave everything as it is then."""
    run = SequenceRun(server)
    run.steps(Sequence.parse(line))
    return run


def descriptors() -> int:
    """How many descriptors this process has open."""
    return len(list(Path("/dev/fd").iterdir()))


def test_target_attributes_to_each_connection_its_own(target: NewTarget) -> None:
    """Tasks, session and links are those of the connection's scope; nothing is unowned."""
    server = target(Lifecycle())
    try:
        run = steps(server, "a:open a:new:1:@silent+5 b:open")
        a, b = (run.connections[name].peer.scope for name in "ab")
        counted = [(server.open_links(each), each.live) for each in (a, b)]
        owners = list(server.sessions)
        unowned = server.ledger.count - a.live - b.live, server.open_links(None)
    finally:
        server.dispose()

    assert counted == [(2, 4), (1, 2)]
    assert owners == [a, b]
    assert unowned == (0, 0)


def test_target_is_idle_when_no_connection_has_a_task(target: NewTarget) -> None:
    """Connections make it busy; their close makes it idle again."""
    server = target(Lifecycle())
    try:
        run = SequenceRun(server)
        seen = [server.is_idle()]
        run.steps(Sequence.parse("a:open"))
        seen.append(server.is_idle())
        run.steps(Sequence.parse("a:close"))
        seen.append(server.is_idle())
    finally:
        server.dispose()

    assert seen == [True, False, True]


def test_target_cancel_is_an_event_of_the_loop(target: NewTarget) -> None:
    """The server's context ends in the next iteration, not in the driver's call."""
    server = target(Lifecycle())
    try:
        server.cancel()
        seen = [server.ending, server.context.cancelled]
        server.turn(1)
        seen.append(server.context.cancelled)
        server.restart()
        seen += [server.ending, server.context.cancelled]
    finally:
        server.dispose()

    assert seen == [True, False, True, False, False]


def test_target_with_the_background_context_cannot_be_cancelled() -> None:
    """A server whose context cannot be ended goes on."""
    server = SimTarget(Lifecycle(), context=Context.background())
    server.cancel()
    server.settle()
    server.dispose()

    assert not server.ending


def test_target_restart_serves_again(target: NewTarget) -> None:
    """After a reload, new connections are served as before."""
    server = target(Lifecycle())
    try:
        run = steps(server, "a:open cancel")
        server.restart()
        run.steps(Sequence.parse("a:open a:new:1:echo+5"))
        model = run.connections["a"]
        seen = model.streams[1].received, run.outcome.violations
    finally:
        server.dispose()

    assert seen == (5, [])


def test_simulated_target_settles_only_when_every_limit_has_expired() -> None:
    """Streams that stall one after the other take longer than the horizon, and are waited for."""
    streams = range(1, 9)
    line = "a:open " + " ".join(f"a:new:{n}:deaf+60~0 a:data:{n}+300~0" for n in streams)
    server = SimTarget(Lifecycle())
    try:
        run = steps(server, line + " a:new:9:echo+5")
        seconds, missing = server.loop.time(), run.connections["a"].missing
    finally:
        server.dispose()

    assert len(streams) * LIMITS.stall_seconds > server.horizon
    assert seconds == pytest.approx(len(streams) * LIMITS.stall_seconds)
    assert missing == ""


def test_simulated_target_settles_although_a_handler_never_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A handler that does something every second for ever cannot hold a run up."""

    async def tick(stream: Stream, context: Context) -> None:
        del stream, context
        while True:  # noqa: ASYNC110 - a heartbeat, on virtual time
            await asyncio.sleep(1)

    monkeypatch.setitem(HANDLERS, "sink", tick)

    outcome = run_sequence(Sequence.parse("a:open a:new:1:sink a:close"), Lifecycle())
    assert outcome.violations == []


def test_simulated_target_wait_ends_what_is_idle() -> None:
    """After the idle intervals no connection is left, although no peer did anything."""
    server = SimTarget(Lifecycle())
    try:
        run = steps(server, "a:open a:new:1:@echo+5 b:connect c:open c:stall c:new:1:sink+5")
        busy = server.is_idle()
        server.wait()
        peers = [connection.peer for connection in run.connections.values()]
        seen = server.is_idle(), [peer.ended for peer in peers]
    finally:
        server.dispose()

    assert not busy
    # A peer that does not read cannot see the end.
    assert seen == (True, [True, True, False])


@pytest.mark.slow
def test_tcp_target_wait_ends_what_is_idle() -> None:
    """The same in real time, no longer than needed."""
    line = "a:open a:new:1:@echo+5 b:connect wait c:open"
    assert run_sequence(Sequence.parse(line), Lifecycle(), TcpTarget).violations == []


def test_target_that_is_not_exact_excuses_a_busy_machine(target: NewTarget) -> None:
    """Where limits may expire on a busy machine, a connection that they end is not flagged."""
    server = target(Lifecycle())
    try:
        (idle,) = steps(server, "a:open").connections.values()
        (busy,) = steps(server, "a:open a:new:1:echo").connections.values()
    finally:
        server.dispose()

    assert not idle.strained
    assert busy.strained is not server.exact


def test_tcp_target_scales_the_limits_that_are_waited_for() -> None:
    """Limits of time are shorter on real time, those of size the same."""
    assert SCALED.close_seconds < TcpTarget.horizon
    assert SCALED.inbox_bytes == LIMITS.inbox_bytes


@pytest.mark.parametrize("version", ["REF", "V0"])
def test_dispose_ends_everything(target: NewTarget, version: str) -> None:
    """Open connections, leaks, endless handlers: no descriptor and no warning is left."""
    before = descriptors()
    server = target(VERSIONS[version]())
    run = SequenceRun(server)
    for step in Sequence.parse(
        "a:open a:new:1:@silent+5 a:new:2:linger a:new:1:echo b:open a:close"
    ):
        run.perform(step)
        server.settle()
    server.dispose()
    assert server.loop.is_closed()
    assert server.ledger.count == 0
    del server, run
    gc.collect()

    assert descriptors() == before


def test_dispose_gives_up_on_what_swallows_every_cancellation(
    target: NewTarget, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A task that cannot be ended is abandoned, and its destruction is no news."""
    monkeypatch.setitem(HANDLERS, "sink", starting(endless))
    server = target(Lifecycle())
    steps(server, "a:open a:new:1:sink b:open")
    server.dispose()
    del server
    gc.collect()

    assert "destroyed" not in caplog.text


def test_dispose_is_silent_about_what_fails_meanwhile(
    target: NewTarget, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A task that the disposal ends, and that fails then, is not logged."""

    async def fail() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            raise RuntimeError("unseen")

    monkeypatch.setitem(HANDLERS, "sink", starting(fail))
    server = target(Lifecycle())
    steps(server, "a:open a:new:1:sink")
    server.dispose()
    del server
    gc.collect()

    assert caplog.text == ""


def test_dispose_cleans_up_after_a_line_that_is_refused(target: NewTarget) -> None:
    """When a step raises, peers and server are closed all the same."""
    before = descriptors()
    with pytest.raises(ValueError, match="not opened"):
        run_sequence(Sequence.parse("a:open a:new:1:@echo+5 b:close"), Lifecycle(), target)
    gc.collect()

    assert descriptors() == before


@pytest.mark.parametrize("version", ["REF", "V0"])
@pytest.mark.parametrize("turns", range(10))
def test_dispose_ends_what_is_being_accepted(turns: int, version: str) -> None:
    """Connections that the kernel has accepted and the server has not are closed, too."""
    before = descriptors()
    server = TcpTarget(VERSIONS[version]())
    run = steps(server, "a:open a:new:1:@echo+5~0 a:new:2:@silent+5~0")
    server.turn(turns)
    server.dispose()
    del server, run
    gc.collect()

    assert descriptors() == before


@pytest.mark.parametrize("gap", range(6))
def test_cancelled_dial_leaves_nothing(target: NewTarget, gap: int) -> None:
    """A stream that is replaced in any iteration of its dial leaves no link and no descriptor."""
    before = descriptors()
    line = f"a:open a:new:1:@echo+5~{gap} a:new:1:@silent+5~{gap} a:abort"
    assert run_sequence(Sequence.parse(line), Lifecycle(), target).violations == []
    gc.collect()

    assert descriptors() == before


def test_datagrams_reach_destinations(target: NewTarget) -> None:
    """A UDP stream to an echo gets its datagrams back; one to a silent destination gets none."""
    server = target(Lifecycle())
    try:
        run = steps(server, "a:open a:udp:1:@echo+5 a:data:1+60 a:udp:2:@silent+5 a:xudp:3:@echo+5")
        server.settle_until(
            lambda: all(run.connections["a"].streams[each].owed == 0 for each in (1, 3))
        )
        run.connections["a"].take()
        received = [run.connections["a"].streams[each].received for each in (1, 2, 3)]
    finally:
        server.dispose()

    assert received == [65, 0, 5]
    assert run.outcome.violations == []


def test_datagram_stream_of_a_reused_id_is_a_leak(target: NewTarget) -> None:
    """The first stream of a reused id has nothing to end it, as in sing-box."""
    line = Sequence.parse("a:open a:udp:1:@echo a:udp:1:@echo a:close")

    assert "tasks" in run_sequence(line, VERSIONS["V2"](), target).violated
    assert run_sequence(line, Lifecycle(), target).violations == []


def test_connect_in_a_burst(target: NewTarget) -> None:
    """Each of many peers gets the scope of its own connection."""
    server = target(Lifecycle())
    try:
        models = [ConnectionModel(server.connect(), USER) for _ in range(20)]
        names = [model.peer.scope.name for model in models]
    finally:
        server.dispose()

    assert names == [f"connection {n}" for n in range(1, 21)]


@pytest.mark.slow
def test_tcp_target_leaves_no_descriptor_in_many_runs() -> None:
    """Hundreds of sequences, leaky servers among them, and not one descriptor more."""
    lines = [
        "a:open a:new:1:@echo+5 b:open b:new:1:@silent+5 a:close",
        "a:open a:new:1:@flood~0 a:new:1:@echo~1 a:abort",
        "a:open a:new:1:@hang a:new:2:@refuse b:connect b:half",
        "a:open a:new:1:stubborn a:cut+3 a:close",
    ]
    sequences = [Sequence.parse(line) for line in lines]
    before = descriptors()
    for _ in range(100):
        for sequence in sequences:
            run_sequence(sequence, Lifecycle(), TcpTarget)
    for sequence in sequences:
        run_sequence(sequence, VERSIONS["V0"](), TcpTarget)
    gc.collect()

    assert descriptors() == before
