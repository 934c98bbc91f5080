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

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from muxleak.search.finding import Finding
from muxleak.search.shrink import shrink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from muxleak.search.subject import Decisions, Outcome, OutcomeT, Subject

EXAMPLES = 1_000
"""Runs of a search, unless it is told otherwise."""


class UnrepeatableError(RuntimeError):
    """Raised when a failing run does not fail again with the same decisions.

    Args:
        outcome: the outcome of the run.
        why: the reason, as a clause; "" if it is not known.

    Attributes:
        outcome: the outcome of the run.
    """

    def __init__(self, outcome: Outcome, why: str = "") -> None:
        why = why or "the program depends on something that the simulation does not decide"
        super().__init__(
            f"the failing run cannot be repeated: {why}; it failed with {outcome.error!r}"
        )
        self.outcome = outcome


class Progress(NamedTuple):
    """The progress of a search.

    Attributes:
        examples: number of runs of the search, those that were remembered included.
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
        examples: number of runs, at most, beside those that are remembered.
        seed: of all chance.
        shrinking: True to simplify the failing run.
        remembered: decisions to try before all others.
        progress: called after each run; if it returns a true value, the search ends with the
            simplest failing run so far.

    Returns:
        The finding, or None if no run failed.

    Raises:
        UnrepeatableError: the failing run cannot be repeated, since the subject depends on
            something that the decisions do not decide.
    """
    connections = ran = 0
    for data in remembered:
        outcome = subject.run(subject.choices(data))
        ran, connections = ran + 1, connections + outcome.connections
        if outcome.failed:
            found = Progress(ran, 0, outcome.data, connections)
            finding = simplify(subject, outcome, found, seed, progress, shrinking=shrinking)
            return replace(finding, remembered=True)
        if progress(Progress(ran, 0, None, connections)):
            return None
    for choices in islice(subject.portfolio(seed), examples):
        outcome = subject.run(choices)
        ran, connections = ran + 1, connections + outcome.connections
        if outcome.failed:
            found = Progress(ran, 0, outcome.data, connections)
            return simplify(subject, outcome, found, seed, progress, shrinking=shrinking)
        if progress(Progress(ran, 0, None, connections)):
            break
    return None


def simplify(
    subject: Subject[OutcomeT],
    first: OutcomeT,
    found: Progress,
    seed: int = 0,
    progress: Callable[[Progress], object] = lambda _: False,
    *,
    shrinking: bool = True,
) -> Finding[OutcomeT]:
    """Look for the simplest run that fails as a given one does.

    Args:
        subject: the subject.
        first: the outcome of a failing run.
        found: the progress when that run was made.
        seed: of all chance.
        progress: called before each run; a true value ends the shrinking.
        shrinking: False to take the run as it is.

    Returns:
        The finding.

    Raises:
        UnrepeatableError: as `search`.
    """
    best, connections, ended = first, found.connections, False
    narrowed = subject.narrowed(first)

    def attempt(candidate: Decisions) -> Decisions | None:
        nonlocal best, connections
        outcome = narrowed.run(narrowed.choices(candidate))
        connections += outcome.connections
        if not (outcome.failed and subject.same(first, outcome)):
            return None
        if outcome.data.order < best.data.order:
            best = outcome
        return outcome.data

    def enough(best: Decisions, spent: int) -> bool:
        nonlocal ended
        ended = bool(progress(Progress(found.examples, spent, best, connections)))
        return ended

    spent = 0
    if shrinking:
        _, spent = shrink(first.data, attempt, advice=narrowed, seed=seed, enough=enough)
    last = narrowed.run(narrowed.choices(best.data), traced=True)
    if not last.failed:
        # On real time a run need not repeat itself.
        if not subject.costly:
            raise UnrepeatableError(best)
        last = best
    return Finding(
        subject.name,
        last,
        subject.replay(last),
        found.examples,
        found.connections,
        spent,
        ended="stopped" if ended else "",
    )
