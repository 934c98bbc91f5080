"""The properties that every sequence must keep, and the outcome of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from muxleak import LeakReport

PROPERTIES = {
    "tasks": "after every close, the tasks of the connection are gone",
    "cleanup": "every connection is cleaned up exactly once",
    "data": "every accepted byte is echoed, in order, on its own stream",
    "transports": "no transport of a closed connection is left, in or out",
    "exceptions": "no exception goes unretrieved",
    "timers": "no timer is left when all connections are closed (on virtual time)",
    "bounds": "while open, a connection has no more tasks, streams and unread bytes than it may",
    "answers": "the server ends a stream after its peer and handler; data for none is refused",
    "shutdown": "when the server ends, so does every connection",
    "stalls": "no write waits without a limit for a peer that does not read",
    "quiet": "the loop settles (on virtual time)",
}
"""The properties by name; `Violation.property` is one of the names."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One violated property.

    Attributes:
        property: a key of `PROPERTIES`.
        connection: the letter of the connection, or "(all)".
        detail: the expected and the found value.
    """

    property: str
    connection: str
    detail: str

    def __str__(self) -> str:
        return f"{self.property}: connection {self.connection}: {self.detail}"


@dataclass(slots=True)
class SequenceOutcome:
    """The outcome of running a sequence.

    Attributes:
        violations: the violated properties, in the order in which they were seen.
        connections: how many connections were opened.
        tasks: tasks that were alive after the last step.
        left: tasks that were alive after every connection was closed.
        left_after_end: tasks that were alive after the server's context had ended, too.
        cleanups: how often a session was cleaned up, over all sessions.
        report: the tasks left by the first close that left any.
        performed: how many steps were performed.
    """

    violations: list[Violation] = field(default_factory=list)
    connections: int = 0
    tasks: int = 0
    left: int = 0
    left_after_end: int = 0
    cleanups: int = 0
    report: LeakReport | None = None
    performed: int = 0

    @property
    def violated(self) -> tuple[str, ...]:
        """The violated properties, in the order of `PROPERTIES`."""
        found = {violation.property for violation in self.violations}
        return tuple(name for name in PROPERTIES if name in found)

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "violated": list(self.violated),
            "violations": [str(violation) for violation in self.violations],
            "connections": self.connections,
            "tasks_left": self.left,
            "tasks_left_after_server_end": self.left_after_end,
            "cleanups": self.cleanups,
            "report": self.report.to_json() if self.report is not None else None,
        }


class ViolationError(AssertionError):
    """A sequence violated a property; `outcome` is that of the run."""

    def __init__(self, outcome: SequenceOutcome) -> None:
        self.outcome = outcome
        lines = [f"violated: {name}: {PROPERTIES[name]}" for name in outcome.violated]
        lines += [f"  connection {each.connection}: {each.detail}" for each in outcome.violations]
        if outcome.report is not None:
            lines.append(str(outcome.report))
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[type[ViolationError], tuple[SequenceOutcome]]:
        """Return what another process makes the error of."""
        return type(self), (self.outcome,)
