"""A sequence inside another: whether it does what is known to leak, and how not to.

A pattern is a shortest sequence. Another contains it if it has its steps in that order, on one
connection and stream for each of the pattern's, whatever else it does between them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from scenarios.steps import ENDINGS, Sequence, Step

if TYPE_CHECKING:
    from collections.abc import Iterator

_OPENING = {"open", "connect", "bad"}


class _Name(NamedTuple):
    """A connection among those that had its letter, or a stream of one."""

    connection: str
    turn: int
    stream: int | None = None


def find(pattern: Sequence, sequence: Sequence) -> tuple[int, ...] | None:
    """Return where the steps of a pattern are in a sequence, or None."""
    # What is still open at the end is closed then.
    closes = (Step("close", name) for name in dict.fromkeys(step.connection for step in sequence))
    return _find(tuple(_named(pattern)), tuple(_named(Sequence((*sequence, *closes)))), 0, {})


def mask(pattern: Sequence, sequence: Sequence) -> Sequence | None:
    """Return a sequence without the steps that complete a pattern in it.

    None if the pattern is nothing but a connection that comes and goes: there is no other way.
    """
    left = sequence
    while (found := find(pattern, left)) is not None:
        inner = [
            at
            for at, step in zip(found, pattern, strict=True)
            if step.verb not in ENDINGS and step.verb not in _OPENING
        ]
        if not inner:
            return None
        left = Sequence(step for at, step in enumerate(left) if at != inner[-1])
    return left


def connections(sequence: Sequence) -> int:
    """Return how many connections a sequence makes."""
    return sum(step.verb in _OPENING for step in sequence)


def _named(sequence: Sequence) -> Iterator[tuple[Step, _Name]]:
    turns: dict[str, int] = {}
    for step in sequence:
        turns[step.connection] = turns.get(step.connection, 0) + (step.verb in _OPENING)
        yield step, _Name(step.connection, turns[step.connection], step.stream)


def _find(
    pattern: tuple[tuple[Step, _Name], ...],
    sequence: tuple[tuple[Step, _Name], ...],
    start: int,
    names: dict[_Name, _Name],
) -> tuple[int, ...] | None:
    if not pattern:
        return ()
    (wanted, name), rest = pattern[0], pattern[1:]
    for at in range(start, len(sequence)):
        step, other = sequence[at]
        if not _does(step, wanted):
            continue
        bound = _bind(names, name, other)
        if bound is not None and (found := _find(rest, sequence, at + 1, bound)) is not None:
            return (at, *found)
    return None


def _bind(names: dict[_Name, _Name], name: _Name, other: _Name) -> dict[_Name, _Name] | None:
    """Add what a name of the pattern stands for; None if it stands for something else already."""
    bound = names.copy()
    for mine, theirs in ((name._replace(stream=None), other._replace(stream=None)), (name, other)):
        if bound.setdefault(mine, theirs) != theirs:
            return None
    return bound if len(set(bound.values())) == len(bound) else None


def _does(step: Step, wanted: Step) -> bool:
    """Whether a step does at least what is wanted."""
    if wanted.verb in ENDINGS:
        return step.verb in ENDINGS
    if wanted.verb == "open":
        return step.verb in {"open", "connect"}
    return (
        step.verb == wanted.verb
        and wanted.what in {"@echo", step.what}
        and step.size >= wanted.size
    )
