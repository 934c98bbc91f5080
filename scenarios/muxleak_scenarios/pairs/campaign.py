"""A search with a budget of time, which remembers across runs of the program."""

# Random bytes search, and the engine's shrinker shrinks: almost all sequences of a campaign violate
# nothing, and a random one costs a tenth of one that Hypothesis draws.
#
# Findings are remembered in a database of Hypothesis's kind (a folder, or another that Hypothesis
# offers), in notation, under the campaign's key and `.shortest`. A later campaign tries them before
# anything else, and deletes those that violate nothing any more or that it cannot read. A campaign
# that ends while it shrinks remembers the shortest sequence so far, and the next one goes on there.
#
# The budget is checked before each sequence.
#
# On real time each run of a leaking sequence waits for the target's patience, and shrinking takes
# hundreds. So a finding is first shrunk at the simulated target, where waiting takes no time. The
# result counts only if it violates the property at the real target, too; else it is shrunk there.
#
# Only violations of the properties that the first finding violated count from then on. Otherwise
# shrinking would slip to another, simpler violation, and the first would be lost.

from __future__ import annotations

import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from muxleak.search.search import Progress, search, simplify
from muxleak_scenarios.pairs.subject import SequenceRunOutcome, SequenceSubject
from muxleak_scenarios.sequence import encoding, shrinking
from muxleak_scenarios.sequence.steps import Sequence
from muxleak_scenarios.targets.simulated import SimTarget

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hypothesis.database import ExampleDatabase

    from muxleak.search import Finding
    from muxleak.search.subject import Decisions
    from muxleak_scenarios.targets.target import Target
    from muxleak_vless import Lifecycle

EXAMPLES = 2000


class Budget(NamedTuple):
    """Limits of a campaign; None is no limit.

    Attributes:
        examples: random sequences.
        seconds: time, shrinking included.
    """

    examples: int | None = EXAMPLES
    seconds: float | None = None


class CampaignProgress(NamedTuple):
    """The progress of a campaign.

    Attributes:
        doing: "searches" or "shrinks".
        searched: random sequences so far.
        sequences: sequences run so far, shrinking included.
        connections: connections opened by them.
        seconds: time since the beginning.
        shortest: steps of the shortest finding; None without one.
    """

    doing: str
    searched: int
    sequences: int
    connections: int
    seconds: float
    shortest: int | None

    @property
    def rate(self) -> float:
        """Connections per second."""
        return self.connections / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class CampaignResult:
    """The result of a campaign.

    Attributes:
        found: the shortest violation; None without one.
        status: the progress at the end.
        ended: the reason for the end: "shrunk"; or "examples", "time" or "stopped", with or without
            a finding.
    """

    found: Finding[SequenceRunOutcome] | None
    status: CampaignProgress
    ended: str

    @property
    def remembered(self) -> bool:
        """True if an earlier campaign had found it."""
        return self.found is not None and self.found.remembered


