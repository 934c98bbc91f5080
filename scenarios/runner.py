"""Runs a sequence in a world and holds it against the properties, after every close.

A connection is over when its peer has ended it, when what the peer sent is fatal, or when the
server has ended it or itself. Whenever the world is at rest, every connection that is over must
have left nothing: other connections may be open meanwhile, what each causes is counted apart.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness import LeakReport
from scenarios.malformed import bad_header
from scenarios.model import ConnectionModel
from scenarios.steps import ENDINGS, OPENING, OPERATOR, Sequence, Step
from scenarios.worlds import USER, MemoryWorld

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness import Scope
    from scenarios.worlds import World
    from vless import Lifecycle

PROPERTIES = {
    "tasks": "after every close, the tasks of the connection are gone",
    "cleanup": "every connection is cleaned up exactly once",
    "data": "every accepted byte is echoed, in order, on its own stream",
    "transports": "no transport of a closed connection is left, in or out",
    "exceptions": "no exception goes unretrieved",
    "timers": "no timer is left when all connections are closed (on virtual time)",
}
"""What is held against every sequence; the first column is what `Violation.property` says."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A property that did not hold, where, and what was seen."""

    property: str
    connection: str
    detail: str

    def __str__(self) -> str:
        return f"{self.property}: connection {self.connection}: {self.detail}"


@dataclass(slots=True)
class Outcome:
    """What a sequence did.

    ``tasks`` are alive after its last step, ``left`` after every connection was then closed, and
    ``left_after_end`` after the server's context was ended, too. ``cleanups`` counts all of them.
    ``report`` tells of the tasks that were left by the first close that left any.
    """

    violations: list[Violation] = field(default_factory=list)
    connections: int = 0
    tasks: int = 0
    left: int = 0
    left_after_end: int = 0
    cleanups: int = 0
    report: LeakReport | None = None

    @property
    def violated(self) -> tuple[str, ...]:
        """The properties that did not hold, in the order of `PROPERTIES`."""
        found = {violation.property for violation in self.violations}
        return tuple(name for name in PROPERTIES if name in found)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "violated": list(self.violated),
            "violations": [str(violation) for violation in self.violations],
            "connections": self.connections,
            "tasks_left": self.left,
            "tasks_left_after_server_end": self.left_after_end,
            "cleanups": self.cleanups,
            "report": self.report.to_json() if self.report is not None else None,
        }


def run_sequence(
    sequence: Sequence,
    lifecycle: Lifecycle,
    world: Callable[[Lifecycle], World] = MemoryWorld,
) -> Outcome:
    """Run ``sequence`` against a server with these life-cycle answers, in a world of its own.

    Raises:
        ValueError: if a step names a connection that no earlier step opened.
    """
    place = world(lifecycle)
    try:
        return Run(place).run(sequence)
    finally:
        place.dispose()


