"""Searches for a sequence that violates a property, and shrinks it; or shows that none is found.

Deterministic for a seed and a budget: no clock, no database.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from muxleak.extras import need_hypothesis
from muxleak_scenarios.sequence.decoder import STEPS
from muxleak_scenarios.sequence.strategies import sequences
from muxleak_scenarios.targets.run import run_sequence
from muxleak_scenarios.targets.simulated import SimTarget

if TYPE_CHECKING:
    from collections.abc import Callable

    from muxleak_scenarios.sequence.properties import SequenceOutcome
    from muxleak_scenarios.sequence.steps import Sequence
    from muxleak_scenarios.targets.target import Target
    from muxleak_vless import Lifecycle

EXAMPLES = 500
SHORTER = 300
"""Sequences in which a shorter one is looked for than shrinking has come to."""


@dataclass(frozen=True, slots=True)
class Found:
    """The shrunk sequence, what it did, and what finding it took.

    ``examples`` and ``connections`` count up to the first violation, before shrinking.
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
    """Search at most ``examples`` sequences; None if no property (of ``properties``) is violated.

    ``progress`` is called with the number of sequences run so far, shrinking included.

    Raises:
        ImportError: Hypothesis is not installed.
    """
    need_hypothesis("find_violation()")
    runs = connections = 0
    first: tuple[int, int] | None = None

    def violates(sequence: Sequence) -> bool:
        nonlocal runs, connections, first
        outcome = run_sequence(sequence, lifecycle(), target)
        runs += 1
        connections += outcome.connections
        if progress is not None:
            progress(runs)
        violated = set(outcome.violated)
        hit = bool(violated if properties is None else violated & properties)
        if hit and first is None:
            first = runs, connections
        return hit

    sequence = _search(STEPS, violates, examples, seed)
    if sequence is None:
        return None
    sequence = shorten(sequence, violates, seed)
    if first is None:
        raise AssertionError("found without a violation")
    shown = sequence.canonical()
    outcome = run_sequence(shown, lifecycle(), target)
    if not outcome.violations:
        # What is seen only while a connection is open need not be seen at rest.
        shown, outcome = sequence, run_sequence(sequence, lifecycle(), target)
    return Found(shown, outcome, *first)


def shorten(
    sequence: Sequence, violates: Callable[[Sequence], bool], seed: int, *, virtual: bool = True
) -> Sequence:
    """Search for shorter sequences than shrinking has come to, until none is found.

    Shrinking changes a step at a time, and so may end where two would have to change at once.
    ``virtual`` is that of `sequences`.
    """
    shorter: Sequence | None = sequence
    while shorter is not None:
        sequence = shorter
        shorter = _search(len(sequence) - 1, violates, SHORTER, seed, virtual=virtual)
    return sequence


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
