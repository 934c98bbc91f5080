"""Shrinks a sequence where every measurement costs real time."""

# A measurement takes from milliseconds to seconds, so the order of the candidates decides the price
# of a hunt:
#
# - Large cuts come first: one connection alone, all but one connection, half of the steps, a
#   quarter, down to single steps. Most steps of a random sequence do not matter.
# - After each success the candidates are made anew from the shorter sequence, the largest cuts
#   first again.
# - Steps are made plainer only when none can go: an echo for a destination, no gap, a close for a
#   reset, less data. Then cuts are tried again.
# - No sequence is measured twice, since different cuts often give the same one. Equal means equal
#   after `canonical`, with every close spelled out.
# - The number of measurements is bounded, since a leak that is a race may go on for ever.
#
# The result is minimal under these cuts: no single step can go. It is not always the shortest
# sequence with that leak. A measurement says "leaks", and not which leak, so shrinking may end at
# another leak than it began with; the hunt files whatever the minimal sequence leaves.

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from muxleak_scenarios.sequence.decoder import SIZES
from muxleak_scenarios.sequence.steps import Sequence

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

_SIZES = (0, *SIZES[1:])


async def shrink(
    sequence: Sequence, leaks: Callable[[Sequence], Awaitable[bool]], measurements: int = 400
) -> Sequence:
    """Return a minimal sequence that still leaks.

    Args:
        sequence: a sequence that leaks.
        leaks: measures a sequence and returns True if it leaks.
        measurements: number of measurements, at most.
    """
    seen: set[str] = {str(sequence)}
    changed = True
    while changed:
        changed = False
        for candidates in (_fewer, _plainer):
            found: Sequence | None = sequence
            while found is not None:
                found = None
                for candidate in candidates(sequence):
                    if str(candidate) in seen or not candidate or len(seen) > measurements:
                        continue
                    seen.add(str(candidate))
                    if await leaks(candidate):
                        sequence, found, changed = candidate, candidate, True
                        break
    return sequence


def _fewer(sequence: Sequence) -> Iterator[Sequence]:
    """Yield sequences with fewer steps, the largest cuts first."""
    for name in sorted({step.connection for step in sequence}):
        yield Sequence(step for step in sequence if step.connection == name).canonical()
    for name in sorted({step.connection for step in sequence}):
        yield Sequence(step for step in sequence if step.connection != name).canonical()
    for at, (one, two) in enumerate(pairwise(sequence)):
        if (one.verb, two.verb) == ("connect", "header") and one.connection == two.connection:
            both = one._replace(verb="open", gap=two.gap)
            yield Sequence((*sequence[:at], both, *sequence[at + 2 :])).canonical()
    size = len(sequence) // 2
    while size:
        for start in range(0, len(sequence), size):
            yield Sequence((*sequence[:start], *sequence[start + size :])).canonical()
        size //= 2


def _plainer(sequence: Sequence) -> Iterator[Sequence]:
    """Yield sequences with as many steps, one of them plainer; first with streams renumbered."""
    ids = dict.fromkeys(step.stream for step in sequence if step.stream is not None)
    numbers = {stream: number for number, stream in enumerate(ids, 1)}
    yield Sequence(
        step if step.stream is None else step._replace(stream=numbers[step.stream])
        for step in sequence
    )
    for at, step in enumerate(sequence):
        plainer = []
        if step.what.startswith("@") and step.what != "@echo":
            plainer.append(step._replace(what="@echo"))
        if step.gap is not None:
            plainer.append(step._replace(gap=None))
        if step.verb in {"half", "abort"}:
            plainer.append(step._replace(verb="close"))
        if step.size:
            plainer += [step._replace(size=size) for size in _SIZES if size < step.size]
        for each in plainer:
            yield Sequence((*sequence[:at], each, *sequence[at + 1 :])).canonical()
