"""Statistics of samples: Theil and Sen's slope with a lower bound, floors, and drift."""

# Theil and Sen's slope is the median of the slopes between all pairs of samples. Outliers can move
# it without bound only if they are more than 29 % of the samples; a least-squares slope is moved by
# a single one.
#
# The lower bound (Sen 1968, "Estimates of the regression coefficient based on Kendall's tau"): a
# true slope b makes Kendall's S of the samples minus b times time 0 on average. S has the variance
# n(n - 1)(2n + 5)/18 for n samples of independent noise. So the bound at 99 % is the slope of rank
# (N - C)/2 among the N sorted slopes, with C = 2.326 times the standard deviation of S. For 30
# samples this is the 152nd of 435. Tied samples make the variance smaller, so leaving them out of
# the formula makes the bound lower, which is the safe side.

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

_Z = 2.326  # one-sided, 99 %


class Trend(NamedTuple):
    """The change of a count per minute.

    Attributes:
        slope: the median of the slopes between any two samples.
        lower: its lower bound, 99 % one-sided (Sen 1968), for independent noise.
    """

    slope: float
    lower: float


FLAT = Trend(0.0, 0.0)


def trend_of(times: Sequence[float], values: Sequence[float]) -> Trend:
    """Return the trend of n samples; O(n^2 log n), so n should be some dozens.

    Args:
        times: n seconds, ascending; two samples of one instant are not compared.
        values: n counts.
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
    # By the variance of Kendall's S, without the term for ties.
    spread = _Z * math.sqrt(samples * (samples - 1) * (2 * samples + 5) / 18)
    lower = slopes[max(round((pairs - spread) / 2) - 1, 0)]
    middle = (slopes[(pairs - 1) // 2] + slopes[pairs // 2]) / 2
    return Trend(60 * middle, 60 * lower)


def floors_rise(values: Sequence[float]) -> bool:
    """Return True if the lowest value of each third is above that of the third before."""
    third = len(values) // 3
    floors = [min(values[start : start + third]) for start in range(0, 3 * third, third)]
    return all(before < after for before, after in pairwise(floors))


def drift_of(values: Sequence[float]) -> float:
    """Return the mean step between values, in standard errors of that mean.

    A count of objects that come and go wanders, and an estimator of slopes finds a trend in any
    stretch of it. The steps of a wander cancel out, and their mean is near 0.
    """
    steps = [after - before for before, after in pairwise(values)]
    if len(steps) < 2:  # noqa: PLR2004 - no spread without two
        return 0.0
    mean = sum(steps) / len(steps)
    variance = sum((step - mean) ** 2 for step in steps) / (len(steps) - 1)
    spread = math.sqrt(variance / len(steps))
    return mean / spread if spread else math.copysign(math.inf, mean) if mean else 0.0
