"""How to invent decisions: plain chance, task priorities, and one or two deviations at a time.

No way is best for all bugs, so `portfolio` takes turns. All of them write down what they decided as
the same bytes, so whatever finds something, the bytes replay it and one shrinker shrinks it.
"""

from collections.abc import Iterator, Sequence
from itertools import count
from random import Random

from muxleak.introspect.waiting import AnyTask
from muxleak.sim.choices import Choices

STRATEGIES = ("pct", "uniform", "few")
TURNS = ("pct", "uniform", "pct", "few")  # priorities are best for deep bugs, so they come twice
_RATES = (0.0, 0.05, 0.2, 0.6)  # how often one kind of decision leaves the plain course in a run
_FEW = 3  # decisions that "few" changes in one run at most
_CHANGES = 2  # points at which "pct" demotes the task that runs, at most
_LONG = 100  # decisions after which "pct" lets others run in any case


class Invented(Choices):
    """The program's draws are uniform, the world's take the plain course.

    Attributes:
        waking: how many of the decisions were about wake-ups.
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
    """Each kind of decision leaves the plain course at a rate of its own, drawn for the run."""

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

    After "A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs" (ASPLOS 2010): a
    bug that needs d orderings is found with a chance of at least 1 in n * k ** (d - 1) for n tasks
    and k decisions, whatever the program. Nobody runs for long at a stretch while others are ready.
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
    """The plain course but for the decisions named, by their position."""

    def __init__(self, chance: Random, changes: dict[int, float]) -> None:
        super().__init__(chance)
        self._changes = changes

    def _decide(self, kind: str, limit: int) -> int:
        del kind
        part = self._changes.get(len(self.environment))
        return 0 if part is None else 1 + int(part * (limit - 1))


def portfolio(seed: int, names: Sequence[str], *, wakeups: bool) -> Iterator[Invented]:
    """Choices for one run after the other, for ever; the first takes the plain course.

    Args:
        seed: of all chance.
        names: the strategies that take turns, of `STRATEGIES`; "pct" only where wake-ups permute.
        wakeups: whether they do.
    """
    if unknown := [name for name in names if name not in STRATEGIES]:
        raise ValueError(f"unknown strategies {unknown!r}; there are {', '.join(STRATEGIES)}")
    chance = Random(seed)  # noqa: S311 - a search, not a secret
    last = Invented(chance)
    yield last
    # What the plain run decided is the measure of how long runs are.
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
