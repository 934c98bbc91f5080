"""A search with a budget of time, which remembers across runs of the program."""

# Random bytes search, Hypothesis shrinks. A random sequence costs a tenth of one that Hypothesis
# draws, and almost all sequences of a campaign violate nothing, so that drawing them by Hypothesis
# would waste most of the time.
#
# The link between the two is Hypothesis's example database. A sequence that violates something is
# saved there as the bytes that Hypothesis would have drawn (one choice: a byte string), and `find`
# with the phase `reuse` tries the saved examples before anything else. So shrinking and remembering
# are one mechanism: a later campaign tries the findings of earlier ones first, and Hypothesis
# deletes those that violate nothing any more.
#
# Keys of the database, for a campaign's key K:
#
#   K             examples that Hypothesis takes to be as small as possible
#   K.secondary   examples that are not shrunk yet; new findings go here. A campaign that ends early
#                 moves those under K here, since its shrinking was not complete
#   K.shortest    the shortest sequence, in notation: Hypothesis orders examples by their bytes, and
#                 its smallest need not be the one with the fewest steps
#
# `find` is given no random source: Hypothesis does not use its database in a seeded search. The
# random search is seeded, and shrinking the same example ends at the same sequence.
#
# The budget is checked before each sequence, and a campaign leaves Hypothesis by an exception. That
# is a BaseException, because Hypothesis takes an Exception for a failing example.
#
# On real time each run of a leaking sequence waits for the target's patience, and shrinking takes
# hundreds. So a finding is first shrunk at the simulated target, where waiting takes no time. The
# result counts only if it violates the property at the real target, too; else it is shrunk there.
#
# Only violations of the properties that the first finding violated count from then on. Otherwise
# shrinking would slip to another, simpler violation, and the first would be lost.

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from muxleak.extras import need_hypothesis
from muxleak_scenarios.pairs.search import Found, shorten
from muxleak_scenarios.sequence.decoder import STEPS, WIDTH, decode
from muxleak_scenarios.sequence.steps import Sequence
from muxleak_scenarios.sequence.strategies import sequences
from muxleak_scenarios.targets.run import run_sequence
from muxleak_scenarios.targets.simulated import SimTarget

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis.database import ExampleDatabase

    from muxleak_scenarios.sequence.properties import SequenceOutcome
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
        remembered: True if an earlier campaign had found it.
    """

    found: Found | None
    status: CampaignProgress
    ended: str
    remembered: bool


class _End(BaseException):
    """Ends a campaign from within Hypothesis; its text is the reason."""


class _Hit(NamedTuple):
    """A sequence that violates a property, with its sizes: steps, and length in notation."""

    steps: int
    length: int
    sequence: Sequence
    outcome: SequenceOutcome

    @classmethod
    def of(cls, sequence: Sequence, outcome: SequenceOutcome) -> _Hit:
        """Return the hit for a sequence."""
        return cls(len(sequence), len(str(sequence)), sequence, outcome)


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

    Raises:
        ImportError: Hypothesis is not installed.
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
        progress: Callable[[CampaignProgress], None] | None = None,
        stopped: Callable[[], bool] = bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        need_hypothesis("a campaign")
        from hypothesis.database import InMemoryExampleDatabase

        self._lifecycle = lifecycle
        self._target = target
        self._virtual = virtual
        self._budget = budget
        self._seed = seed
        self._random = Random(seed)  # noqa: S311 - a reproducible search, no secret
        self._database = InMemoryExampleDatabase() if database is None else database
        self._key = f"muxleak {key}".encode()
        self._raw = self._key + b".secondary"
        self._shortest = self._key + b".shortest"
        self._progress = progress
        self._stopped = stopped
        self._clock = clock
        self._begun = clock()
        self._doing = "searches"
        self._searched = self._sequences = self._connections = 0
        self._first: Found | None = None
        self._best: _Hit | None = None

    def run(self) -> CampaignResult:
        """Try the remembered findings, search, and shrink, until done or out of budget."""
        ended = "shrunk"
        try:
            if not self._retry_shortest():
                if not self._shrink() and self._search() and not self._shrink_simulated():
                    self._shrink()
                self._shorten()
        except _End as end:
            ended = str(end)
            for each in list(self._database.fetch(self._key)):
                self._database.move(self._key, self._raw, each)
        if self._first is None and ended == "shrunk":
            ended = "examples"
        status = self.status
        found = self._found()
        return CampaignResult(found, status, ended, found is not None and not self._searched)

    @property
    def status(self) -> CampaignProgress:
        """The progress so far."""
        return CampaignProgress(
            self._doing,
            self._searched,
            self._sequences,
            self._connections,
            self._clock() - self._begun,
            None if self._best is None else self._best.steps,
        )

    def _retry_shortest(self) -> bool:
        """Run the shortest finding of an earlier campaign; return True if it still violates.

        Findings that do not, or that this release cannot read, are deleted.
        """
        for each in list(self._database.fetch(self._shortest)):
            # Another release may have another notation, or other rules for the order of steps.
            with suppress(ValueError):
                if self._violates(Sequence.parse(each.decode())):
                    return True
            self._database.delete(self._shortest, each)
        return False

    def _shorten(self) -> None:
        """Search among shorter sequences if that takes no real time; remember the shortest."""
        if self._best is None:
            return
        if self._virtual:
            shorten(self._best.sequence, self._violates, self._seed)
        self._database.save(self._shortest, str(self._best.sequence).encode())

    def _search(self) -> bool:
        """Run random sequences until one violates something; save it for Hypothesis."""
        from hypothesis.database import choices_to_bytes

        examples = self._budget.examples
        while examples is None or self._searched < examples:
            script = self._random.randbytes(WIDTH * STEPS)
            hit = self._violates(decode(script, virtual=self._virtual))
            self._searched += 1
            if hit:
                self._database.save(self._raw, choices_to_bytes((script,)))
                return True
        return False

    def _shrink_simulated(self) -> bool:
        """Shrink at the simulated target; return True if the result holds at the real one, too."""
        first = self._first
        if self._virtual or first is None:
            return False

        def violates(sequence: Sequence) -> bool:
            outcome = self._perform(sequence, SimTarget)
            self._report_progress()
            return not {*outcome.violated}.isdisjoint(first.outcome.violated)

        if not violates(first.sequence):
            return False
        shorter = shorten(first.sequence, violates, self._seed, virtual=False)
        return shorter != first.sequence and self._violates(shorter)

    def _shrink(self) -> bool:
        """Let Hypothesis try the saved examples, and shrink one that violates something."""
        from hypothesis import HealthCheck, Phase, find, settings
        from hypothesis.errors import Flaky, NoSuchExample

        if not any(next(iter(self._database.fetch(key)), None) for key in (self._key, self._raw)):
            return False
        try:
            find(
                sequences(virtual=self._virtual),
                self._violates,
                settings=settings(
                    database=self._database,
                    deadline=None,
                    phases=[Phase.reuse, Phase.shrink],
                    suppress_health_check=list(HealthCheck),
                ),
                database_key=self._key,
            )
        except NoSuchExample:
            return False
        except Flaky:
            # On real time a run need not repeat itself. The shortest finding so far stands.
            return self._first is not None
        return True

    def _violates(self, sequence: Sequence) -> bool:
        """Run a sequence; return True if it violates a property that the first finding violated."""
        outcome = self._perform(sequence, self._target)
        violated = set(outcome.violated)
        if self._first is not None:
            violated &= set(self._first.outcome.violated)
        if violated:
            if self._first is None:
                self._first = Found(sequence, outcome, self._sequences, self._connections)
                self._doing = "shrinks"
            hit = _Hit.of(sequence, outcome)
            if self._best is None or hit[:2] < self._best[:2]:
                self._best = hit
        self._report_progress()
        return bool(violated)

    def _perform(
        self, sequence: Sequence, target: Callable[[Lifecycle], Target]
    ) -> SequenceOutcome:
        self._check_budget()
        outcome = run_sequence(sequence, self._lifecycle(), target)
        self._sequences += 1
        self._connections += outcome.connections
        return outcome

    def _report_progress(self) -> None:
        if self._progress is not None:
            self._progress(self.status)

    def _check_budget(self) -> None:
        if self._stopped():
            raise _End("stopped")
        seconds = self._budget.seconds
        if seconds is not None and self._clock() - self._begun >= seconds:
            raise _End("time")

    def _found(self) -> Found | None:
        """Return the shortest finding, in canonical form if that violates the same."""
        if self._first is None or self._best is None:
            return None
        sequence = self._best.sequence.canonical()
        outcome = run_sequence(sequence, self._lifecycle(), self._target)
        if not set(outcome.violated) & set(self._first.outcome.violated):
            sequence, outcome = self._best.sequence, self._best.outcome
        return Found(sequence, outcome, self._first.examples, self._first.connections)
