"""How things are measured: variants in turns, CPU time of the process, the median of the rounds.

Machines differ and so do minutes; what holds is the ratio of two figures of one run.
"""

from __future__ import annotations

import gc
import time
from itertools import repeat
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ROUNDS = 7
LEAKS = 20_000
MAX_LEAKS = 350_000
"""As many as the server of issue #2421 held."""
_QUICK = 10

Rounds = tuple[float, ...]
"""One value for each round."""

_T = TypeVar("_T")


def _nothing() -> None:
    pass


class BenchPlan(NamedTuple):
    """How much is measured; ``tick`` is called about once a round. One round more warms up."""

    rounds: int = ROUNDS
    quick: bool = False
    leaks: int = LEAKS
    tick: Callable[[], object] = _nothing

    def size(self, usual: int) -> int:
        """A tenth in a quick run."""
        return usual // _QUICK if self.quick else usual


class Beside(NamedTuple):
    """What ours is held against.

    Attributes:
        name: of the baseline.
        rounds: what was measured of it; none if it could not be, and `note` says why.
        floor: whether it is a lower bound, so that the ratio says how much more ours costs.
        goal: for the ratio: at least that; at most, where it is a floor.
        note: whatever must be said of it.
    """

    name: str
    rounds: Rounds = ()
    floor: bool = False
    goal: float | None = None
    note: str = ""


class Comparison(NamedTuple):
    """One figure of ours and what stands beside it.

    Attributes:
        what: was measured; the figure is for one of these.
        ours: seconds or bytes, one value for each round.
        beside: the baselines.
        unit: "s" or "B"; "/s" for seconds that are shown as a rate.
        goal: for `ours` itself: at most that.
        note: whatever must be said of it.
    """

    what: str
    ours: Rounds
    beside: tuple[Beside, ...] = ()
    unit: str = "s"
    goal: float | None = None
    note: str = ""

    @property
    def value(self) -> float:
        """The median of ours."""
        return median(self.ours)

    def ratio(self, beside: Beside) -> float | None:
        """How much less ours costs; how much more, than a floor. None if that was not measured."""
        if not beside.rounds:
            return None
        theirs = median(beside.rounds)
        return self.value / theirs if beside.floor else theirs / self.value

    def met(self, beside: Beside | None = None) -> bool | None:
        """Whether the goal, of a ratio or of ours itself, was met; None if there is none."""
        if beside is None:
            return None if self.goal is None else self.value <= self.goal
        ratio = self.ratio(beside)
        if ratio is None or beside.goal is None:
            return None
        # As it is shown: the digits behind mean nothing.
        ratio = float(f"{ratio:.3g}")
        return ratio <= beside.goal if beside.floor else ratio >= beside.goal

    def to_json(self) -> dict[str, Any]:
        """Return plain data: medians, their rounds, ratios, and what became of the goals."""
        return {
            "what": self.what,
            "unit": self.unit[-1],
            "ours": _short(self.value),
            "rounds": [_short(each) for each in self.ours],
            "goal": self.goal,
            "met": self.met(),
            "note": self.note,
            "beside": [self._beside(each) for each in self.beside],
        }

    def _beside(self, beside: Beside) -> dict[str, Any]:
        ratio = self.ratio(beside)
        return {
            "name": beside.name,
            "value": _short(median(beside.rounds)) if beside.rounds else None,
            "rounds": [_short(each) for each in beside.rounds],
            "ours_costs": None if ratio is None else ("more" if beside.floor else "less"),
            "ratio": None if ratio is None else _short(ratio),
            "goal": beside.goal,
            "met": self.met(beside),
            "note": beside.note,
        }


def each(work: Callable[[], object], times: int) -> Callable[[], float]:
    """Return a function that does ``work`` so often and tells the seconds of CPU for one."""

    def timed() -> float:
        began = time.process_time()
        for _ in repeat(None, times):
            work()
        return (time.process_time() - began) / times

    return timed


def in_turns(works: Mapping[str, Callable[[], _T]], plan: BenchPlan) -> dict[str, tuple[_T, ...]]:
    """Do each work once a round, all of them in every round; what they returned, without the first.

    The first round warms up: imports, caches, the interpreter's specialised instructions.
    """
    found: dict[str, list[_T]] = {name: [] for name in works}
    for _ in range(plan.rounds + 1):
        for name, work in works.items():
            # So that nobody pays for another's garbage.
            gc.collect()
            found[name].append(work())
        plan.tick()
    return {name: tuple(values[1:]) for name, values in found.items()}


def _short(value: float) -> float:
    return float(f"{value:.4g}")
