"""Shrinks a sequence where every measurement costs real time."""

# The shrinker is that of every search (`muxleak.search.shrink`), without the passes that cost many
# runs. A measurement takes from milliseconds to seconds, so the advice names all that is worth one:
#
# - Large cuts come first: one connection alone, all but one connection. Then the shrinker leaves
#   out rows of steps. Most steps of a random sequence do not matter.
# - Values are lowered only when no step can go, and each to a few values: an echo for a
#   destination, no gap, a close for a reset, less data.
# - Sequences are equal if they are after `canonical`, with every close spelled out. None is
#   measured twice. A close that is left out comes back, so it costs no measurement.
# - The number of measurements is bounded, since a leak that is a race may go on for ever.
#
# The result is minimal under these cuts: no single step can go. It is not always the shortest
# sequence with that leak. A measurement says "leaks", and not which leak, so shrinking may end at
# another leak than it began with; the hunt files whatever the minimal sequence leaves.

from __future__ import annotations

from typing import TYPE_CHECKING

from muxleak.search.shrink import shrinking
from muxleak_scenarios.sequence import encoding
from muxleak_scenarios.sequence.decoder import SIZES
from muxleak_scenarios.sequence.shrinking import SequenceAdvice, cuts, is_connected, numbered_anew
from muxleak_scenarios.sequence.steps import DESTINATIONS, Sequence

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from muxleak.search.subject import Decisions
    from muxleak_scenarios.sequence.steps import Step

_EMPTY = Sequence()


class HuntAdvice(SequenceAdvice):
    """Advice on sequences of which each run is a measurement."""

    def __init__(self) -> None:
        super().__init__(virtual=False)

    def normal(self, data: Decisions) -> Decisions | None:
        """Return the decisions that say a sequence in canonical form; None if they say none."""
        sequence = encoding.decode(data)
        if not sequence or not is_connected(sequence):
            return None
        return encoding.encode(sequence.canonical())

    def cuts(self, data: Decisions) -> Iterator[Decisions]:
        """Yield the decisions that say the `cuts` of a sequence which have fewer steps."""
        sequence = encoding.decode(data) or _EMPTY
        for each in cuts(sequence):
            if len(each) < len(sequence):
                yield encoding.encode(each)

    def lower(self, data: Decisions) -> Iterator[Decisions]:
        """Yield the decisions that say as many steps, one of them plainer."""
        sequence = encoding.decode(data) or _EMPTY
        yield encoding.encode(numbered_anew(sequence))
        for at, step in enumerate(sequence):
            for each in _plainer(step):
                yield encoding.encode(Sequence((*sequence[:at], each, *sequence[at + 1 :])))


def _plainer(step: Step) -> Iterator[Step]:
    if step.what in DESTINATIONS[1:]:
        yield step._replace(what=DESTINATIONS[0])
    if step.gap is not None:
        yield step._replace(gap=None)
    if step.verb in {"connect", "bad"}:
        yield step._replace(verb="open", what="")
    if step.verb in {"half", "abort"}:
        yield step._replace(verb="close")
    for size in SIZES:
        if size < step.size:
            yield step._replace(size=size)


async def shrink(
    sequence: Sequence, leaks: Callable[[Sequence], Awaitable[bool]], measurements: int = 400
) -> Sequence:
    """Return a minimal sequence that still leaks.

    Args:
        sequence: a sequence that leaks.
        leaks: measures a sequence and returns True if it leaks.
        measurements: number of measurements, at most.
    """
    best = sequence
    candidates = shrinking(encoding.encode(sequence.canonical()), advice=HuntAdvice())
    candidate = next(candidates, None)
    while candidate is not None and measurements > 0:
        measurements -= 1
        tried = encoding.decode(candidate) or _EMPTY
        leaked = await leaks(tried)
        best = tried if leaked else best
        try:
            candidate = candidates.send(candidate if leaked else None)
        except StopIteration:
            break
    return best
