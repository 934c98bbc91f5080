"""Negative controls: what looks like a leak and is none must not be flagged.

Each control is a server that keeps something on purpose, within a bound that it declares; the same
without what bounds it is its *twin*, and must be flagged, or the control would show nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, cast

from muxleak_scenarios.pairs.standing import (
    EndlessClose,
    Lingering,
    LingeringClose,
    Pooling,
    Recording,
)
from muxleak_scenarios.sequence.decoder import random_sequence
from muxleak_scenarios.sequence.steps import Sequence
from muxleak_scenarios.targets.run import run_sequence
from muxleak_scenarios.targets.simulated import SimTarget
from muxleak_scenarios.targets.tcp import TcpTarget
from muxleak_vless import Lifecycle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from muxleak_scenarios.targets.target import Target

SEQUENCES = 300
"""Random sequences, of about 15 connections each, that each control is driven through."""
SOCKET_SEQUENCES = 5
"""The same over loopback TCP, in real time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Twin:
    """A control without what bounds it: ``minimal`` shows that it is flagged for ``fails``."""

    minimal: str
    fails: tuple[str, ...]
    lifecycle: type[Lifecycle] = Lifecycle
    switches: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """A server that is clean: ``looks`` is what it might be taken for, ``bound`` why it is none.

    ``kind`` is the class of worlds that serves so, None where the answers of ``lifecycle`` do.
    ``minimal sequences`` are sequences in which it does what it might be flagged for.
    """

    looks: str
    bound: str
    witnesses: tuple[str, ...]
    twins: Mapping[str, Twin]
    kind: type[Target] | None = None
    lifecycle: type[Lifecycle] = Lifecycle

    def target(
        self, base: type[SimTarget | TcpTarget], switches: Mapping[str, object] | None = None
    ) -> Callable[[Lifecycle], Target]:
        """Return such a world in which the server is this one, or with switches, a twin."""
        kinds = (base,) if self.kind is None else (self.kind, base)
        return cast("Callable[[Lifecycle], Target]", type("Place", kinds, dict(switches or {})))


CONTROLS: Mapping[str, Control] = {
    "lingering_handler": Control(
        looks="a handler is still alive when its connection has closed",
        bound="it ends by itself within the close limit",
        witnesses=(
            "a:open a:new:1:echo+5 a:close",
            "a:open a:new:1:stubborn b:open b:new:1:echo a:abort b:close",
        ),
        kind=Lingering,
        twins={
            "lingers for ever": Twin(
                minimal="a:open a:new:1:echo a:close",
                fails=("tasks",),
                switches={"bounded": False},
            )
        },
    ),
    "idle_pooled_connection": Control(
        looks="a connection to a destination outlives the stream that dialled it",
        bound="it is kept for later streams, which use it; one at most is idle",
        witnesses=(
            "a:open a:new:1:@echo+5 a:close",
            "a:open a:new:1:@echo+5 a:end:1 b:open b:new:1:@echo+60 a:close b:close",
        ),
        kind=Pooling,
        twins={
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
        looks="a task that the first connection started outlives it",
        bound="it serves all connections, and ends with the server",
        witnesses=(
            "a:open a:new:1:echo a:close",
            "a:open b:open b:new:1:echo a:new:1:sink b:close a:close",
        ),
        kind=Recording,
        twins={
            "one for each connection": Twin(
                minimal="a:open a:new:1:echo b:open b:new:1:echo a:close b:close",
                fails=("tasks",),
                switches={"shared": False},
            ),
            "started in its connection's context": Twin(
                minimal="a:open a:new:1:echo a:close",
                fails=("tasks", "bounds"),
                switches={"apart": False},
            ),
        },
    ),
    "slow_close": Control(
        looks="a connection that the server has ended is still open",
        bound="its peer has the close limit to read the rest",
        witnesses=(
            "a:bad:user",
            "a:open a:stall a:new:1:flood~2 cancel~5 a:resume a:close",
            "a:open a:stall a:new:1:flood~2 a:junk:status",
        ),
        lifecycle=LingeringClose,
        twins={
            "without a limit": Twin(
                minimal="a:bad:user",
                fails=("tasks", "transports", "timers"),
                lifecycle=EndlessClose,
            )
        },
    ),
}
"""By the name under which they are shown."""


@dataclass(slots=True)
class Trial:
    """What was proved of a control. ``broken`` says which claims do not hold, and how."""

    name: str
    flagged: tuple[str, ...] = ()
    twins: dict[str, tuple[str, ...]] = field(default_factory=dict)
    connections: int = 0
    broken: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether every claim holds."""
        return not self.broken

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "control": self.name,
            "looks_like": CONTROLS[self.name].looks,
            "bound": CONTROLS[self.name].bound,
            "holds": self.holds,
            "flagged": list(self.flagged),
            "connections": self.connections,
            "twins": {name: list(violated) for name, violated in self.twins.items()},
            "broken": self.broken,
        }


def try_control(name: str, *, seed: int = 0, sequences: int = SEQUENCES) -> Trial:
    """Drive a control, and then its twins, through minimal and random sequences."""
    control, trial = CONTROLS[name], Trial(name)
    for sequence, base in _sequences(control, seed, sequences):
        outcome = run_sequence(sequence, control.lifecycle(), control.target(base))
        trial.connections += outcome.connections
        trial.flagged = tuple(dict.fromkeys((*trial.flagged, *outcome.violated)))
        where = f"in {base.__name__}: {sequence}"
        if outcome.violations:
            trial.broken.append(f"{outcome.violations[0]} {where}")
        elif outcome.left_after_end:
            left = outcome.left_after_end
            trial.broken.append(f"expected 0 tasks when the server has ended, got {left} {where}")
        if trial.broken:
            break
    for label, twin in control.twins.items():
        for base in (SimTarget, TcpTarget):
            target = control.target(base, twin.switches)
            violated = run_sequence(Sequence.parse(twin.minimal), twin.lifecycle(), target).violated
            expected = tuple(each for each in twin.fails if each not in base.unobservable)
            if violated != expected:
                where = f"in {base.__name__}: {twin.minimal}"
                trial.broken.append(f"{label}: expected {expected}, got {violated} {where}")
            trial.twins.setdefault(label, violated)
    return trial


def _sequences(
    control: Control, seed: int, sequences: int
) -> Iterator[tuple[Sequence, type[SimTarget | TcpTarget]]]:
    for base in (SimTarget, TcpTarget):
        for line in control.witnesses:
            yield Sequence.parse(line), base
    random = Random(seed)  # noqa: S311 - a reproducible search, no secret
    for number in range(sequences + min(sequences, SOCKET_SEQUENCES)):
        if number < sequences:
            yield random_sequence(random), SimTarget
        else:
            yield random_sequence(random, virtual=False), TcpTarget
