"""Finds a known sequence inside another, and leaves it out.

A pattern is a minimal sequence. Another sequence contains it if it has its steps in the same order,
on one connection and one stream for each of the pattern's, with any steps between them.
"""

# Matching is a search with backtracking over the steps of the sequence. Each name of the pattern (a
# connection, or a stream of one) is bound to a name of the sequence, and two names are never bound
# to the same one: a leak of two streams needs two.
#
# - Letters are reused. ``a:open ... a:open`` is two connections, so a name has a turn: the number
#   of times that its letter was opened.
# - Every connection ends, by a step or by the end of the sequence, or when its letter is opened
#   again. Endings that no step says are added (at `UNSAID`), or a pattern that ends with a close
#   would not be found where the close is left out. Those of the pattern itself are not required.
# - A step matches one that does at least as much: any ending for any ending, ``connect`` for
#   ``open``, any destination for an echo, more data for less. The shrinker tried to make each of
#   them plainer, so the plain form in a pattern means that the difference does not matter.
#
# To leave a pattern out (`mask`), its last step that is neither an opening nor an ending is
# deleted, again and again until no match is left. The rest of the sequence keeps its shape and may
# show another leak. A pattern of openings and endings only cannot be left out: every sequence has
# them.

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from muxleak_scenarios.sequence.steps import ENDINGS, Sequence, Step

if TYPE_CHECKING:
    from collections.abc import Iterator

UNSAID = -1
"""Place of an ending that no step says."""
_OPENING = {"open", "connect", "bad"}


class _Name(NamedTuple):
    """A connection, by its letter and its turn, or a stream of one."""

    connection: str
    turn: int
    stream: int | None = None


def find(pattern: Sequence, sequence: Sequence) -> tuple[int, ...] | None:
    """Find a pattern in a sequence.

    Returns:
        The places of the pattern's steps in the sequence, `UNSAID` for an ending that no step says;
        None if the sequence does not contain the pattern.
    """
    steps = tuple(each for each in _named(pattern) if each.at != UNSAID)
    return _find(steps, tuple(_named(sequence)), 0, {})


def mask(pattern: Sequence, sequence: Sequence) -> Sequence | None:
    """Return a sequence without the steps that complete a pattern in it.

    None if the pattern has only openings and endings, which cannot be left out.
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
    """Return the number of connections that a sequence opens."""
    return sum(step.verb in _OPENING for step in sequence)


class _Said(NamedTuple):
    """A step, its place in the sequence, and the connection or stream that it acts on."""

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
    """Bind a name of the pattern, and its connection; None if either is bound otherwise already."""
    bound = names.copy()
    for mine, theirs in ((name._replace(stream=None), other._replace(stream=None)), (name, other)):
        if bound.setdefault(mine, theirs) != theirs:
            return None
    # Two names of the pattern bound to one of the sequence would let one stream pass for two.
    return bound if len(set(bound.values())) == len(bound) else None


def _does(step: Step, wanted: Step) -> bool:
    """Return True if a step does at least as much as the wanted one."""
    if wanted.verb in ENDINGS:
        return step.verb in ENDINGS
    if wanted.verb == "open":
        return step.verb in {"open", "connect"}
    return (
        step.verb == wanted.verb
        and wanted.what in {"@echo", step.what}
        and step.size >= wanted.size
    )
