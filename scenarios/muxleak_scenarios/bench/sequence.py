"""One connection sequence, checked for leaks: what it costs, beside what, and where the time goes.

Everything here runs the same steps. What the peer sends is recorded once from a real run, for the
variants that have no peer of their own.
"""

from __future__ import annotations

import asyncio
import time
from functools import cache, partial
from typing import TYPE_CHECKING, NamedTuple

from muxleak_scenarios.bench.bare import BareServer
from muxleak_scenarios.bench.measure import Beside, Comparison, each, in_turns
from muxleak_scenarios.bench.plain import PlainEcho
from muxleak_scenarios.sequence.handlers import echo
from muxleak_scenarios.sequence.steps import Sequence
from muxleak_scenarios.targets.run import SequenceRun, run_sequence
from muxleak_scenarios.targets.simulated import SimTarget
from muxleak_scenarios.targets.target import USER
from muxleak_scenarios.targets.tcp import TcpTarget
from muxleak_vless import Inbound, Lifecycle, User

if TYPE_CHECKING:
    from collections.abc import Callable

    from muxleak import Scope
    from muxleak_scenarios.bench.measure import BenchPlan, Rounds
    from muxleak_scenarios.sequence.peers import Peer
    from muxleak_scenarios.targets.target import Target

SEQUENCE = Sequence.parse(
    "a:open a:new:1:echo+5 a:new:2:echo+5 a:new:3:echo+5 a:data:1+20 a:data:2+20 a:end:2"
    " a:data:3+5 a:end:1 a:close"
)
PAUSE = 0.01
"""Seconds that a test usually sleeps before it counts."""
_SLEEPY = 20  # in a round: each takes its pause
_USERS = frozenset({USER})


class RecordedSequence(NamedTuple):
    """The bytes of a run: what the peer sent, step by step, and what came back for each."""

    sent: tuple[bytes, ...]
    answers: tuple[bytes, ...]

    @property
    def received(self) -> bytes:
        """All that came back."""
        return b"".join(self.answers)


class Part(NamedTuple):
    """A share of a checked sequence, in seconds of CPU."""

    what: str
    seconds: float


@cache
def recording() -> RecordedSequence:
    """Record the sequence, once."""
    return record(SEQUENCE)


def record(
    sequence: Sequence, target: Callable[[Lifecycle], Target] = SimTarget
) -> RecordedSequence:
    """Run and check a sequence of one connection, and say what was sent and received.

    Raises:
        AssertionError: a property does not hold.
    """
    sent: list[bytes] = []
    answers: list[bytes] = []

    def recorder(lifecycle: Lifecycle) -> Target:
        place = target(lifecycle)
        connect = place.connect
        place.connect = lambda: listened(connect())  # type: ignore[method-assign]
        return place

    def listened(peer: Peer) -> Peer:
        send, take = peer.send, peer.take

        def note_sent(data: bytes) -> None:
            if data:
                sent.append(data)
                answers.append(b"")
            send(data)

        def note_taken() -> bytes:
            data = take()
            if data:
                answers[-1] += data
            return data

        peer.send, peer.take = note_sent, note_taken  # type: ignore[method-assign]
        return peer

    checked(recorder, sequence)
    return RecordedSequence(tuple(sent), tuple(answers))


def checked(
    target: Callable[[Lifecycle], Target] = SimTarget, sequence: Sequence = SEQUENCE
) -> None:
    """Run a sequence in a world of its own and check every property.

    Raises:
        AssertionError: one does not hold.
    """
    outcome = run_sequence(sequence, Lifecycle(), target)
    if outcome.violations:
        raise AssertionError(f"expected a clean run, got {outcome.violations}")


def plain() -> bytes:
    """Send the same bytes through plain callbacks; return the answer."""
    script = recording()
    written: list[bytes] = []
    connection = PlainEcho(_USERS, written.append)
    for data in script.sent:
        connection.data_received(data)
    return _same(b"".join(written), script.received)


def naive() -> bytes:
    """Test as tests usually do: a server on a loopback port, a pause, and a count of all tasks."""
    return asyncio.run(_naive(recording()))


