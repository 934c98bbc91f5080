"""The slope: right on a line, unmoved by outliers, and a lower bound that noise does not lift."""

from math import inf
from random import Random

import pytest

from muxleak.monitor.trend import FLAT, Trend, drift_of, floors_rise, trend_of

TIMES = [10.0 * index for index in range(30)]


def line(per_minute: float) -> list[float]:
    """What climbs evenly."""
    return [time * per_minute / 60 for time in TIMES]


@pytest.mark.parametrize("per_minute", [-12.0, 0.5, 60.0])
def test_trend_of_a_line_is_its_slope(per_minute: float) -> None:
    """Estimate and bound are the slope itself."""
    assert trend_of(TIMES, line(per_minute)) == pytest.approx(Trend(per_minute, per_minute))


@pytest.mark.parametrize(("times", "values"), [([], []), ([1.0], [5]), ([1.0, 1.0], [5, 9])])
def test_trend_of_too_little_is_flat(times: list[float], values: list[float]) -> None:
    """No sample, one, or two of one instant."""
    assert trend_of(times, values) == FLAT


def test_trend_is_the_middle_slope_and_its_bound_the_one_so_far_below() -> None:
    """Of an even number the mean of two; with Sen's ranks, of ten samples the ninth of 45."""
    squares = [float(index**2) for index in range(10)]
    minutes = [60.0 * index for index in range(10)]

    # Between the minutes i and j a square climbs by i + j: 1, 2, 3, 3, 4, 4, 5, 5, 5, 6 ...
    assert trend_of(minutes, squares) == pytest.approx(Trend(9.0, 5.0))
    assert trend_of(minutes[:4], [0.0, 1.0, 3.0, 10.0]).slope == pytest.approx(8 / 3)


def test_trend_is_not_moved_by_outliers() -> None:
    """A fifth of the samples is far off; least squares would be off by as much."""
    random = Random(7)
    values = line(6.0)
    for index in random.sample(range(30), 6):
        values[index] += random.choice((-1, 1)) * 1_000

    found = trend_of(TIMES, values)

    assert found.slope == pytest.approx(6.0, abs=0.5)


@pytest.mark.parametrize("seed", range(5))
def test_trend_finds_a_climb_in_noise(seed: int) -> None:
    """6 per minute, in noise of a standard deviation of 3: the bound is above 1."""
    random = Random(seed)
    values = [value + random.gauss(0, 3) for value in line(6.0)]

    found = trend_of(TIMES, values)

    assert 1 < found.lower < 6.0 < found.slope + 1
    assert found.slope == pytest.approx(6.0, abs=1)


def test_trend_of_noise_is_seldom_a_climb() -> None:
    """Independent noise lifts the bound above zero about once in a hundred windows."""
    random = Random(3)
    windows = [[random.gauss(100, 10) for _ in TIMES] for _ in range(200)]

    assert sum(trend_of(TIMES, window).lower > 0 for window in windows) <= 6


@pytest.mark.parametrize(
    ("values", "rise"),
    [
        ([1, 9, 9, 2, 9, 9, 3, 9, 9], True),
        ([1, 9, 9, 1, 9, 9, 3, 9, 9], False),
        ([3, 9, 9, 4, 9, 9, 2, 99, 999], False),
    ],
)
def test_floors_rise_when_the_lowest_of_each_third_does(values: list[float], rise: bool) -> None:  # noqa: FBT001 - a table
    """Peaks say nothing: what comes back to where it was is no leak."""
    assert floors_rise(values) is rise


def test_drift_tells_a_leak_from_a_wander() -> None:
    """A walk in one direction gets further than the same steps in either."""
    random = Random(11)
    steps = [random.randrange(10) for _ in range(29)]
    walk = [sum(steps[:end]) for end in range(30)]
    wander = [sum(step * random.choice((-1, 1)) for step in steps[:end]) for end in range(30)]

    assert drift_of(walk) > 5
    assert drift_of(wander) < 5


@pytest.mark.parametrize(
    ("values", "drift"),
    [([], 0.0), ([1, 5], 0.0), ([4, 4, 4], 0.0), ([1, 2, 3], inf), ([3, 2, 1], -inf)],
)
def test_drift_of_even_steps_is_certain(values: list[float], drift: float) -> None:
    """Without any spread; and of too few there is none to speak of."""
    assert drift_of(values) == drift
