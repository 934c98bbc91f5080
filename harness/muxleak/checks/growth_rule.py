"""The rule by which a count that was taken after each repetition grows."""

# The first half of the counts is left to everything that fills once: connection pools, services
# that start when they are needed, memoised results. What decides is the *floor* of the counts: at
# each repetition the lowest count from there to the end. Objects that end later do not lift it, nor
# does a table that is cleared from time to time, nor a number of threads that goes up and down; a
# leak does. A count grows if it is higher at the end than at half-time, and its floor rose, in the
# steps between,
#
# - in more than half of the steps, or
# - steadily, for a leak of every second or third repetition: with no rest longer than a third of
#   the steps, the one at the end included, where a pool has reached its limit; no less often than
#   in the first half, but for once, as a cache does that fills with random keys; and eight times or
#   more, or at even intervals. Fewer rises at uneven intervals are those of an executor, which
#   starts another worker when it happens to be busy.
#
# So a leak of every n-th repetition is found by 8n repetitions or more. An object that is created
# once but late makes one step. Price: a pool that is still filling over the whole second half is
# taken for a leak. Four repetitions are the fewest for which the second half has two steps.

from collections.abc import Sequence
from itertools import accumulate, groupby, pairwise

FEWEST = 4
_MANY = 8  # rises that need no even intervals; an executor seldom has more workers than that
_FEWEST_RISES = 4  # with fewer, an executor's next worker is too often at even intervals by chance


def grows(counts: Sequence[int]) -> bool:
    """Return True if a count grows over the second half of the repetitions.

    Args:
        counts: the count after each repetition, at least `FEWEST`.
    """
    floors = list(accumulate(reversed(counts), min))[::-1]
    steps = [before < after for before, after in pairwise(floors)]
    half = len(counts) // 2 - 1
    rises, late = sum(steps[half:]), steps[half:]
    if counts[-1] <= counts[half] or 2 * rises > len(late):
        return counts[-1] > counts[half]
    rests = (len(list(rest)) for rose, rest in groupby(late) if not rose)
    if max(rests) > len(late) // 3 or rises + 1 < sum(steps[:half]):
        return False
    return rises >= _MANY or (rises >= _FEWEST_RISES and _even(steps))


def _even(steps: Sequence[bool]) -> bool:
    """Return True if the intervals between rises differ by one step at most."""
    places = [place for place, rose in enumerate(steps) if rose]
    intervals = [after - before for before, after in pairwise(places)]
    return max(intervals) - min(intervals) <= 1
