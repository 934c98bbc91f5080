"""Runs a sequence in a world and holds it against the properties, after every close.

A connection is over when its peer has ended it, when what the peer sent is fatal, or when the
server has ended it or itself. Whenever the world is at rest, every connection that is over must
have left nothing: other connections may be open meanwhile, what each causes is counted apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from muxleak import LeakReport
from muxleak.sim.errors import LivelockError
from muxleak_scenarios.sequence.malformed import bad_header
from muxleak_scenarios.sequence.model import ConnectionModel
from muxleak_scenarios.sequence.properties import PROPERTIES, SequenceOutcome, Violation
from muxleak_scenarios.sequence.steps import DRIPS, ENDINGS, OPENING, OPERATOR, Sequence, Step
from muxleak_scenarios.targets.simulated import SimTarget
from muxleak_scenarios.targets.target import USER

if TYPE_CHECKING:
    from collections.abc import Callable

    from muxleak import Scope
    from muxleak_scenarios.targets.target import Target
    from muxleak_vless import Lifecycle

__all__ = ["PROPERTIES", "SequenceOutcome", "SequenceRun", "Violation", "run_sequence"]

_SERVER = "(all)"
"""Who is named where no single connection is to blame."""


def run_sequence(
    sequence: Sequence,
    lifecycle: Lifecycle,
    target: Callable[[Lifecycle], Target] = SimTarget,
) -> SequenceOutcome:
    """Run ``sequence`` against a server with these life-cycle answers, in a world of its own.

    Raises:
        ValueError: if a step names a connection that no earlier step opened.
    """
    place = target(lifecycle)
    run = SequenceRun(place)
    try:
        return run.run(sequence)
    except LivelockError as error:
        run.complain("quiet", _SERVER, f"{error}")
        return run.outcome
    finally:
        place.dispose()
        # Server and world refer to each other: cut, so that no run leaves work to a collector.
        vars(place).clear()


class SequenceRun:
    """The state of one run: what `run_sequence` and `pairs.growth` are made of."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.outcome = SequenceOutcome()
        self.connections: dict[str, ConnectionModel] = {}
        self.over: list[tuple[str, ConnectionModel]] = []
        self.known: set[str] = set()
        self.streams = 0

    def run(self, sequence: Sequence) -> SequenceOutcome:
        """Perform the steps, close what is open, end the server, and say what was seen."""
        target, outcome = self.target, self.outcome
        self.steps(sequence)
        self.rest()
        outcome.tasks = target.ledger.count
        self.close_all()
        self.rest()
        outcome.left = target.ledger.count
        self.check_server()
        target.cancel()
        target.rest(target.idle)
        outcome.left_after_end = target.ledger.count
        outcome.cleanups = sum(session.cleanups for session in target.sessions.values())
        for error in (*target.ledger.errors, *target.failures.unretrieved()):
            self.complain("exceptions", _SERVER, error)
        return outcome

    def repeat(self, sequence: Sequence) -> None:
        """Perform the steps once more, without checking, on the same server."""
        for step in sequence:
            self.target.deal(step.network)
            self.perform(step)
            self.target.settle() if step.gap is None else self.target.turn(step.gap)
        self.close_all()
        self.over.clear()
        self.target.settle()
        if self.target.context.cancelled:
            self.target.restart()

    def steps(self, sequence: Sequence) -> None:
        """Perform the steps with their gaps; check where the world comes to rest."""
        for step in sequence:
            self.target.deal(step.network)
            self.perform(step)
            if step.gap is None:
                self.rest()
            else:
                self.target.turn(step.gap)
            self.check_bounds()

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
            connection.stalled = verb == "stall"
            connection.lossy |= connection.stalled
            getattr(connection.peer, verb)()
        elif verb == "drip":
            connection.drips = True
        else:
            self.streams += verb in OPENING
            self.send(connection, connection.encode(step, self.streams))

    def operate(self, verb: str) -> None:
        """Do one step of the world."""
        if verb == "cancel":
            self.target.cancel()
            for connection in self.connections.values():
                connection.lossy |= self.target.ending
            return
        self.target.settle()
        self.target.wait()
        for connection in self.connections.values():
            connection.over = True

    def send(self, connection: ConnectionModel, data: bytes) -> None:
        """Send in one piece, or byte by byte, as far as headers reach, an iteration after each."""
        if connection.drips:
            for at in range(min(len(data), DRIPS)):
                connection.peer.send(data[at : at + 1])
                self.target.turn(1)
            data = data[DRIPS:]
        if data:
            connection.peer.send(data)

    def connect(self, step: Step) -> None:
        """Connect a new peer under the step's letter, closing the one that has it."""
        if step.connection in self.connections:
            self.finish(step.connection, "close")
        connection = ConnectionModel(self.target.connect(), USER, exact=self.target.exact)
        connection.lossy = self.target.ending
        self.connections[step.connection] = connection
        self.known.add(step.connection)
        self.outcome.connections += 1
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
        connection.take()
        self.complain("data", name, connection.wrong)
        if verb == "close":
            connection.peer.close()
        else:
            connection.peer.abort()
        del self.connections[name]
        self.over.append((name, connection))

    def rest(self) -> None:
        """Let the world come to rest and check what is over."""
        self.target.rest(self.settled)
        late = False
        for name, connection in list(self.connections.items()):
            ended = connection.peer.ended
            connection.take()
            late |= connection.peer.ended and not ended
            self.complain("data", name, connection.wrong or connection.missing)
            self.complain("answers", name, connection.unanswered)
            self.check_open(name, connection)
            if connection.over or connection.peer.ended:
                del self.connections[name]
                self.over.append((name, connection))
        if late:
            self.target.rest(self.settled)
        for name, connection in self.over:
            self.check(name, connection.peer.scope)
            # Not before: what is fatal must end the connection without the peer's help.
            connection.peer.close()
        self.over.clear()

    def settled(self) -> bool:
        """Whether what is expected at rest has happened (for worlds that cannot tell)."""
        over = [connection for _, connection in self.over]
        for connection in self.connections.values():
            connection.take()
            if connection.over or connection.peer.ended or self.target.ending:
                over.append(connection)
            elif connection.missing or connection.unanswered or self.waits(connection):
                return False
        return not any(self.holds(connection.peer.scope) for connection in over)

    def waits(self, connection: ConnectionModel) -> bool:
        """Whether something waits to be read by a peer that does not, or a destination."""
        # Where rest is no fact, a peer that reads may not have come to the end yet.
        certain = self.target.exact or connection.stalled
        return certain and bool(self.target.paused_links(connection.peer.scope))

    def holds(self, scope: Scope) -> bool:
        """Whether a connection that is over still holds anything."""
        session = self.target.sessions.get(scope)
        open_session = session is not None and not session.cleanups
        return bool(scope.live or self.target.open_links(scope) or open_session)

    def check(self, name: str, scope: Scope) -> None:
        """Hold a connection that is over against the properties."""
        if scope.live:
            report = LeakReport.of(self.target.ledger.live(scope))
            self.outcome.report = self.outcome.report or report
            self.complain("tasks", name, f"expected 0 alive after its close, got {scope.live}")
        if links := self.target.open_links(scope):
            self.complain("transports", name, f"expected 0 open after its close, got {links}")
        session = self.target.sessions.get(scope)
        if session is not None and session.cleanups != 1:
            self.complain("cleanup", name, f"expected exactly 1 cleanup, got {session.cleanups}")

    def check_bounds(self) -> None:
        """Hold the connections that are open against what they may have."""
        most = self.target.inbound.limits.max_streams
        for name, connection in self.connections.items():
            scope = connection.peer.scope
            if scope.live > connection.tasks:
                got = f"expected at most {connection.tasks} while it is open, got {scope.live}"
                self.complain("bounds", name, got)
            session = self.target.sessions.get(scope)
            if session is not None and session.load > most:
                self.complain("bounds", name, f"expected at most {most} streams at a time")

    def check_open(self, name: str, connection: ConnectionModel) -> None:
        """Hold a connection that is open, at rest, against the properties."""
        scope = connection.peer.scope
        if self.waits(connection):
            self.complain("stalls", name, "expected no write to wait when all limits have expired")
        # One that has been ended is held against the rest like any other that is over.
        over = connection.over or connection.peer.ended
        if self.target.ending and not over and self.holds(scope):
            self.complain("shutdown", name, "expected it to end with the server")

    def check_server(self) -> None:
        """Hold the server, with every connection closed, against the properties."""
        target, stock = self.target, self.target.stock
        unowned = target.ledger.count - sum(scope.live for scope in target.ledger.scopes)
        for property_, what, got, most in (
            ("tasks", "tasks of no connection", unowned, stock.tasks),
            (
                "transports",
                "transports of no connection",
                target.open_links(None),
                stock.transports,
            ),
            ("cleanup", "connections counted as open", target.inbound.active, 0),
            ("timers", "timers", target.pending_timers, stock.timers),
        ):
            if not 0 <= got <= most:
                expected = f"expected {'at most ' * bool(most)}{most} {what} after all closes"
                self.complain(property_, _SERVER, f"{expected}, got {got}")

    def complain(self, property_: str, name: str, detail: str) -> None:
        """Record a violation, once, if there is a detail to it."""
        violation = Violation(property_, name, detail)
        if detail and violation not in self.outcome.violations:
            self.outcome.violations.append(violation)
