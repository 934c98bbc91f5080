"""Negative controls: servers that keep something on purpose and must not be flagged."""

# Each control looks like a leak and is none, because a bound limits it: a task that ends by itself,
# a pool that keeps one idle connection, one task for the whole server, a close that takes its time.
# A check that flagged one of them would be useless in practice.
#
# A control shows nothing if the check cannot see that server at all. So each has *twins*, the same
# server without its bound, which must be flagged, and for exactly the properties that are claimed.
#
# A control is a mixin for a target (its handler does more than the plain one), or a `Lifecycle`.
# The mixins have class attributes as switches, and a twin sets one of them. `Target.allowance` is
# how a control declares that it keeps something when all connections are closed; the twins keep the
# same allowance, so that only the missing bound differs.
#
# Tasks and connections that belong to the server are started in an empty context (`_start`). The
# twin that starts them in the context of a connection is flagged although it keeps no more than its
# control: ownership is decided by the context at the start, not by who uses the object later.

from __future__ import annotations

import asyncio
from abc import ABC
from contextlib import suppress
from contextvars import Context as Variables
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, cast

from muxleak_scenarios.sequence.decoder import random_sequence
from muxleak_scenarios.sequence.steps import Sequence
from muxleak_scenarios.targets.run import run_sequence
from muxleak_scenarios.targets.simulated import SimTarget
from muxleak_scenarios.targets.target import Allowance, Target
from muxleak_scenarios.targets.tcp import TcpTarget
from muxleak_vless import Lifecycle, NetworkType
from muxleak_vless.errors import LinkLost

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping

    from muxleak_vless import Address, Context, Limits, MuxSession, Stream
    from muxleak_vless.link import Link
    from muxleak_vless.outbound import Dial
    from muxleak_vless.stream import Handler

SEQUENCES = 300
"""Random sequences, of about 15 connections each, that each control runs."""
SOCKET_SEQUENCES = 5
"""Random sequences that it runs over loopback TCP, in real time."""
POOLED = "echo.dest"
"""The destination whose streams share pooled connections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Twin:
    """A control without its bound, which must be flagged.

    Attributes:
        minimal: a sequence on which it is flagged.
        fails: the properties it then violates, and no others.
        lifecycle: its life cycle, where that is the difference.
        switches: class attributes of the control's mixin, where those are.
    """

    minimal: str
    fails: tuple[str, ...]
    lifecycle: type[Lifecycle] = Lifecycle
    switches: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """A server that looks like a leak and is none.

    Attributes:
        resembles: the leak for which it might be taken.
        bound: the reason why it is none.
        sequences: sequences on which a check might flag it.
        twins: the same server without its bound, by a label.
        mixin: gives a target this server; None if ``lifecycle`` is the difference.
        lifecycle: the life cycle of the server.
    """

    resembles: str
    bound: str
    sequences: tuple[str, ...]
    twins: Mapping[str, Twin]
    mixin: type[Target] | None = None
    lifecycle: type[Lifecycle] = Lifecycle

    def target(
        self, base: type[SimTarget | TcpTarget], switches: Mapping[str, object] | None = None
    ) -> Callable[[Lifecycle], Target]:
        """Return a target that hosts this server.

        Args:
            base: the simulated target, or the one on TCP.
            switches: class attributes that make it a twin.
        """
        bases = (base,) if self.mixin is None else (self.mixin, base)
        return cast(
            "Callable[[Lifecycle], Target]", type(base.__name__, bases, dict(switches or {}))
        )


class LingeringTarget(Target, ABC):
    """A target whose handlers linger when they are done, cancelled or not.

    They end by themselves after half the close limit; never if not ``bounded``.
    """

    bounded = True

    def handler(self, dial: Dial, limits: Limits) -> Handler:
        """Return the plain handler, followed by the delay."""
        serve = super().handler(dial, limits)
        seconds = limits.close_seconds / 2 if self.bounded else None

        async def serve_and_linger(stream: Stream, context: Context) -> None:
            try:
                await serve(stream, context)
            finally:
                await _linger(seconds)

        return serve_and_linger


class PoolingTarget(Target, ABC):
    """A target whose streams to one destination take turns on pooled connections.

    One is kept when idle. If not ``reused``, each stream has its own and all are kept; if not
    ``apart``, a connection belongs to the stream that dialled it.
    """

    allowance = Allowance(transports=1, timers=1)
    reused = apart = True

    def handler(self, dial: Dial, limits: Limits) -> Handler:
        """Return a handler that serves that destination's streams from a pool."""
        serve = super().handler(dial, limits)
        most = self.allowance.transports if self.reused else None
        pool = Pool(dial, limits, self.context, most=most, apart=self.apart)

        async def exchange(stream: Stream, context: Context) -> None:
            if stream.target.host == POOLED and stream.network is NetworkType.TCP:
                await pool.exchange(stream)
            else:
                await serve(stream, context)

        return exchange