class Run:
    """The state of one run: what `run_sequence` and `scenarios.growth` are made of."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.outcome = Outcome()
        self.connections: dict[str, ConnectionModel] = {}
        self.over: list[tuple[str, ConnectionModel]] = []
        self.scopes: list[Scope] = []
        self.known: set[str] = set()
        self.streams = 0

    def run(self, sequence: Sequence) -> Outcome:
        """Perform the steps, close what is open, end the server, and say what was seen."""
        self.steps(sequence)
        self.rest()
        outcome = self.outcome
        outcome.tasks = self.count()
        self.close_all()
        self.rest()
        outcome.left = self.count()
        self.check_server()
        self.world.cancel()
        self.world.rest(lambda: not self.count())
        outcome.left_after_end = self.count()
        outcome.connections = len(self.scopes)
        outcome.cleanups += sum(session.cleanups for session in self.world.sessions.values())
        return outcome

    def repeat(self, sequence: Sequence) -> None:
        """Perform the steps once more, without checking, on the same server."""
        for step in sequence:
            self.perform(step)
            self.world.settle() if step.gap is None else self.world.turn(step.gap)
        self.close_all()
        self.over.clear()
        self.world.settle()
        if self.world.context.cancelled:
            self.world.restart()

    def steps(self, sequence: Sequence) -> None:
        """Perform the steps with their gaps; check where the world comes to rest."""
        for step in sequence:
            self.perform(step)
            if step.gap is None:
                self.rest()
            else:
                self.world.turn(step.gap)

    def close_all(self) -> None:
        """Close every connection that the peer still has open."""
        for name in list(self.connections):
            self.finish(name, "close")

    def perform(self, step: Step) -> None:
        """Do one step."""
        verb, name = step.verb, step.connection
        if verb in OPERATOR:
            self.operate(verb)
            return
        if verb in {"open", "connect", "bad"}:
            self.connect(step)
            return
        connection = self.connections.get(name)
        if connection is None:
            if name not in self.known:
                raise ValueError(f"step {str(step)!r}: connection {name!r} was not opened before")
            return
        if verb in ENDINGS:
            self.finish(name, verb)
        elif verb in {"stall", "resume"}:
            connection.lossy |= verb == "stall"
            getattr(connection.peer, verb)()
        elif verb == "drip":
            connection.drips = True
        else:
            self.streams += verb in OPENING
            self.send(connection, connection.encode(step, self.streams))

    def operate(self, verb: str) -> None:
        """Do one step of the world."""
        if verb == "cancel":
            self.world.cancel()
            return
        # What was idle by then is over; a peer that does not read cannot see that, so it is told.
        self.world.settle()
        self.world.wait()
        for connection in self.connections.values():
            connection.over = True

    def send(self, connection: ConnectionModel, data: bytes) -> None:
        """Send in one piece, or byte by byte with an iteration after each."""
        if not connection.drips:
            connection.peer.send(data)
            return
        for at in range(len(data)):
            connection.peer.send(data[at : at + 1])
            self.world.turn(1)

    def connect(self, step: Step) -> None:
        """Connect a new peer under the step's letter, closing the one that has it."""
        if step.connection in self.connections:
            self.finish(step.connection, "close")
        connection = ConnectionModel(self.world.connect(), USER)
        self.connections[step.connection] = connection
        self.known.add(step.connection)
        self.scopes.append(connection.peer.scope)
        if step.verb == "open":
            connection.peer.send(connection.encode(Step("header"), 0))
        elif step.verb == "bad":
            connection.peer.send(bad_header(step.what, USER))
            connection.over = True

    def finish(self, name: str, verb: str) -> None:
        """End a connection from the peer's side."""
        connection = self.connections[name]
        connection.over = True
        if verb == "half":
            connection.peer.half_close()
            return
        self.complain("data", name, connection.take())
        if verb == "close":
            connection.peer.close()
        else:
            connection.peer.abort()
        del self.connections[name]
        self.over.append((name, connection))

    def rest(self) -> None:
        """Let the world come to rest and check what is over."""
        self.world.rest(self.settled)
        for name, connection in list(self.connections.items()):
            self.complain("data", name, connection.take())
            connection.over |= connection.peer.ended
            if not (connection.over or connection.lossy):
                self.complain("data", name, connection.unmet())
            if connection.over:
                connection.peer.close()
                del self.connections[name]
                self.over.append((name, connection))
        if self.over:
            self.world.rest(self.settled)
        for name, connection in self.over:
            self.check(name, connection.peer.scope)
        self.over.clear()

    def settled(self) -> bool:
        """Whether what is expected at rest has happened (for worlds that cannot tell)."""
        over = [connection for _, connection in self.over]
        for connection in self.connections.values():
            connection.take()
            if connection.over or connection.peer.ended:
                over.append(connection)
            elif not connection.lossy and connection.unmet():
                return False
        return not any(self.holds(connection.peer.scope) for connection in over)

    def holds(self, scope: Scope) -> bool:
        """Whether a connection that is over still holds anything."""
        session = self.world.sessions.get(scope)
        open_session = session is not None and not session.cleanups
        return bool(scope.live or self.world.open_links(scope) or open_session)

    def check(self, name: str, scope: Scope) -> None:
        """Hold a connection that is over against the properties, and forget it."""
        if scope.live:
            report = LeakReport.of(self.world.ledger.live(scope))
            self.outcome.report = self.outcome.report or report
            self.complain("tasks", name, f"expected 0 alive after its close, got {scope.live}")
        if links := self.world.open_links(scope):
            self.complain("transports", name, f"expected 0 open after its close, got {links}")
        session = self.world.sessions.get(scope)
        if session is not None and session.cleanups != 1:
            self.complain("cleanup", name, f"expected exactly 1 cleanup, got {session.cleanups}")

    def check_server(self) -> None:
        """Hold the server, with every connection closed, against the properties."""
        if self.world.inbound.active:
            detail = f"expected 0 connections counted as open, got {self.world.inbound.active}"
            self.complain("cleanup", "(all)", detail)
        for error in self.world.ledger.errors:
            self.complain("exceptions", "(all)", error)
        if timers := self.world.pending_timers:
            self.complain("timers", "(all)", f"expected 0 after all closes, got {timers}")

    def complain(self, property_: str, name: str, detail: str) -> None:
        """Record a violation, if there is a detail to it."""
        if detail:
            self.outcome.violations.append(Violation(property_, name, detail))

    def count(self) -> int:
        """How many tasks of all connections so far are alive."""
        return sum(scope.live for scope in self.scopes)