async def _naive(script: RecordedSequence) -> bytes:
    inbound = Inbound([User(USER)], echo, lifecycle=Lifecycle())
    address = await inbound.listen()
    baseline = len(asyncio.all_tasks())
    reader, writer = await asyncio.open_connection(*address)
    received = b""
    for data, answer in zip(script.sent, script.answers, strict=True):
        writer.write(data)
        received += await reader.readexactly(len(answer))
    writer.close()
    await writer.wait_closed()
    await asyncio.sleep(PAUSE)
    left = asyncio.all_tasks()
    await inbound.shutdown()
    if len(left) != baseline:
        raise AssertionError(f"expected {baseline} tasks, got {left}")
    return _same(received, script.received)


def served(*, counted: bool) -> bytes:
    """Send the same bytes to a simulated server, at rest after each step; return the answer."""
    script = recording()
    server = BareServer(Lifecycle(), counted=counted)
    try:
        peer = server.connect()
        for data in script.sent:
            peer.send(data)
            server.settle()
        peer.close()
        server.settle()
        if server.ledger is not None and server.ledger.count:
            raise AssertionError(f"expected no task, got {server.ledger.live()}")
        server.end()
    finally:
        server.dispose()
    return _same(peer.received, script.received)


def unused() -> None:
    """Make a server without a connection, end it, and dispose of it."""
    server = BareServer(Lifecycle(), counted=False)
    server.end()
    server.dispose()


class Unchecked(SequenceRun):
    """A run that holds nothing but the data against the properties."""

    def check(self, name: str, scope: Scope) -> None:
        """Look at nothing."""

    def check_server(self) -> None:
        """Look at nothing."""


def unchecked() -> None:
    """Run the sequence with its peer's model and the ledger, without the checks."""
    target = SimTarget(Lifecycle())
    try:
        Unchecked(target).run(SEQUENCE)
    finally:
        target.dispose()
        vars(target).clear()


def measure(plan: BenchPlan) -> list[Comparison]:
    """A checked sequence beside loopback TCP, the usual way of testing, and the limit."""
    sleepy = plan.size(_SLEEPY)
    works: dict[str, Callable[[], float]] = {
        "ours": each(checked, plan.size(200)),
        "tcp": each(partial(checked, TcpTarget), plan.size(30)),
        "naive": partial(_by_the_wall, naive, sleepy),
        "naive, awake": each(naive, sleepy),
        "plain": each(plain, plan.size(2000)),
    }
    found = in_turns(works, plan)
    beside = (
        Beside("the same on loopback TCP", found["tcp"]),
        Beside(
            "asyncio.run, TCP, sleep(10 ms)",
            found["naive"],
            goal=200,
            note="by the wall clock, and mostly its sleep: what a test that waits costs",
        ),
        Beside("the same without its sleep", found["naive, awake"], note="its CPU time"),
        Beside(
            "plain callbacks: the limit",
            found["plain"],
            floor=True,
            goal=4,
            note="the server's half alone, without task, timer, loop or check",
        ),
    )
    return [Comparison("10 steps, 3 streams, a fresh loop, checked", found["ours"], beside)]


def breakdown(plan: BenchPlan) -> tuple[Rounds, list[Part]]:
    """Where the time of a checked sequence goes: what each layer adds to those before it.

    The parts add up to the whole, which is returned first, because each is a difference.
    """
    times = plan.size(200)
    found = in_turns(
        {
            "plain": each(plain, 10 * times),
            "unused": each(unused, times),
            "bare": each(partial(served, counted=False), times),
            "counted": each(partial(served, counted=True), times),
            "unchecked": each(unchecked, times),
            "ours": each(checked, times),
        },
        plan,
    )
    at = {name: Comparison("", rounds).value for name, rounds in found.items()}
    parts = [
        Part("the wire: decode, echo, encode, by plain callbacks", at["plain"]),
        Part("a loop and a server made, ended and disposed of", at["unused"]),
        Part(
            "tasks, streams, transports, run to rest after each step",
            at["bare"] - at["unused"] - at["plain"],
        ),
        Part("ledger: count, scope and site of every task", at["counted"] - at["bare"]),
        Part("the runner, and its model of what must come back", at["unchecked"] - at["counted"]),
        Part("the check of every property after the close", at["ours"] - at["unchecked"]),
    ]
    return found["ours"], parts


def _by_the_wall(work: Callable[[], object], times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - began) / times


def _same(got: bytes, expected: bytes) -> bytes:
    if got != expected:
        raise AssertionError(f"expected the bytes of the recorded run, {expected!r}, got {got!r}")
    return got
