"""Searches for a sequence that violates a property, and shrinks it."""

# Hypothesis draws sequences until one violates a property; `muxleak.search` shrinks it. The search
# is the same for the same seed and budget: it has no clock and no database, and Hypothesis gets its
# random source. `campaign` is the search that has both.
#
# The shrinker ends at a sequence from which no one or two changes lead on, and which no sequence
# drawn at random is shorter than. At last the sequence is brought into its canonical form, so that
# equal findings are equal lines. That form lets the target settle before the last closes. A
# violation that is visible only within a gap (`bounds`) may vanish by that; then the sequence is
# returned as it was found.

from __future__ import annotations

from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING

from muxleak.extras import need_hypothesis
from muxleak.search.search import Progress, simplify
from muxleak_scenarios.pairs.subject import SequenceChoices, SequenceRunOutcome, SequenceSubject
from muxleak_scenarios.sequence.strategies import sequences
from muxleak_scenarios.targets.simulated import SimTarget

if TYPE_CHECKING:
    from collections.abc import Callable

    from muxleak.search import Finding
    from muxleak_scenarios.sequence.steps import Sequence
    from muxleak_scenarios.targets.target import Target
    from muxleak_vless import Lifecycle

EXAMPLES = 500


class _Violated(BaseException):
    """Ends the drawing at the first violation. Hypothesis takes an Exception for an example."""

    def __init__(self, outcome: SequenceRunOutcome) -> None:
        self.outcome = outcome


def find_violation(
    lifecycle: Callable[[], Lifecycle],
    *,
    properties: frozenset[str] | None = None,
    examples: int = EXAMPLES,
    seed: int = 0,
    target: Callable[[Lifecycle], Target] = SimTarget,
    progress: Callable[[int], object] = lambda _: None,
) -> Finding[SequenceRunOutcome] | None:
    """Search for a sequence that violates a property, and shrink it.

    Args:
        lifecycle: makes the life cycle of each run's server.
        properties: the properties that are searched for; None for all.
        examples: the most sequences before the first violation.
        seed: of the random source.
        target: makes the target of each run.
        progress: called with the number of sequences run so far, shrinking included.

    Returns:
        The finding, or None if no sequence violated one. `Finding.outcome` has the sequence.

    Raises:
        ImportError: Hypothesis is not installed.
    """
    need_hypothesis("find_violation()")
    subject = SequenceSubject(lifecycle, properties=properties, target=target)
    ran = connections = 0

    def run(sequence: Sequence) -> bool:
        nonlocal ran, connections
        outcome = subject.run(SequenceChoices(sequence))
        ran += 1
        connections += outcome.connections
        progress(ran)
        if outcome.failed:
            raise _Violated(outcome)
        return False

    try:
        _draw(run, examples, seed)
    except _Violated as violated:
        first = violated.outcome
    else:
        return None
    found = Progress(ran, 0, first.data, connections)
    return simplify(
        subject, first, found, seed, lambda now: progress(now.examples + now.shrinks) and False
    )


def _draw(run: Callable[[Sequence], bool], examples: int, seed: int) -> None:
    """Let Hypothesis draw sequences, and run each."""
    from hypothesis import HealthCheck, Phase, find, settings
    from hypothesis.errors import NoSuchExample

    with suppress(NoSuchExample):
        find(
            sequences(),
            run,
            random=Random(seed),  # noqa: S311 - a reproducible search, no secret
            settings=settings(
                max_examples=examples,
                database=None,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )
