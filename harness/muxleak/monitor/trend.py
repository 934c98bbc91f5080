"""A slope that outliers do not move, with a bound below it: Theil and Sen's estimator."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

_Z = 2.326  # one-sided, 99 %


class Trend(NamedTuple):
    """How a count changes, per minute.

    Attributes:
        slope: the median of the slopes between any two samples.
        lower: a bound below it, of 99 % one-sided confidence (Sen 1968), for independent noise.
    """

    slope: float
    lower: float


FLAT = Trend(0.0, 0.0)


def trend_of(times: Sequence[float], values: Sequence[float]) -> Trend:
    """The trend of samples; O(n^2 log n), for n of some dozens.

    Args:
        times: in seconds, ascending; two of one instant are not compared with each other.
        values: as many.
    """
    if len(values) < 2 or min(values) == max(values):  # noqa: PLR2004 - no slope without two
        return FLAT
    points = list(zip(times, values, strict=True))
    slopes = sorted(
        (later - value) / (then - time)
        for index, (time, value) in enumerate(points)
        for then, later in points[index + 1 :]
        if then > time
    )
    if not slopes:
        return FLAT
    pairs, samples = len(slopes), len(points)
    # The variance of Kendall's S; ties, which would make it smaller, are left out.
    spread = _Z * math.sqrt(samples * (samples - 1) * (2 * samples + 5) / 18)
    lower = slopes[max(round((pairs - spread) / 2) - 1, 0)]
    middle = (slopes[(pairs - 1) // 2] + slopes[pairs // 2]) / 2
    return Trend(60 * middle, 60 * lower)


def floors_rise(values: Sequence[float]) -> bool:
    """Whether the lowest value of each third is above the lowest of the third before."""
    third = len(values) // 3
    floors = [min(values[start : start + third]) for start in range(0, 3 * third, third)]
    return all(before < after for before, after in pairwise(floors))


def drift_of(values: Sequence[float]) -> float:
    """How far a rise is beyond what chance does, in standard deviations.

    Counts of things that come and go wander, and any stretch of a wander looks like a trend to an
    estimator of slopes. This holds the mean step against the spread of the steps.
    """
    steps = [after - before for before, after in pairwise(values)]
    if len(steps) < 2:  # noqa: PLR2004 - no spread without two
        return 0.0
    mean = sum(steps) / len(steps)
    variance = sum((step - mean) ** 2 for step in steps) / (len(steps) - 1)
    spread = math.sqrt(variance / len(steps))
    return mean / spread if spread else math.copysign(math.inf, mean) if mean else 0.0
