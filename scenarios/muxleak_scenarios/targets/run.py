"""Runs a sequence against a target and checks the properties after every close."""

# The life of one sequence: perform a step; let the target settle, or run as many iterations as the
# step's gap says; check; and so on. After the last step every open connection is closed, the target
# settles, and the server's context is ended.
#
# A connection is *over* when its peer has ended it, when the peer has sent something fatal, when
# its idle intervals have passed, or when the server has ended it. From then on it must leave
# nothing, and that is checked whenever the target has settled, not only at the end of the sequence.
# A check at the end would miss every leak that a later step clears (a watcher that waits for the
# server's context ends with it), and it could not say which connection leaked. The check is exact
# although others are open, because each connection has a scope, which everything it starts
# inherits.
#
# The properties are checked at these moments:
#
#   settled, connection over   tasks, transports, cleanup; only then does the peer close its end,
#                              because a fatal frame must end the connection without its help
#   settled, connection open   data, answers, stalls, shutdown
#   after every step           bounds, because an excess may last for one gap only
#   every connection closed    what belongs to no connection; timers
#   server ended               exceptions, so that those that its end raises count, too
#
# After a step with a gap the target does not settle, and no connection is removed: the race with
# the next step is part of the run. Without gaps no race was found in any search.
#
# On the simulated network the target knows when it has settled. On sockets it is inferred: nothing
# is ready and no timer is near, but bytes may still be in the kernel. There `Target.settle_until`
# also waits for `SequenceRun.is_settled`, which is true when everything that should happen has
# happened, so that waiting costs time only where something is wrong.
#
# Steps of a connection that is no longer open are ignored: neither a person nor the decoder can
# know when the server ends a connection, and a search for shorter sequences removes steps. A step
# of a connection that was never opened is a mistake in the line, and is refused.

from __future__ import annotations

from typing import TYPE_CHECKING

from muxleak import LeakReport
from muxleak.sim.errors import LivelockError
from muxleak_scenarios.sequence.malformed import bad_header
from muxleak_scenarios.sequence.model import ConnectionModel
from muxleak_scenarios.sequence.properties import SequenceOutcome, Violation
from muxleak_scenarios.sequence.steps import (
    CONNECTING,
    DRIPS,
    ENDINGS,
    OPENING,
    OPERATOR,
    SENDING,
    Sequence,
    Step,
)
from muxleak_scenarios.targets.simulated import SimTarget
from muxleak_scenarios.targets.target import USER

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from muxleak import Scope
    from muxleak_scenarios.targets.target import Target
    from muxleak_vless import Lifecycle

_SERVER = "(all)"
"""The connection that a violation names if it belongs to no single one."""


def run_sequence(
    sequence: Sequence,
    lifecycle: Lifecycle,
    target: Callable[[Lifecycle], Target] = SimTarget,
    *,
    until: Container[str] = (),
) -> SequenceOutcome:
    """Run a sequence against a server of its own.

    Args:
        sequence: the steps.
        lifecycle: the life cycle of the server: the reference, a version, a variant or a mutant.
        target: makes the target that hosts the server.
        until: properties; no step is performed after the first violation of one of them.

    Returns:
        The violations, and the tasks that were left.

    Raises:
        ValueError: a step names a connection that no earlier step opened.
    """
    server = target(lifecycle)
    run = SequenceRun(server, until)
    try:
        return run.run(sequence)
    except LivelockError as error:
        run.record("quiet", _SERVER, f"{error}")
        run.outcome.performed += 1
        return run.outcome
    finally:
        server.dispose()
        # Target and server refer to each other. This cuts the cycle, so that memory does not grow
        # from run to run while the collector is off, as it is in a soak.
        vars(server).clear()