class LoggingTarget(Target, ABC):
    """A target that writes one access log for all connections, in a task of its own.

    The first stream starts the task. If not ``shared``, each connection has a task; if not
    ``apart``, the task belongs to the connection that started it.
    """

    allowance = Allowance(tasks=1)
    shared = apart = True

    def handler(self, dial: Dial, limits: Limits) -> Handler:
        """Return the plain handler, preceded by a line in the log."""
        serve = super().handler(dial, limits)
        log = AccessLog(self.context, apart=self.apart)

        async def record(stream: Stream, context: Context) -> None:
            log.note(f"{stream.target}", "all" if self.shared else context)
            await serve(stream, context)

        return record


class LingeringClose(Lifecycle):
    """Ends its own direction, and discards input until the peer ends, or for the close limit."""

    def end_link(self, session: MuxSession) -> None:
        """Flush, and wait for the peer until the close limit."""
        session.link.finish()

    def hang_up(self, link: Link) -> None:
        """Do the same for a refused connection."""
        link.finish()


class EndlessClose(Lifecycle):
    """Does the same without a limit."""

    def end_link(self, session: MuxSession) -> None:
        """Wait for the peer."""
        session.link.send_eof()

    def hang_up(self, link: Link) -> None:
        """Wait for the peer."""
        link.send_eof()


class Pool:
    """Connections to a destination that answers every byte with one byte.

    Args:
        dial: makes a connection.
        limits: of the connections.
        server: the server's context; the pool ends with it.
        most: how many idle connections it keeps; None keeps all and uses none again.
        apart: False makes a connection belong to the stream that dialled it.
    """

    def __init__(
        self, dial: Dial, limits: Limits, server: Context, *, most: int | None, apart: bool
    ) -> None:
        self._dial_to = dial
        self._limits = limits
        self._server = server
        self._most = most
        self._apart = apart
        self._idle: list[Link] = []
        server.on_cancel(self._close)

    async def exchange(self, stream: Stream) -> None:
        """Serve a stream on a pooled connection.

        Raises:
            LinkLost: the destination closed in the middle of an answer.
            OSError: it cannot be reached, or the server has ended.
        """
        link = await self._take(stream.target)
        owed = 0
        try:
            while data := await stream.read():
                link.send(data)
                owed = len(data)
                while owed:
                    answer = await link.receive()
                    if not answer:
                        raise LinkLost("the destination closed in the middle of an answer")
                    owed -= len(answer)
                    await stream.write(answer)
        finally:
            # With part of an answer outstanding, the next stream would read it as its own.
            if owed:
                link.close()
            else:
                self._give(link)

    async def _take(self, address: Address) -> Link:
        if self._most is None:
            await self._dial(address)
            return self._idle[-1]
        # In a loop: another stream may take the connection that was dialled for this one, and the
        # server may end meanwhile.
        while not self._server.cancelled:
            while self._idle:
                link = self._idle.pop()
                if not (link.closing or link.ended):
                    return link
                link.close()
            await self._dial(address)
        raise ConnectionAbortedError("the server has ended")

    async def _dial(self, address: Address) -> None:
        # The new connection goes into the list of idle ones. A stream that is cancelled when its
        # dial has just succeeded would lose a returned one; this way the next stream finds it.
        await _start(self._connect(address), apart=self._apart)

    async def _connect(self, address: Address) -> None:
        self._give(await self._dial_to(address, self._limits))

    def _give(self, link: Link) -> None:
        spare = self._most is None or len(self._idle) < self._most
        if link.closing or link.ended or self._server.cancelled or not spare:
            link.close()
        else:
            self._idle.append(link)

    def _close(self, _cause: BaseException) -> None:
        while self._idle:
            self._idle.pop().close()


