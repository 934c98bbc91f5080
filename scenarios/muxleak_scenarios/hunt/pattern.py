"""A sequence inside another: whether it does what is known to leak, and how not to.

A pattern is a shortest sequence. Another contains it if it has its steps in that order, on one
connection and stream for each of the pattern's, whatever else it does between them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from muxleak_scenarios.sequence.steps import ENDINGS, Sequence, Step

if TYPE_CHECKING:
    from collections.abc import Iterator

UNSAID = -1
"""Where an ending stands that no step says."""
_OPENING = {"open", "connect", "bad"}


class _Name(NamedTuple):
    """A connection among those that had its letter, or a stream of one."""

    connection: str
    turn: int
    stream: int | None = None


def find(pattern: Sequence, sequence: Sequence) -> tuple[int, ...] | None:
    """Return where the steps of a pattern are in a sequence, or None.

    An ending that no step says is at `UNSAID`: of what is still open at the end, or opened again.
    """
    steps = tuple(each for each in _named(pattern) if each.at != UNSAID)
    return _find(steps, tuple(_named(sequence)), 0, {})


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


class _Said(NamedTuple):
    """A step, where it stands, and whom it concerns."""

    at: int
    step: Step
    name: _Name


def _named(sequence: Sequence) -> Iterator[_Said]:
    turns: dict[str, int] = {}
    for at, step in enumerate(sequence):
        name, turn = step.connection, turns.get(step.connection, 0)
        if step.verb in _OPENING:
            if turn:
                yield _ending(name, turn)
            turn += 1
        turns[name] = turn
        yield _Said(at, step, _Name(name, turn, step.stream))
    yield from (_ending(name, turn) for name, turn in turns.items())


def _ending(name: str, turn: int) -> _Said:
    return _Said(UNSAID, Step("close", name), _Name(name, turn))


def _find(
    pattern: tuple[_Said, ...], sequence: tuple[_Said, ...], start: int, names: dict[_Name, _Name]
) -> tuple[int, ...] | None:
    if not pattern:
        return ()
    wanted, rest = pattern[0], pattern[1:]
    for index in range(start, len(sequence)):
        said = sequence[index]
        if not _does(said.step, wanted.step):
            continue
        bound = _bind(names, wanted.name, said.name)
        if bound is not None and (found := _find(rest, sequence, index + 1, bound)) is not None:
            return (said.at, *found)
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
