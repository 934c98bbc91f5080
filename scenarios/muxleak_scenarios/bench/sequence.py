"""Cost of one connection sequence with its leak check, its baselines, and where its time goes."""

# Every variant serves the same bytes. A checked run is recorded once: the bytes that the client
# sent with each step, and the bytes that came back. Variants without a client model of their own
# replay the recording and compare the answer, so that none is fast because it does less.
#
# Baselines, from the outside in:
#
# - the same sequence on loopback TCP, with every check: the price of real sockets and real time;
# - the usual test: `asyncio.run`, TCP, a sleep of 10 ms and a count of all tasks. By the wall clock
#   this is mostly its sleep, which a test does pay. Its CPU time is a baseline of its own;
# - plain callbacks: the lower bound, see `plain_echo`.
#
# The breakdown (`breakdown`) subtracts. Each variant adds one layer to the variant before it, so
# the differences add up to the whole. A profiler cannot give these figures: its own price for each
# call would be charged to the layers with the most small calls.

from __future__ import annotations

import asyncio
import time
from functools import cache, partial
from typing import TYPE_CHECKING, NamedTuple

from muxleak_scenarios.bench.bare_server import BareServer
from muxleak_scenarios.bench.measure import Beside, Comparison, each, in_turns
from muxleak_scenarios.bench.plain_echo import PlainEcho
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
"""Seconds that a test usually sleeps before it counts tasks."""
_SLEEPY = 20  # Few in a round, since each one sleeps.
_USERS = frozenset({USER})


class RecordedSequence(NamedTuple):
    """Bytes of a run.

    Attributes:
        sent: bytes of the client, one item for each step that sent any.
        answers: bytes that came back after each of them.
    """

    sent: tuple[bytes, ...]
    answers: tuple[bytes, ...]

    @property
    def received(self) -> bytes:
        """All bytes that came back."""
        return b"".join(self.answers)


class Part(NamedTuple):
    """A share of a checked sequence.

    Attributes:
        what: name of the layer.
        seconds: its share, in seconds of CPU.
    """

    what: str
    seconds: float


@cache
def recording() -> RecordedSequence:
    """Return the recording of `SEQUENCE`, made at the first call."""
    return record(SEQUENCE)


def record(
    sequence: Sequence, target: Callable[[Lifecycle], Target] = SimTarget
) -> RecordedSequence:
    """Run and check a sequence of one connection; return the bytes in both directions.

    Args:
        sequence: a sequence with a single connection.
        target: makes the target to run it at.

    Raises:
        AssertionError: a property does not hold.
    """
    sent: list[bytes] = []
    answers: list[bytes] = []

    def recorder(lifecycle: Lifecycle) -> Target:
        made = target(lifecycle)
        connect = made.connect
        made.connect = lambda: listened(connect())  # type: ignore[method-assign]
        return made

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
    """Run a sequence at a new target and check every property.

    Raises:
        AssertionError: a property does not hold.
    """
    outcome = run_sequence(sequence, Lifecycle(), target)
    if outcome.violations:
        raise AssertionError(f"expected a clean run, got {outcome.violations}")


def plain() -> bytes:
    """Send the recorded bytes through plain callbacks; return the answer."""
    recorded = recording()
    written: list[bytes] = []
    connection = PlainEcho(_USERS, written.append)
    for data in recorded.sent:
        connection.data_received(data)
    return _same(b"".join(written), recorded.received)


def naive() -> bytes:
    """Run the usual test: a server on a loopback port, a sleep, and a count of all tasks."""
    return asyncio.run(_naive(recording()))


async def _naive(recorded: RecordedSequence) -> bytes:
    inbound = Inbound([User(USER)], echo, lifecycle=Lifecycle())
    address = await inbound.listen()
    baseline = len(asyncio.all_tasks())
    reader, writer = await asyncio.open_connection(*address)
    received = b""
    for data, answer in zip(recorded.sent, recorded.answers, strict=True):
        writer.write(data)
        received += await reader.readexactly(len(answer))
    writer.close()
    await writer.wait_closed()
    await asyncio.sleep(PAUSE)
    left = asyncio.all_tasks()
    await inbound.shutdown()
    if len(left) != baseline:
        raise AssertionError(f"expected {baseline} tasks, got {left}")
    return _same(received, recorded.received)


def served(*, counted: bool) -> bytes:
    """Send the recorded bytes to a simulated server, which settles after each step.

    Args:
        counted: True to count tasks in a ledger.

    Returns:
        The answer.

    Raises:
        AssertionError: a task is left, or the answer is another one.
    """
    recorded = recording()
    server = BareServer(Lifecycle(), counted=counted)
    try:
        peer = server.connect()
        for data in recorded.sent:
            peer.send(data)
            server.settle()
        peer.close()
        server.settle()
        if server.ledger is not None and server.ledger.count:
            raise AssertionError(f"expected no task, got {server.ledger.live()}")
        server.end()
    finally:
        server.dispose()
    return _same(peer.received, recorded.received)


def unused() -> None:
    """Make a server without a connection, end it, and dispose of it."""
    server = BareServer(Lifecycle(), counted=False)
    server.end()
    server.dispose()


class Unchecked(SequenceRun):
    """A run that checks the data of each stream and no other property."""

    def check(self, name: str, scope: Scope) -> None:
        """Check nothing."""

    def check_server(self) -> None:
        """Check nothing."""


def unchecked() -> None:
    """Run the sequence with the client model and the ledger, without the checks."""
    target = SimTarget(Lifecycle())
    try:
        Unchecked(target).run(SEQUENCE)
    finally:
        target.dispose()
        # The target and its server form a cycle, which `run_sequence` breaks in the same way.
        vars(target).clear()


def measure(plan: BenchPlan) -> list[Comparison]:
    """Compare a checked sequence with loopback TCP, the usual test, and the lower bound."""
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
    """Divide the time of a checked sequence among its layers.

    Returns:
        The seconds of a checked sequence, one value for each round; and the parts, which add up to
        their median.
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
            "tasks, streams, transports, settled after each step",
            at["bare"] - at["unused"] - at["plain"],
        ),
        Part("ledger: count, scope and site of every task", at["counted"] - at["bare"]),
        Part("the runner, and its model of what must come back", at["unchecked"] - at["counted"]),
        Part("the check of every property after the close", at["ours"] - at["unchecked"]),
    ]
    return found["ours"], parts


def _by_the_wall(work: Callable[[], object], times: int) -> float:
    # A sleep takes no CPU time, so `each` would not see it.
    began = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - began) / times


def _same(got: bytes, expected: bytes) -> bytes:
    if got != expected:
        raise AssertionError(f"expected the bytes of the recorded run, {expected!r}, got {got!r}")
    return got