class AccessLog:
    """Writes lines in tasks that last as long as the server.

    The first line of a writer starts its task. If not ``apart``, the task belongs to the connection
    that wrote that line.
    """

    def __init__(self, server: Context, *, apart: bool) -> None:
        self.lines = 0
        self._server = server
        self._apart = apart
        self._queues: dict[object, asyncio.Queue[str]] = {}

    def note(self, line: str, writer: object) -> None:
        """Queue a line for the task of ``writer``."""
        queue = self._queues.get(writer)
        if queue is None:
            queue = self._queues[writer] = asyncio.Queue()
            task = _start(self._write(queue), apart=self._apart)
            self._server.on_cancel(partial(_cancel, task))
        queue.put_nowait(line)

    async def _write(self, queue: asyncio.Queue[str]) -> None:
        while True:
            await queue.get()
            self.lines += 1


def _start(work: Coroutine[Any, Any, None], *, apart: bool) -> asyncio.Task[None]:
    # An empty context makes it belong to the server, and to no connection.
    variables = Variables() if apart else None
    return asyncio.get_running_loop().create_task(work, context=variables)


def _cancel(task: asyncio.Task[None], _cause: BaseException) -> None:
    task.cancel()


async def _linger(seconds: float | None) -> None:
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()
    if seconds is not None:
        loop.call_later(seconds, over.set_result, None)
    # `asyncio.wait` leaves the future alone when it is cancelled, so the delay goes on.
    while not over.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([over])


CONTROLS: Mapping[str, Control] = {
    "lingering_handler": Control(
        resembles="a handler is still alive when its connection has closed",
        bound="it ends by itself within the close limit",
        sequences=(
            "a:open a:new:1:echo+5 a:close",
            "a:open a:new:1:stubborn b:open b:new:1:echo a:abort b:close",
        ),
        mixin=LingeringTarget,
        twins={
            "lingers for ever": Twin(
                minimal="a:open a:new:1:echo a:close",
                fails=("tasks",),
                switches={"bounded": False},
            )
        },
    ),
    "idle_pooled_connection": Control(
        resembles="a connection to a destination outlives the stream that dialled it",
        bound="it is kept for later streams, which use it; one at most is idle",
        sequences=(
            "a:open a:new:1:@echo+5 a:close",
            "a:open a:new:1:@echo+5 a:end:1 b:open b:new:1:@echo+60 a:close b:close",
        ),
        mixin=PoolingTarget,
        twins={
            # Each idle link has an idle timer, so two of them exceed both allowances.
            "one for each stream, never used again": Twin(
                minimal="a:open a:new:1:@echo+5 a:new:2:@echo+5 a:close",
                fails=("transports", "timers"),
                switches={"reused": False},
            ),
            "dialled in its connection's context": Twin(
                minimal="a:open a:new:1:@echo+5 a:close",
                fails=("transports",),
                switches={"apart": False},
            ),
        },
    ),
    "service_task": Control(
        resembles="a task that the first connection started outlives it",
        bound="it serves all connections, and ends with the server",
        sequences=(
            "a:open a:new:1:echo a:close",
            "a:open b:open b:new:1:echo a:new:1:sink b:close a:close",
        ),
        mixin=LoggingTarget,
        twins={
            "one for each connection": Twin(
                minimal="a:open a:new:1:echo b:open b:new:1:echo a:close b:close",
                fails=("tasks",),
                switches={"shared": False},
            ),
            # The task counts for its connection: after the close, and before it, as one too many.
            "started in its connection's context": Twin(
                minimal="a:open a:new:1:echo a:close",
                fails=("tasks", "bounds"),
                switches={"apart": False},
            ),
        },
    ),
    "slow_close": Control(
        resembles="a connection that the server has ended is still open",
        bound="its peer has the close limit to read the rest",
        sequences=(
            "a:bad:user",
            "a:open a:stall a:new:1:flood~2 cancel~5 a:resume a:close",
            "a:open a:stall a:new:1:flood~2 a:junk:status",
        ),
        lifecycle=LingeringClose,
        twins={
            # The peer of a refused connection never closes by itself, so everything stays.
            "without a limit": Twin(
                minimal="a:bad:user",
                fails=("tasks", "transports", "timers"),
                lifecycle=EndlessClose,
            )
        },
    ),
}
"""The controls by name."""


