"""Schedulers: they invent decisions by chance, by task priorities, or by a few deviations."""

# No scheduler is best for all bugs, so `portfolio` takes turns:
#
# - "uniform" leaves the plain course at a rate that it draws per run and per kind of decision. With
#   one rate for all, runs are either too plain for a bug that needs many late arrivals or too wild
#   for one that needs a single fault and order otherwise.
# - "pct" gives each task a random priority and demotes the running one at a few random points. It
#   has a proven lower bound for bugs that need few orderings; it only applies to wake-ups.
# - "few" changes one to three decisions of the plain run, by position: most races need one.
#
# Whichever finds a failure, the decisions stand in `Choices` as bytes; one replay repeats them and
# one shrinker shrinks them.

from collections.abc import Iterator, Sequence
from itertools import count
from random import Random

from muxleak.introspect.waiting import AnyTask
from muxleak.sim.choices import Choices

SCHEDULERS = ("pct", "uniform", "few")
TURNS = ("pct", "uniform", "pct", "few")  # priorities are best for deep bugs, so they come twice
_RATES = (0.0, 0.05, 0.2, 0.6)  # how often one kind of decision leaves the plain course in a run
_FEW = 3  # decisions that "few" changes in one run at most
_CHANGES = 2  # points at which "pct" demotes the task that runs, at most
_LONG = 100  # decisions after which "pct" lets others run in any case


class Invented(Choices):
    """Draws uniformly for the program, and takes the plain course for the environment.

    Args:
        chance: the source of all chance.

    Attributes:
        waking: number of decisions that were about wake-ups.
    """

    def __init__(self, chance: Random) -> None:
        super().__init__()
        self.waking = 0
        self._random = chance.random

    def _draw(self, limit: int) -> int:
        return int(self._random() * limit)

    def _decide(self, kind: str, limit: int) -> int:
        del kind, limit
        return 0

    def _wake(self, tasks: Sequence[AnyTask]) -> int:
        self.waking += 1
        return self._decide("wake", len(tasks))


class Uniform(Invented):
    """Leaves the plain course at a rate drawn for the run, for each kind of decision its own."""

    def __init__(self, chance: Random) -> None:
        super().__init__(chance)
        self._rates: dict[str, float] = {}

    def _decide(self, kind: str, limit: int) -> int:
        rate = self._rates.get(kind)
        if rate is None:
            rate = self._rates[kind] = _RATES[int(self._random() * len(_RATES))]
        if self._random() >= rate:
            return 0
        return 1 + int(self._random() * (limit - 1))

    def _wake(self, tasks: Sequence[AnyTask]) -> int:
        self.waking += 1
        return int(self._random() * len(tasks))


class Priorities(Uniform):
    """Runs the woken task of highest priority, and demotes it at a few points of the run.

    Source: "A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs" (ASPLOS 2010). A
    bug that needs d orderings is found with a chance of at least 1 in n * k ** (d - 1) for n tasks
    and k decisions, whatever the program. Unlike there, a task that has run for long at a stretch
    while others were ready is demoted too: a loop that yields would starve them for ever.

    Args:
        chance: the source of all chance.
        length: expected number of decisions about wake-ups; the demotions fall among so many.
    """

    def __init__(self, chance: Random, length: int) -> None:
        super().__init__(chance)
        self._priority: dict[AnyTask, float] = {}
        changes = int(self._random() * (_CHANGES + 1))
        self._points = sorted(int(self._random() * length) for _ in range(changes))
        self._lowest = 0.0
        self._stretch = 0
        self._last: AnyTask | None = None

    def _wake(self, tasks: Sequence[AnyTask]) -> int:
        priority = self._priority
        for task in tasks:
            if task not in priority:
                priority[task] = self._random()
        self.waking += 1
        self._stretch += 1
        best = max(tasks, key=priority.__getitem__)
        while self._points and self.waking > self._points[0]:
            del self._points[0]
            best = self._demote(best, tasks)
        if best is not self._last:
            self._stretch, self._last = 0, best
        elif self._stretch >= _LONG:
            best = self._demote(best, tasks)
        return tasks.index(best)

    def _demote(self, task: AnyTask, tasks: Sequence[AnyTask]) -> AnyTask:
        self._lowest -= 1
        self._priority[task] = self._lowest
        return max(tasks, key=self._priority.__getitem__)


class Few(Invented):
    """Takes the plain course but for a few decisions, named by position.

    Args:
        chance: the source of all chance.
        changes: for each position that changes, the part of its range as a number from 0 to 1.
    """

    def __init__(self, chance: Random, changes: dict[int, float]) -> None:
        super().__init__(chance)
        self._changes = changes

    def _decide(self, kind: str, limit: int) -> int:
        del kind
        part = self._changes.get(len(self.environment))
        return 0 if part is None else 1 + int(part * (limit - 1))


def portfolio(seed: int, names: Sequence[str], *, wakeups: bool) -> Iterator[Invented]:
    """Yield choices for one run after the other, without end; the first takes the plain course.

    Args:
        seed: the seed of all chance.
        names: the schedulers that take turns, of `SCHEDULERS`; "pct" is left out unless wake-ups
            are permuted.
        wakeups: True if wake-ups are permuted.

    Raises:
        ValueError: a scheduler is unknown.
    """
    if unknown := [name for name in names if name not in SCHEDULERS]:
        raise ValueError(f"unknown schedulers {unknown!r}, expected {', '.join(SCHEDULERS)}")
    chance = Random(seed)  # noqa: S311 - a search, not a secret
    last = Invented(chance)
    yield last
    # The plain run's decisions are the first measure of a run's length, later the longest run's.
    environment, waking = max(1, len(last.environment)), max(1, last.waking)
    turns = [name for name in names if wakeups or name != "pct"]
    for number in count():
        name = turns[number % len(turns)]
        if name == "pct":
            last = Priorities(chance, waking)
        elif name == "uniform":
            last = Uniform(chance)
        else:
            last = Few(chance, _changes(chance, environment))
        yield last
        environment = max(environment, len(last.environment))
        waking = max(waking, last.waking)


def _changes(chance: Random, length: int) -> dict[int, float]:
    changed = 1 + int(chance.random() * _FEW)
    return {int(chance.random() * length): chance.random() for _ in range(changed)}
