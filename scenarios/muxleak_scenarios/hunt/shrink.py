"""Shrinking a sequence step by step, where every look costs real time."""

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
    """Return a shortest sequence that still ``leaks``, after at most so many looks.

    First whole connections go, then runs of steps, each variant as long as those before, down to
    single ones; then what is left is made plainer. No look is repeated.
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
