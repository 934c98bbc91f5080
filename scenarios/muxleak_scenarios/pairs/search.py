"""Searches for a sequence that violates a property, and shrinks it."""

# A search is the same for the same seed and budget: it has no clock and no database, and Hypothesis
# gets its random source. `campaign` is the search that has both.
#
# Three parts. Hypothesis draws sequences until one violates a property, and shrinks it. `shorten`
# then searches among sequences that are strictly shorter, again and again, until it finds none:
# shrinking changes one place at a time, so it ends at a sequence from which no single change leads
# on, although two changes at once would. One such pair of changes is common enough to be tried by
# itself: data that follows a New can come with it, one step less. At last the sequence is brought
# into its canonical form, so that equal findings are equal lines, and run once more for the outcome
# that is returned.
#
# The canonical form lets the target settle before the last closes. A violation that is visible only
# within a gap (`bounds`) may vanish by that; then the sequence is returned as it was found.

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from muxleak.extras import need_hypothesis
from muxleak_scenarios.sequence.decoder import STEPS
from muxleak_scenarios.sequence.steps import OPENING, Sequence
from muxleak_scenarios.sequence.strategies import sequences
from muxleak_scenarios.targets.run import run_sequence
from muxleak_scenarios.targets.simulated import SimTarget

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from muxleak_scenarios.sequence.properties import SequenceOutcome
    from muxleak_scenarios.targets.target import Target
    from muxleak_vless import Lifecycle

EXAMPLES = 500
SHORTER = 300
"""Sequences that `shorten` tries for each length."""


@dataclass(frozen=True, slots=True)
class Found:
    """A violation that a search has found.

    Attributes:
        sequence: shrunk, and canonical where that violates something, too.
        outcome: of running it.
        examples: sequences that were run until the first violation, before shrinking.
        connections: connections that were opened until then.
    """

    sequence: Sequence
    outcome: SequenceOutcome
    examples: int
    connections: int


def find_violation(
    lifecycle: Callable[[], Lifecycle],
    *,
    properties: frozenset[str] | None = None,
    examples: int = EXAMPLES,
    seed: int = 0,
    target: Callable[[Lifecycle], Target] = SimTarget,
    progress: Callable[[int], None] | None = None,
) -> Found | None:
    """Search for a sequence that violates a property, and shrink it.

    Args:
        lifecycle: makes the life cycle of each run's server.
        properties: the properties that are searched for; None for all.
        examples: the most sequences before the first violation.
        seed: of the random source.
        target: makes the target of each run.
        progress: called with the number of sequences run so far, shrinking included.

    Returns:
        The violation, or None if no sequence had one.

    Raises:
        ImportError: Hypothesis is not installed.
    """
    need_hypothesis("find_violation()")
    violates = _Violates(lifecycle, properties, target, progress)
    sequence = _search(STEPS, violates, examples, seed)
    if sequence is None:
        return None
    sequence = shorten(sequence, violates, seed)
    if violates.first is None:
        raise AssertionError("found without a violation")
    shown = sequence.canonical()
    outcome = run_sequence(shown, lifecycle(), target)
    if not outcome.violations:
        shown, outcome = sequence, run_sequence(sequence, lifecycle(), target)
    return Found(shown, outcome, *violates.first)


class _Violates:
    """The condition of a search: runs a sequence, and counts.

    Attributes:
        first: the runs and connections up to the first violation; None before it.
    """

    def __init__(
        self,
        lifecycle: Callable[[], Lifecycle],
        properties: frozenset[str] | None,
        target: Callable[[Lifecycle], Target],
        progress: Callable[[int], None] | None,
    ) -> None:
        self.first: tuple[int, int] | None = None
        self._lifecycle = lifecycle
        self._properties = properties
        self._target = target
        self._progress = progress
        self._runs = self._connections = 0

    def __call__(self, sequence: Sequence) -> bool:
        """Return True if the sequence violates a property that is searched for."""
        outcome = run_sequence(sequence, self._lifecycle(), self._target)
        self._runs += 1
        self._connections += outcome.connections
        if self._progress is not None:
            self._progress(self._runs)
        violated = set(outcome.violated)
        hit = bool(violated if self._properties is None else violated & self._properties)
        if hit and self.first is None:
            self.first = self._runs, self._connections
        return hit


def shorten(
    sequence: Sequence, violates: Callable[[Sequence], bool], seed: int, *, virtual: bool = True
) -> Sequence:
    """Search for sequences with fewer steps, until none is found.

    Args:
        sequence: violates something.
        violates: the condition that a shorter sequence must meet.
        seed: of the random source.
        virtual: as in `sequences`.

    Returns:
        The shortest sequence found, or ``sequence`` itself.
    """
    shorter: Sequence | None = sequence
    while shorter is not None:
        sequence = shorter
        shorter = next(filter(violates, _with_data_in_new(sequence)), None) or _search(
            len(sequence) - 1, violates, SHORTER, seed, virtual=virtual
        )
    return sequence


def _with_data_in_new(sequence: Sequence) -> Iterator[Sequence]:
    """Yield the sequences in which the first data of one stream comes with its New."""
    for at, new in enumerate(sequence):
        if new.verb not in OPENING or new.size:
            continue
        own = [
            later
            for later in range(at + 1, len(sequence))
            if (sequence[later].connection, sequence[later].stream) == (new.connection, new.stream)
        ]
        if own and sequence[own[0]].verb == "data":
            whole = new._replace(size=sequence[own[0]].size)
            rest = (*sequence[at + 1 : own[0]], *sequence[own[0] + 1 :])
            yield Sequence((*sequence[:at], whole, *rest))


def _search(
    steps: int,
    violates: Callable[[Sequence], bool],
    examples: int,
    seed: int,
    *,
    virtual: bool = True,
) -> Sequence | None:
    from hypothesis import HealthCheck, Phase, find, settings
    from hypothesis.errors import NoSuchExample

    try:
        return find(
            sequences(steps, virtual=virtual),
            violates,
            random=Random(seed),  # noqa: S311 - a reproducible search, no secret
            settings=settings(
                max_examples=examples,
                database=None,
                deadline=None,
                phases=[Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
            ),
        )
    except NoSuchExample:
        return None
