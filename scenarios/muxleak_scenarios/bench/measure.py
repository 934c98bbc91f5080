"""Measuring: variants in turns, CPU time of the process, the median of the rounds.

A figure alone means little, since machines differ and so do minutes of one machine. The ratio of
two figures of one run holds, so every figure stands beside its baselines in a `Comparison`.
"""

# The method, and the error that each part of it keeps out:
#
# - In turns. Every round runs each variant once, so that a slow minute (another process, a lower
#   clock rate) slows all of them alike and cancels out in the ratio. All rounds of one variant
#   followed by all rounds of the next would charge the slow minute to one of them.
# - CPU time, not wall-clock time. `time.process_time` leaves out the time in which other processes
#   ran. The exception is a baseline whose price is that it waits, such as a test with a sleep: its
#   row says "by the wall clock" and is no figure of CPU.
# - The median of the rounds. An interruption makes a round longer and never shorter, so the mean is
#   biased and the median is not moved by a few bad rounds. All rounds stand in the JSON output.
# - One round more than counted. The first round imports modules, fills caches and lets the
#   interpreter specialise its instructions; its values are dropped.
# - `gc.collect` before every variant, outside its time. Otherwise a variant pays for the garbage of
#   the one before it.
# - Many repetitions in a round (`each`), because a single one is shorter than the clock resolves.
#   `itertools.repeat(None, n)` creates no number for each turn of the loop.
# - Ratios are judged as shown, with three digits: the digits behind them are noise.

from __future__ import annotations

import gc
import sys
import time
from importlib import import_module
from itertools import repeat
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ROUNDS = 7
LEAKS = 20_000
MAX_LEAKS = 350_000
"""Number of goroutines that the server of issue #2421 held."""
_QUICK = 10
_STATM = Path("/proc/self/statm")

Rounds = tuple[float, ...]
"""One value for each round."""

_T = TypeVar("_T")


def _nothing() -> None:
    pass


class BenchPlan(NamedTuple):
    """Extent of a measurement.

    Attributes:
        rounds: number of rounds that count; one more comes first and warms up.
        quick: True for a tenth of the usual work.
        leaks: number of sessions in the row of leaked sessions.
        tick: called about once a round, to show progress.
    """

    rounds: int = ROUNDS
    quick: bool = False
    leaks: int = LEAKS
    tick: Callable[[], object] = _nothing

    def size(self, usual: int) -> int:
        """Return the usual number of repetitions, or a tenth of it in a quick run."""
        return usual // _QUICK if self.quick else usual


class Beside(NamedTuple):
    """A baseline of a comparison.

    Attributes:
        name: of the baseline.
        rounds: measured values; empty if it could not be measured, and `note` says why.
        floor: True for a lower bound; the ratio then says how much more ours costs.
        goal: for the ratio: at least that; for a floor, at most that.
        note: a remark for the reader.
    """

    name: str
    rounds: Rounds = ()
    floor: bool = False
    goal: float | None = None
    note: str = ""


class Comparison(NamedTuple):
    """One figure of ours and its baselines.

    Attributes:
        what: name of the measured unit; the figure is for one of these.
        ours: seconds or bytes, one value for each round.
        beside: the baselines.
        unit: "s" or "B"; "/s" for seconds that are shown as a rate.
        goal: for `ours` itself: at most that.
        note: a remark for the reader.
    """

    what: str
    ours: Rounds
    beside: tuple[Beside, ...] = ()
    unit: str = "s"
    goal: float | None = None
    note: str = ""

    @property
    def value(self) -> float:
        """Median of ours."""
        return median(self.ours)

    def ratio(self, beside: Beside) -> float | None:
        """Return how many times less ours costs; for a floor, how many times more.

        None if the baseline was not measured.
        """
        if not beside.rounds:
            return None
        theirs = median(beside.rounds)
        return self.value / theirs if beside.floor else theirs / self.value

    def met(self, beside: Beside | None = None) -> bool | None:
        """Return True if a goal was met: of the ratio to a baseline, or of ours itself.

        None if there is no goal, or no ratio.
        """
        if beside is None:
            return None if self.goal is None else self.value <= self.goal
        ratio = self.ratio(beside)
        if ratio is None or beside.goal is None:
            return None
        # Rounded as it is shown, so that no line says "2x" and "missed, goal 2x".
        ratio = float(f"{ratio:.3g}")
        return ratio <= beside.goal if beside.floor else ratio >= beside.goal

    def to_json(self) -> dict[str, Any]:
        """Return plain data: medians, their rounds, ratios, goals, and if the goals were met."""
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
    """Return a function that repeats ``work`` and returns the seconds of CPU for one repetition.

    Args:
        work: the work to time; its result is ignored.
        times: number of repetitions.
    """

    def timed() -> float:
        began = time.process_time()
        for _ in repeat(None, times):
            work()
        return (time.process_time() - began) / times

    return timed


def in_turns(works: Mapping[str, Callable[[], _T]], plan: BenchPlan) -> dict[str, tuple[_T, ...]]:
    """Run every work once in each round.

    Args:
        works: the variants by name; each returns its own measurement.
        plan: gives the number of rounds; its ``tick`` is called after each.

    Returns:
        The values of each variant, one for each round, without the first round.
    """
    found: dict[str, list[_T]] = {name: [] for name in works}
    for _ in range(plan.rounds + 1):
        for name, work in works.items():
            gc.collect()
            found[name].append(work())
        plan.tick()
    return {name: tuple(values[1:]) for name, values in found.items()}


def resident() -> int | None:
    """Return the bytes of this process in memory.

    Without /proc it is the highest number there was so far. None if the platform has neither.
    """
    try:
        resource = import_module("resource")
    except ImportError:
        return None
    if _STATM.exists():
        return int(_STATM.read_text().split()[1]) * int(resource.getpagesize())
    # macOS reports bytes, other systems report KiB.
    most = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return most if sys.platform == "darwin" else most * 1024


def _short(value: float) -> float:
    return float(f"{value:.4g}")
