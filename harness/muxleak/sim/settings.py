"""The settings of a simulation: its network, its freedoms, and the kinds of leak it looks for.

Plain values, below everything else in this package, so that each part can take them as they are.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from muxleak.checks.scope_check import BUDGET
from muxleak.ledger.kinds import valid_kinds

# The kinds that a simulation can leave behind. It has no jobs, threads or watched descriptors, and
# finished tasks that are kept show only over many repetitions (see `muxleak.checks.growth`).
KINDS = valid_kinds(["task", "timer", "transport", "server", "generator", "error", "destroyed"])
OPTIONAL = frozenset({"callback"})
FAULTS = ("refuse", "black hole", "reset", "stall", "half-close")
OUTSIDE = ("executor", "signals")
_DAY = 86_400.0  # seconds


@dataclass(frozen=True, slots=True)
class Network:
    """The freedoms and faults of the network in memory.

    A freedom is drawn anew each time it applies; its plain course is the low end of its range.

    Attributes:
        hosts: host names that resolve, each with its address; "localhost" always resolves.
        latency: the least and the most virtual seconds that anything travels.
        hold: the most iterations of the loop by which an arrival is seen later; 0 for none.
        order: True if arrivals that wait together may be seen in another order.
        cut: True if bytes may arrive in smaller pieces than they were written.
        faults: the faults that may be drawn, of `FAULTS`: "refuse" and "black hole" for a
            connection that is being made, "reset", "stall" and "half-close" for an open one.
        stall: virtual seconds that a drawn stall lasts.
        drop: True if datagrams may be lost.

    Raises:
        ValueError: a fault is unknown, or the latency is no range.
    """

    hosts: Mapping[str, str] = field(default_factory=dict)
    latency: tuple[float, float] = (0.0, 0.0)
    hold: int = 2
    order: bool = True
    cut: bool = True
    faults: tuple[str, ...] = ()
    stall: float = 1.0
    drop: bool = False

    def __post_init__(self) -> None:
        if unknown := [name for name in self.faults if name not in FAULTS]:
            raise ValueError(f"unknown faults {unknown!r}, expected some of {', '.join(FAULTS)}")
        if not 0 <= self.latency[0] <= self.latency[1]:
            raise ValueError(f"expected 0 <= least <= most latency, got {self.latency!r}")


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one run; the keyword arguments of `simulate` and `find_leaks`.

    Attributes:
        network: the freedoms and faults of the network.
        wakeups: True to permute the wake-ups of tasks. Stock asyncio never does: its ready queue
            is first in, first out. A finding that needs it is labelled.
        cancel: qualified names of coroutines, or their last parts, whose tasks may be cancelled
            at any of their awaits, once each.
        gaps: True if `Simulation.gap` draws how far the program runs on; else it always settles.
        grace: virtual seconds between the program's end and the search for leaks.
        budget: virtual seconds within which a timer may still fire by itself once everything else
            has settled, as of `no_leaks`.
        leaks: True if anything left behind at the program's end is an error, and a close that
            takes longer than `close_limit`.
        kinds: the kinds that count as left behind, at the end and after `Simulation.operation`;
            by default all but "callback". A task, transport, server or generator counts if it is
            alive. A timer counts if it is armed once everything else has ended, or the operation
            has settled, is due later than `budget`, and belongs to no sleep or timeout. "error" is
            a task whose exception nobody retrieved, "destroyed" a task that became garbage before
            its end; asyncio reports both to the exception handler. Other reports to that handler
            stand in the outcome's `errors` and fail nothing, and so does a handler of
            `start_server` that failed. "callback" is a callback that an operation left on a
            future; it costs a reference for each future made.
        check: called with the `Simulation` after every close of a connection, once the loop is
            quiescent, and after the end of the program. It raises if something is wrong.
        allow: calls that may leave the simulation, of `OUTSIDE`: "executor" runs the jobs of
            executors in the loop's own thread, "signals" accepts handlers that never fire.
        step_limit: iterations that a run may take.
        close_limit: virtual seconds that the close of a connection may take: from the loss of its
            first end until nothing that the accepted connection made is alive.
        operation_limit: virtual seconds that a `Simulation.operation` may take.
        time_limit: virtual seconds that the program may take. `math.inf` turns any of them off.

    Raises:
        ValueError: an unknown kind, something that cannot be allowed, or a limit that is not
            positive.
    """

    network: Network = field(default_factory=Network)
    wakeups: bool = False
    cancel: tuple[str, ...] = ()
    gaps: bool = True
    grace: float = 10.0
    budget: float = BUDGET
    leaks: bool = True
    kinds: Iterable[str] = KINDS
    check: Callable[[Any], object] | None = None
    allow: tuple[str, ...] = ()
    step_limit: int = 100_000
    close_limit: float = 60.0
    operation_limit: float = 300.0
    time_limit: float = 30 * _DAY

    def __post_init__(self) -> None:
        for name in ("close_limit", "operation_limit", "time_limit"):
            if not getattr(self, name) > 0:
                raise ValueError(f"expected {name} above 0, got {getattr(self, name)!r}")
        if unknown := [name for name in self.allow if name not in OUTSIDE]:
            raise ValueError(f"cannot allow {unknown!r}, expected some of {', '.join(OUTSIDE)}")
        object.__setattr__(self, "kinds", valid(self.kinds))

    @property
    def counted(self) -> frozenset[str]:
        """The kinds that count, as a set."""
        return self.kinds  # type: ignore[return-value] # since `__post_init__`


@lru_cache
def ledger_kinds(kinds: frozenset[str]) -> frozenset[str]:
    """Return the kinds that the ledger must record so that these can be found.

    It counts tasks in any case. The others are found at the end, in the lists that the loop and
    its network keep anyway, which costs nothing while the program runs.
    """
    return kinds & {"error", "destroyed"} | {"task"}


def valid(kinds: Iterable[str]) -> frozenset[str]:
    """Return the kinds that count, as a set.

    Raises:
        ValueError: a kind is unknown, or cannot exist in a simulation.
    """
    found = valid_kinds(kinds)
    if others := sorted(found - KINDS - OPTIONAL):
        possible = ", ".join(sorted(KINDS | OPTIONAL))
        raise ValueError(f"{others!r} cannot be left behind in a simulation; there are {possible}")
    return found