@dataclass(slots=True)
class Trial:
    """The result of running a control and its twins.

    Attributes:
        name: the control.
        flagged: the properties that the control violated; must be empty.
        twins: the properties that each twin violated, by its label.
        connections: how many connections the control served.
        broken: the claims that do not hold, each with the sequence that shows it.
    """

    name: str
    flagged: tuple[str, ...] = ()
    twins: dict[str, tuple[str, ...]] = field(default_factory=dict)
    connections: int = 0
    broken: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """True if every claim holds."""
        return not self.broken

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "control": self.name,
            "looks_like": CONTROLS[self.name].resembles,
            "bound": CONTROLS[self.name].bound,
            "holds": self.holds,
            "flagged": list(self.flagged),
            "connections": self.connections,
            "twins": {name: list(violated) for name, violated in self.twins.items()},
            "broken": self.broken,
        }


def try_control(name: str, *, seed: int = 0, sequences: int = SEQUENCES) -> Trial:
    """Run a control on its own and on random sequences, and each twin on its minimal sequence.

    Args:
        name: a key of `CONTROLS`.
        seed: of the random sequences.
        sequences: how many of them run simulated; `SOCKET_SEQUENCES` at most run over TCP, too.
    """
    control, trial = CONTROLS[name], Trial(name)
    _try_bounded(control, trial, _sequences(control, seed, sequences))
    _try_twins(control, trial)
    return trial


def _try_bounded(
    control: Control,
    trial: Trial,
    sequences: Iterator[tuple[Sequence, type[SimTarget | TcpTarget]]],
) -> None:
    for sequence, base in sequences:
        outcome = run_sequence(sequence, control.lifecycle(), control.target(base))
        trial.connections += outcome.connections
        trial.flagged = tuple(dict.fromkeys((*trial.flagged, *outcome.violated)))
        where = f"in {base.__name__}: {sequence}"
        if outcome.violations:
            trial.broken.append(f"{outcome.violations[0]} {where}")
        elif outcome.left_after_end:
            # An allowance is for a server that runs. Nothing may outlive its context.
            left = outcome.left_after_end
            trial.broken.append(f"expected 0 tasks when the server has ended, got {left} {where}")
        # One sequence is enough to refute a control, and hundreds would say the same.
        if trial.broken:
            break


def _try_twins(control: Control, trial: Trial) -> None:
    for label, twin in control.twins.items():
        for base in (SimTarget, TcpTarget):
            target = control.target(base, twin.switches)
            violated = run_sequence(Sequence.parse(twin.minimal), twin.lifecycle(), target).violated
            expected = tuple(each for each in twin.fails if each not in base.unobservable)
            if violated != expected:
                where = f"in {base.__name__}: {twin.minimal}"
                trial.broken.append(f"{label}: expected {expected}, got {violated} {where}")
            # Those of the simulated target, which comes first and observes every property.
            trial.twins.setdefault(label, violated)


def _sequences(
    control: Control, seed: int, sequences: int
) -> Iterator[tuple[Sequence, type[SimTarget | TcpTarget]]]:
    for base in (SimTarget, TcpTarget):
        for line in control.sequences:
            yield Sequence.parse(line), base
    random = Random(seed)  # noqa: S311 - a reproducible search, no secret
    for number in range(sequences + min(sequences, SOCKET_SEQUENCES)):
        if number < sequences:
            yield random_sequence(random), SimTarget
        else:
            yield random_sequence(random, virtual=False), TcpTarget
