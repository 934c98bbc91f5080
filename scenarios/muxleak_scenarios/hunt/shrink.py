"""Shrinks a sequence where every measurement costs real time."""

# The shrinker is that of every search (`muxleak.search.shrink`), without the passes that cost many
# runs. A measurement takes from milliseconds to seconds, and a leak that is a race may go on for
# ever, so their number is bounded.
#
# A measurement says "leaks", and not which leak, so shrinking may end at another leak than it began
# with; the hunt files whatever the minimal sequence leaves. It is measured in canonical form, with
# every close spelled out.

from __future__ import annotations

from typing import TYPE_CHECKING

from muxleak.search.shrink import shrinking
from muxleak_scenarios.sequence import encoding
from muxleak_scenarios.sequence.shrinking import SequenceAdvice, normal
from muxleak_scenarios.sequence.steps import Sequence

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

MEASUREMENTS = 400
_ADVICE = SequenceAdvice(virtual=False, remote=True)


async def shrink(
    sequence: Sequence,
    leaks: Callable[[Sequence], Awaitable[bool]],
    measurements: int = MEASUREMENTS,
) -> Sequence:
    """Return a minimal sequence that still leaks.

    Args:
        sequence: a sequence that leaks.
        leaks: measures a sequence and returns True if it leaks.
        measurements: number of measurements, at most.
    """
    best = sequence
    measured = {str(sequence)}
    candidates = shrinking(encoding.encode(normal(sequence)), advice=_ADVICE)
    candidate = next(candidates, None)
    while candidate is not None and len(measured) <= measurements:
        tried = (encoding.decode(candidate) or Sequence()).canonical()
        leaked = bool(tried) and str(tried) not in measured
        if leaked:
            measured.add(str(tried))
            leaked = await leaks(tried)
        if leaked:
            best = tried
        try:
            candidate = candidates.send(candidate if leaked else None)
        except StopIteration:
            break
    return best
