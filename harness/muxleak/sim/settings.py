"""What a simulation allows and does, as values."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from muxleak.ledger.kinds import valid_kinds

KINDS = valid_kinds(["task", "timer", "transport", "server", "generator", "error", "destroyed"])
OPTIONAL = frozenset({"callback"})
FAULTS = ("refuse", "black hole", "reset", "stall", "half-close")
OUTSIDE = ("executor", "signals")


@dataclass(frozen=True, slots=True)
class Network:
    """What the network in memory does; whatever has a range is drawn, and 0 is its low end.

    Attributes:
        hosts: names that resolve, each to an address; "localhost" always does.
        latency: the least and the most virtual seconds that anything travels.
        hold: iterations of the loop by which an arrival may be seen later; 0 turns that off.
        order: whether arrivals that wait together may be seen in another order.
        cut: whether bytes may arrive in smaller pieces than they were written.
        faults: what may be drawn, of `FAULTS`: "refuse" and "black hole" for a connection being
            made, "reset", "stall" and "half-close" for one that is open.
        stall: virtual seconds for which a drawn stall lasts.
        drop: whether datagrams may be lost.
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
            raise ValueError(f"unknown faults {unknown!r}; there are {', '.join(FAULTS)}")
        if not 0 <= self.latency[0] <= self.latency[1]:
            raise ValueError(f"expected 0 <= least <= most latency, got {self.latency!r}")


@dataclass(frozen=True, slots=True)
class Settings:
    """How one run goes; the keyword arguments of `simulate` and `find_leaks`.

    Attributes:
        network: the network.
        wakeups: permute the wake-ups of tasks. Beyond what stock asyncio does: its ready queue is
            first in, first out. What is found only so is labelled.
        cancel: qualified names of coroutines, or their last parts, whose tasks may be cancelled
            at any of their awaits, once each.
        gaps: whether `Simulation.gap` draws how far the program runs on; else it always settles.
        grace: virtual seconds that pass after the program's end before what lives is a leak.
        leaks: whether anything left over at the program's end is an error.
        kinds: what counts as left over, there and after `Simulation.operation`; all but "callback"
            unless told. Of a connection, task, server or generator, that it is there; "timer": one
            that is due later than `grace`, and not a sleep's or timeout's; "error" and "destroyed":
            a task whose exception nobody asked for, or that was garbage before its end, as asyncio
            tells the exception handler. Whatever else reaches the handler is in the outcome's
            `errors` and fails nothing, and so is a failed handler of `start_server`. "callback":
            one that an operation left on a future; costs a reference for each future made.
        check: called with the `Simulation` after every close of a connection, once all is at rest,
            and after the end of the program.
        allow: what may leave the simulation, of `OUTSIDE`: "executor" runs the jobs of executors
            in the loop's own thread, "signals" accepts signal handlers that never fire.
        step_limit: iterations that a run may take.
    """

    network: Network = field(default_factory=Network)
    wakeups: bool = False
    cancel: tuple[str, ...] = ()
    gaps: bool = True
    grace: float = 10.0
    leaks: bool = True
    kinds: Iterable[str] = KINDS
    check: Callable[[Any], object] | None = None
    allow: tuple[str, ...] = ()
    step_limit: int = 100_000

    def __post_init__(self) -> None:
        if unknown := [name for name in self.allow if name not in OUTSIDE]:
            raise ValueError(f"cannot allow {unknown!r}; there are {', '.join(OUTSIDE)}")
        object.__setattr__(self, "kinds", valid(self.kinds))

    @property
    def counted(self) -> frozenset[str]:
        """The kinds, as a set."""
        return self.kinds  # type: ignore[return-value] # since `__post_init__`


@lru_cache
def ledger_kinds(kinds: frozenset[str]) -> frozenset[str]:
    """What the ledger has to see for these kinds to be found; tasks it counts in any case."""
    return kinds & {"error", "destroyed"} | {"task"}


def valid(kinds: Iterable[str]) -> frozenset[str]:
    """The kinds that count, as a set.

    Raises:
        ValueError: one is unknown, or cannot exist in a simulation.
    """
    found = valid_kinds(kinds)
    if others := sorted(found - KINDS - OPTIONAL):
        possible = ", ".join(sorted(KINDS | OPTIONAL))
        raise ValueError(f"{others!r} cannot be left behind in a simulation; there are {possible}")
    return found
