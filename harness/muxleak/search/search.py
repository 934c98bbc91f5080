"""Searches the runs of a subject for one that fails, and shrinks it."""

# The subject proposes choices, a run is made with them, and the first run that fails ends the
# search. Runs that an earlier search found come before all others (`remembered`). The runs of the
# search and of the shrinker are not traced, which would slow them. The run that is reported is made
# once more, traced; that also proves that the failure can be repeated at all.
#
# `progress` is called after each run and may end the search, so that a caller adds a budget of
# time, a key that the user pressed, or nothing. A search that ends while it shrinks has a finding,
# perhaps not the simplest one.

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from muxleak.search.finding import Finding
from muxleak.search.shrink import shrink
from muxleak.sim.choices import Choices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from muxleak.search.subject import Decisions, OutcomeT, Subject

EXAMPLES = 1_000
"""Runs of a search, unless it is told otherwise."""


class Progress(NamedTuple):
    """The progress of a search.

    Attributes:
        examples: number of runs of the search.
        shrinks: number of runs spent on shrinking.
        best: the decisions of the simplest failing run so far; None before there is one.
        connections: number of connections that all these runs opened.
    """

    examples: int
    shrinks: int = 0
    best: Decisions | None = None
    connections: int = 0


def search(
    subject: Subject[OutcomeT],
    *,
    examples: int = EXAMPLES,
    seed: int = 0,
    shrinking: bool = True,
    remembered: Iterable[Decisions] = (),
    progress: Callable[[Progress], object] = lambda _: False,
) -> Finding[OutcomeT] | None:
    """Run a subject in many ways until a run fails; then look for the simplest run that fails so.

    The same for the same subject, seed and number of examples.

    Args:
        subject: the subject.
        examples: number of runs, at most; those that are remembered are not counted.
        seed: of all chance.
        shrinking: True to simplify the failing run.
        remembered: decisions to try before all others.
        progress: called after each run; if it returns a true value, the search ends with the
            simplest failing run so far.

    Returns:
        The finding, or None if no run failed.

    Raises:
        RuntimeError: the failing run cannot be repeated, since the subject depends on something
            that the decisions do not decide.
    """
    connections = 0
    for decisions in remembered:
        outcome = subject.run(Choices(decisions.program, decisions.environment))
        connections += outcome.connections
        if outcome.failed:
            found = Progress(1, 0, outcome.data, connections)
            return _finding(subject, outcome, found, seed, shrinking, progress, remembered=True)
    for number, choices in enumerate(subject.portfolio(seed), start=1):
        outcome = subject.run(choices)
        connections += outcome.connections
        if outcome.failed:
            found = Progress(number, 0, outcome.data, connections)
            return _finding(subject, outcome, found, seed, shrinking, progress)
        if progress(Progress(number, 0, None, connections)) or number >= examples:
            break
    return None


def _finding(
    subject: Subject[OutcomeT],
    first: OutcomeT,
    found: Progress,
    seed: int,
    shrinking: bool,  # noqa: FBT001 - as `search` got it
    progress: Callable[[Progress], object],
    *,
    remembered: bool = False,
) -> Finding[OutcomeT]:
    """Shrink a failing run, and run the simplest once more."""
    best, spent, connections, ended = first.data, 0, found.connections, False

    def attempt(candidate: Decisions) -> Decisions | None:
        nonlocal connections
        outcome = subject.run(Choices(candidate.program, candidate.environment))
        connections += outcome.connections
        return outcome.data if outcome.failed and subject.same(first, outcome) else None

    def enough(best: Decisions, spent: int) -> bool:
        nonlocal ended
        now = Progress(found.examples, spent, best, connections)
        ended = bool(progress(now))
        return ended

    if shrinking:
        best, spent = shrink(best, attempt, subject=subject, seed=seed, enough=enough)
    last = subject.run(Choices(best.program, best.environment), traced=True)
    if not last.failed:
        raise RuntimeError(
            "the failing run cannot be repeated: the program depends on something that the "
            f"simulation does not decide; it failed with {first.error!r}"
        )
    return Finding(
        subject.name,
        last,
        subject.replay(last),
        found.examples,
        found.connections,
        spent,
        remembered=remembered,
        ended="stopped" if ended else "",
    )
