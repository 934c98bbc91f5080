"""What a hunt may spend, how far it is, and what it came to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from muxleak_scenarios.hunt.findings import HuntFinding

SECONDS = 120.0
CONNECTIONS = 100_000
BANDWIDTH = 50e6
PATIENCE = 6.0
"""Longer than the dial limit of sing-box, 5 s."""


class HuntBudget(NamedTuple):
    """What a hunt may spend: seconds, connections, bytes a second; ``findings`` ends it, too.

    ``patience`` is how many seconds what is left must stay to be called a leak, ``idle`` the
    server's own limit for what is idle, 0 if it is not known to have one.
    """

    seconds: float = SECONDS
    connections: int = CONNECTIONS
    bandwidth: float = BANDWIDTH
    patience: float = PATIENCE
    findings: int | None = None
    idle: float = 0.0

    @property
    def wait(self) -> float:
        """Seconds without a change after which what is left is taken to stay for ever."""
        # Who looks for the idle once in each interval (V2Ray) ends them after up to two.
        return max(self.patience, 2 * self.idle + 1 if self.idle else 0)


class HuntProgress(NamedTuple):
    """How far a hunt is; ``shortest`` are the steps of what is being shrunk."""

    doing: str
    seconds: float
    looks: int
    connections: int
    findings: int
    shortest: int | None


@dataclass(slots=True)
class HuntResult:
    """What a hunt came to.

    Attributes:
        findings: what leaks, or kills the server.
        passing: what looks like a leak until the server ends it by itself.
        suspicion: what was being shrunk or measured at the end, and may be either.
        ended: "time", "connections", "stopped", "enough", "replayed", "died", "trouble", or "known"
            if nothing is left to try.
        trouble: which.
        explained: looks that left nothing but what is known to be left.
        unsure: suspicions that were gone so soon that it took but a longer look.
        looks: sequences that were repeated.
        connections: that were made.
        sent: bytes.
        seconds: that it took.
    """

    findings: list[HuntFinding] = field(default_factory=list)
    passing: list[HuntFinding] = field(default_factory=list)
    suspicion: HuntFinding | None = None
    ended: str = ""
    trouble: str = ""
    explained: int = 0
    unsure: int = 0
    looks: int = 0
    connections: int = 0
    sent: int = 0
    seconds: float = 0