class Campaign:
    """One campaign against one server, the same for the same seed apart from clock and database.

    Args:
        lifecycle: makes the life cycle of each run's server.
        budget: when to end.
        seed: of the random search.
        target: makes the target of each run.
        virtual: False for targets on real time.
        database: where findings are remembered; None for nowhere.
        key: tells campaigns in one database apart.
        progress: called after each sequence.
        stopped: asked before each sequence; True ends the campaign.
        clock: returns seconds.
    """

    def __init__(
        self,
        lifecycle: Callable[[], Lifecycle],
        *,
        budget: Budget = Budget(),  # noqa: B008 - a value that cannot change
        seed: int = 0,
        target: Callable[[Lifecycle], Target] = SimTarget,
        virtual: bool = True,
        database: ExampleDatabase | None = None,
        key: str = "",
        progress: Callable[[CampaignProgress], object] = lambda _: None,
        stopped: Callable[[], bool] = bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._subject = SequenceSubject(lifecycle, target=target, virtual=virtual)
        self._simulated = SequenceSubject(lifecycle, virtual=False)
        self._budget = budget
        self._seed = seed
        self._memory = _Memory(database, f"muxleak {key}".encode())
        self._report = progress
        self._stopped = stopped
        self._clock = clock
        self._begun = clock()
        self._ended = ""
        self._past = self._now = Progress(0)  # of searches that are over; of the one under way

    def run(self) -> CampaignResult:
        """Try the remembered findings, search, and shrink, until done or out of budget."""
        found = None if self._is_over() else self._retry() or self._search()
        if found is None:
            return CampaignResult(None, self._status, self._ended or "examples")
        if self._subject.costly and not found.remembered:
            found = self._shrink(found)
        self._memory.save(found.outcome.sequence, shrunk=not self._ended)
        return CampaignResult(found, self._status, self._ended or "shrunk")

    def _retry(self) -> Finding[SequenceRunOutcome] | None:
        """Run the findings of earlier campaigns; forget those that violate nothing any more."""
        for data, shrunk in self._memory.take():
            found = search(
                self._subject,
                examples=0,
                seed=self._seed,
                remembered=[data],
                shrinking=not (shrunk or self._subject.costly),
                progress=self._progress,
            )
            self._add(found)
            if found is not None or self._ended:
                return found
        return None

    def _search(self) -> Finding[SequenceRunOutcome] | None:
        if self._ended:
            return None
        found = search(
            self._subject,
            examples=sys.maxsize if self._budget.examples is None else self._budget.examples,
            seed=self._seed,
            shrinking=not self._subject.costly,
            progress=self._progress,
        )
        self._add(found)
        return found

    def _shrink(self, found: Finding[SequenceRunOutcome]) -> Finding[SequenceRunOutcome]:
        """Shrink a finding of a real target at the simulated one, or else where it was found."""
        first = found.outcome
        simulated = self._simulated.run(self._simulated.choices(first.data))
        if simulated.failed and self._subject.same(first, simulated):
            shorter = self._simplify(self._simulated, simulated)
            outcome = self._subject.run(self._subject.choices(shorter.outcome.data), traced=True)
            if outcome.failed and self._subject.same(first, outcome):
                replay = self._subject.replay(outcome)
                return replace(found, outcome=outcome, replay=replay, shrinks=shorter.shrinks)
        shorter = self._simplify(self._subject, first)
        return replace(
            found, outcome=shorter.outcome, replay=shorter.replay, shrinks=shorter.shrinks
        )

    def _simplify(
        self, subject: SequenceSubject, first: SequenceRunOutcome
    ) -> Finding[SequenceRunOutcome]:
        shorter = simplify(subject, first, Progress(0), self._seed, self._progress)
        self._add(shorter)
        return shorter

    def _add(self, found: Finding[SequenceRunOutcome] | None) -> None:
        """Count the runs of a search that is over."""
        now, self._now = self._now, Progress(0)
        if found is not None:
            now = now._replace(
                examples=found.examples,
                shrinks=found.shrinks,
                best=found.outcome.data,
                connections=max(now.connections, found.connections),
            )
        self._past = self._sum(now)

    def _sum(self, now: Progress) -> Progress:
        past = self._past
        return Progress(
            past.examples + now.examples,
            past.shrinks + now.shrinks,
            now.best or past.best,
            past.connections + now.connections,
        )

    def _progress(self, now: Progress) -> bool:
        self._now = now
        self._report(self._status)
        return self._is_over()

    @property
    def _status(self) -> CampaignProgress:
        now = self._sum(self._now)
        return CampaignProgress(
            "searches" if now.best is None else "shrinks",
            now.examples,
            now.examples + now.shrinks,
            now.connections,
            self._clock() - self._begun,
            None if now.best is None else len(now.best.starts),
        )

    def _is_over(self) -> bool:
        """Return True if the campaign is stopped, or its time is up; note which."""
        seconds = self._budget.seconds
        if self._stopped():
            self._ended = "stopped"
        elif seconds is not None and self._clock() - self._begun >= seconds:
            self._ended = "time"
        return bool(self._ended)


class _Memory:
    """The findings of earlier campaigns in a database: one under each of two keys, in notation."""

    def __init__(self, database: ExampleDatabase | None, key: bytes) -> None:
        self._database = database
        self._keys = {True: key + b".shortest", False: key + b".unfinished"}

    def take(self) -> Iterator[tuple[Decisions, bool]]:
        """Yield each finding, with True if it is as short as can be.

        A finding is forgotten when the next one is asked for, and so is one that cannot be read.
        """
        if self._database is None:
            return
        for shrunk, key in self._keys.items():
            for each in list(self._database.fetch(key)):
                # Another release may have another notation, or other rules for the order of steps.
                with suppress(ValueError):
                    sequence = Sequence.parse(each.decode())
                    if shrinking.is_connected(sequence):
                        yield encoding.encode(shrinking.normal(sequence)), shrunk
                self._database.delete(key, each)

    def save(self, sequence: Sequence, *, shrunk: bool) -> None:
        """Remember a sequence, and nothing else under its key."""
        if self._database is not None:
            self._database.save(self._keys[shrunk], str(sequence).encode())
