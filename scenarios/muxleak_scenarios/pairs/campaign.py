"""A search with a budget: plain random scripts at full speed, then Hypothesis, which shrinks.

What violates a property is put into a Hypothesis database as the bytes that Hypothesis itself would
have drawn, and is found there: shrinking and remembering are one mechanism, and what an earlier
campaign found is tried before anything else. What no longer violates anything is forgotten. The
shortest is remembered as such beside those bytes, of which it need not be the first in their order.
What takes real time is shrunk in the simulated world first, and reported if it was seen to violate
the property in its own.
"""

from __future__ import annotations

import time
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
    """What a campaign may spend: random sequences, and seconds with shrinking. None: no limit."""

    examples: int | None = EXAMPLES
    seconds: float | None = None


class CampaignProgress(NamedTuple):
    """How far a campaign is. ``sequences`` and ``connections`` count shrinking, too."""

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
    """What a campaign came to.

    ``ended`` says why it did: "shrunk", or, with or without something found, "examples", "time" or
    "stopped". ``remembered`` says that an earlier campaign had found it.
    """

    found: Found | None
    status: CampaignProgress
    ended: str
    remembered: bool


class _End(BaseException):
    """Leaves Hypothesis, which keeps what it has; no `Exception`, which it would take for a bug."""


class _Hit(NamedTuple):
    """A sequence that violates a property; the smallest is the shortest."""

    steps: int
    length: int
    sequence: Sequence
    outcome: SequenceOutcome

    @classmethod
    def of(cls, sequence: Sequence, outcome: SequenceOutcome) -> _Hit:
        """Weigh a sequence."""
        return cls(len(sequence), len(str(sequence)), sequence, outcome)


class Campaign:
    """One search of one server. Deterministic for a seed, but for its clock and its memory.

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
        self._world = target
        self._virtual = virtual
        self._budget = budget
        self._seed = seed
        self._random = Random(seed)  # noqa: S311 - a reproducible search, no secret
        self._database = InMemoryExampleDatabase() if database is None else database
        self._key = f"muxleak {key}".encode()
        # Where Hypothesis keeps what is not shrunk yet; what is under the key itself, it believes
        # to be as small as it can get.
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
        """Try what is remembered, search, and shrink what is found, until the budget is spent."""
        ended = "shrunk"
        try:
            if not self._recall():
                if not self._shrink() and self._search() and not self._rehearse():
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
        """How far it is."""
        return CampaignProgress(
            self._doing,
            self._searched,
            self._sequences,
            self._connections,
            self._clock() - self._begun,
            None if self._best is None else self._best.steps,
        )

    def _recall(self) -> bool:
        """Try the shortest of an earlier campaign; whether it still violates something."""
        for each in list(self._database.fetch(self._shortest)):
            try:
                sequence = Sequence.parse(each.decode())
            except ValueError:
                pass  # Of another release, which wrote sequences otherwise.
            else:
                if self._violates(sequence):
                    return True
            self._database.delete(self._shortest, each)
        return False

    def _shorten(self) -> None:
        """Search among shorter ones, where that takes no real time; remember the shortest."""
        if self._best is None:
            return
        if self._virtual:
            shorten(self._best.sequence, self._violates, self._seed)
        self._database.save(self._shortest, str(self._best.sequence).encode())

    def _search(self) -> bool:
        """Run random scripts until one violates something; remember that."""
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

    def _rehearse(self) -> bool:
        """Search among shorter ones where no time passes; whether the world agrees on the shortest.

        In real time, each of the many runs that shrinking takes would wait for what never comes.
        """
        first = self._first
        if self._virtual or first is None:
            return False

        def violates(sequence: Sequence) -> bool:
            outcome = self._perform(sequence, SimTarget)
            self._tell()
            return not {*outcome.violated}.isdisjoint(first.outcome.violated)

        if not violates(first.sequence):
            return False
        shorter = shorten(first.sequence, violates, self._seed, virtual=False)
        return shorter != first.sequence and self._violates(shorter)

    def _shrink(self) -> bool:
        """Let Hypothesis try what is remembered, and shrink what violates something."""
        from hypothesis import HealthCheck, Phase, find, settings
        from hypothesis.errors import Flaky, NoSuchExample

        if not any(next(iter(self._database.fetch(key)), None) for key in (self._key, self._raw)):
            return False
        try:
            find(
                sequences(virtual=self._virtual),
                self._violates,
                # Not `random`: Hypothesis uses no database for what is seeded. The search is the
                # same for a seed, and shrinking reaches the same end.
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
            # On real time, a run need not repeat: the shortest that was seen is what there is.
            return self._first is not None
        return True

    def _violates(self, sequence: Sequence) -> bool:
        """Run a sequence; whether it violates what the first that was found violates."""
        outcome = self._perform(sequence, self._world)
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
        self._tell()
        return bool(violated)

    def _perform(
        self, sequence: Sequence, target: Callable[[Lifecycle], Target]
    ) -> SequenceOutcome:
        self._check_budget()
        outcome = run_sequence(sequence, self._lifecycle(), target)
        self._sequences += 1
        self._connections += outcome.connections
        return outcome

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(self.status)

    def _check_budget(self) -> None:
        if self._stopped():
            raise _End("stopped")
        seconds = self._budget.seconds
        if seconds is not None and self._clock() - self._begun >= seconds:
            raise _End("time")

    def _found(self) -> Found | None:
        """Return the shortest in its canonical form, if that does the same."""
        if self._first is None or self._best is None:
            return None
        sequence = self._best.sequence.canonical()
        outcome = run_sequence(sequence, self._lifecycle(), self._world)
        if not set(outcome.violated) & set(self._first.outcome.violated):
            sequence, outcome = self._best.sequence, self._best.outcome
        return Found(sequence, outcome, self._first.examples, self._first.connections)