class SequenceRun:
    """The state of one run: `run_sequence` and `pairs.growth` are built on it.

    Attributes:
        target: hosts the server.
        outcome: the violations and counts so far.
        connections: the connections that the peers hold open, by letter.
        over: connections that are over and not checked yet, with their letters.
        known: the letters that were opened at any time.
        streams: how many streams were opened, to give each bytes of its own.
    """

    def __init__(self, target: Target, until: Container[str] = ()) -> None:
        self.target = target
        self._until = until
        self.outcome = SequenceOutcome()
        self.connections: dict[str, ConnectionModel] = {}
        self.over: list[tuple[str, ConnectionModel]] = []
        self.known: set[str] = set()
        self.streams = 0

    def run(self, sequence: Sequence) -> SequenceOutcome:
        """Perform the steps, close the open connections, end the server; return the outcome."""
        target, outcome = self.target, self.outcome
        self.steps(sequence)
        self.settle()
        outcome.tasks = target.ledger.count
        self.close_all()
        self.settle()
        outcome.left = target.ledger.count
        self.check_server()
        target.cancel()
        target.settle_until(target.is_idle)
        outcome.left_after_end = target.ledger.count
        outcome.cleanups = sum(session.cleanups for session in target.sessions.values())
        for error in (*target.ledger.errors, *target.exceptions.unretrieved()):
            self.record("exceptions", _SERVER, error)
        return outcome

    def repeat(self, sequence: Sequence) -> None:
        """Perform the steps once more on the same server, without checks.

        A sequence that ends the server's context is followed by a restart.
        """
        settled = False
        for step in sequence:
            self.target.use_decisions(step.network)
            self.perform(step)
            settled = step.gap is None
            self.target.settle() if step.gap is None else self.target.turn(step.gap)
        # Most sequences end with the close of their last connection, and settle after it.
        if self.connections or not settled:
            self.close_all()
            self.target.settle()
        self.over.clear()
        if self.target.context.cancelled:
            self.target.restart()

    def steps(self, sequence: Sequence) -> None:
        """Perform the steps with their gaps, and check wherever the target settles."""
        for step in sequence:
            self.target.use_decisions(step.network)
            self.perform(step)
            if step.gap is None:
                self.settle()
            else:
                self.target.turn(step.gap)
            self.check_bounds()
            self.outcome.performed += 1
            violations = self.outcome.violations
            if violations and any(each.property in self._until for each in violations):
                return

    def close_all(self) -> None:
        """Close every connection that a peer holds open."""
        for name in list(self.connections):
            self.finish(name, "close")

    def perform(self, step: Step) -> None:
        """Perform one step, without its gap."""
        verb, name = step.verb, step.connection
        connection = self.connections.get(name)
        if connection is not None and verb in SENDING:
            self.streams += verb in OPENING
            self.send(connection, connection.encode(step, self.streams))
            return
        if verb in OPERATOR:
            self.operate(verb)
            return
        if verb in CONNECTING:
            self.connect(step)
            return
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
        else:
            connection.drips = True

    def operate(self, verb: str) -> None:
        """Perform a step that has no connection: ``cancel`` or ``wait``."""
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
        """Send in one piece; after ``drip``, send `DRIPS` bytes one by one, and then the rest."""
        if connection.drips:
            for at in range(min(len(data), DRIPS)):
                connection.peer.send(data[at : at + 1])
                self.target.turn(1)
            data = data[DRIPS:]
        if data:
            connection.peer.send(data)

    def connect(self, step: Step) -> None:
        """Connect a new peer under the step's letter; close the connection that has the letter."""
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
        """End a connection from the peer's side; ``half`` leaves it open for reading."""
        connection = self.connections[name]
        connection.over = True
        if verb == "half":
            connection.peer.half_close()
            return
        connection.take()
        if connection.wrong:
            self.record("data", name, connection.wrong)
        if verb == "close":
            connection.peer.close()
        else:
            connection.peer.abort()
        del self.connections[name]
        self.over.append((name, connection))

    def settle(self) -> None:
        """Let the target settle, then check the open connections and those that are over."""
        self.target.settle_until(self.is_settled)
        late = False
        for name, connection in list(self.connections.items()):
            ended = connection.peer.ended
            connection.take()
            late |= connection.peer.ended and not ended
            if detail := connection.wrong or connection.missing:
                self.record("data", name, detail)
            if detail := connection.unanswered:
                self.record("answers", name, detail)
            self.check_open(name, connection)
            if connection.over or connection.peer.ended:
                del self.connections[name]
                self.over.append((name, connection))
        # A socket shows that the server has ended a connection only when it is read. So far
        # `is_settled` took that connection for an open one, and did not wait for its tasks.
        if late:
            self.target.settle_until(self.is_settled)
        for name, connection in self.over:
            self.check(name, connection.peer.scope)
            connection.peer.close()
        self.over.clear()

    def is_settled(self) -> bool:
        """Return True if all that should have happened by now has, for targets that cannot tell."""
        over = [connection for _, connection in self.over]
        for connection in self.connections.values():
            connection.take()
            if connection.over or connection.peer.ended or self.target.ending:
                over.append(connection)
            elif self.is_pending(connection):
                return False
        return not any(self.leaves_something(connection.peer.scope) for connection in over)

    def is_pending(self, connection: ConnectionModel) -> bool:
        """Return True if something must still happen on an open connection."""
        owed = connection.missing or connection.unanswered
        excess = self.excess_unread(connection.peer.scope)
        return bool(owed or excess or self.has_stalled_write(connection))

    def has_stalled_write(self, connection: ConnectionModel) -> bool:
        """Return True if the server waits for a peer or a destination to read."""
        # Where settling is inferred, a peer that reads may not have read everything yet.
        certain = self.target.exact or connection.stalled
        return certain and self.target.has_paused_link(connection.peer.scope)

    def excess_unread(self, scope: Scope) -> int:
        """Return the unread bytes of a connection's streams if they are at the limit, else 0."""
        session = self.target.sessions.get(scope)
        # The peer's end lifts the limit: the rest of its data is passed on, and no more can come.
        if session is None or session.link.ended:
            return 0
        size = session.unread.size
        return size if size >= self.target.inbound.limits.unread_bytes else 0

    def leaves_something(self, scope: Scope) -> bool:
        """Return True if the server still has a task, a transport or a session of a connection."""
        session = self.target.sessions.get(scope)
        open_session = session is not None and not session.cleanups
        return bool(scope.live or self.target.open_links(scope) or open_session)

    def check(self, name: str, scope: Scope) -> None:
        """Check the properties of a connection that is over."""
        if scope.live:
            report = LeakReport.of(self.target.ledger.live(scope))
            self.outcome.report = self.outcome.report or report
            self.record("tasks", name, f"expected 0 alive after its close, got {scope.live}")
        if links := self.target.open_links(scope):
            self.record("transports", name, f"expected 0 open after its close, got {links}")
        session = self.target.sessions.get(scope)
        if session is not None and session.cleanups != 1:
            self.record("cleanup", name, f"expected exactly 1 cleanup, got {session.cleanups}")

    def check_bounds(self) -> None:
        """Check the tasks and streams of the open connections against the most they may have."""
        most = self.target.inbound.limits.max_streams
        for name, connection in self.connections.items():
            scope = connection.peer.scope
            if scope.live > connection.tasks:
                got = f"expected at most {connection.tasks} while it is open, got {scope.live}"
                self.record("bounds", name, got)
            session = self.target.sessions.get(scope)
            if session is not None and session.load > most:
                self.record("bounds", name, f"expected at most {most} streams at a time")

    def check_open(self, name: str, connection: ConnectionModel) -> None:
        """Check the properties of an open connection, when the target has settled."""
        scope = connection.peer.scope
        if self.has_stalled_write(connection):
            self.record("stalls", name, "expected no write to wait when all limits have expired")
        if unread := self.excess_unread(scope):
            most = self.target.inbound.limits.unread_bytes
            got = f"expected less than {most} unread bytes of all streams, got {unread}"
            self.record("bounds", name, got)
        # One that is over is checked by `check`, for more than this.
        over = connection.over or connection.peer.ended
        if self.target.ending and not over and self.leaves_something(scope):
            self.record("shutdown", name, "expected it to end with the server")

    def check_server(self) -> None:
        """Check the server's own properties, with every connection closed."""
        target, allowance = self.target, self.target.allowance
        unowned = target.ledger.count - sum(scope.live for scope in target.ledger.scopes)
        for property_, what, got, most in (
            ("tasks", "tasks of no connection", unowned, allowance.tasks),
            (
                "transports",
                "transports of no connection",
                target.open_links(None),
                allowance.transports,
            ),
            ("cleanup", "connections counted as open", target.inbound.active, 0),
            ("timers", "timers", target.pending_timers, allowance.timers),
        ):
            if not 0 <= got <= most:
                expected = f"expected {'at most ' * bool(most)}{most} {what} after all closes"
                self.record(property_, _SERVER, f"{expected}, got {got}")

    def record(self, property_: str, name: str, detail: str) -> None:
        """Record a violation once."""
        violation = Violation(property_, name, detail)
        if violation not in self.outcome.violations:
            self.outcome.violations.append(violation)
