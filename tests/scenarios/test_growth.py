"""Growth over loopback TCP: the buggy variant leaves a task for each repetition, the fixed none."""

from collections.abc import Iterable

import pytest

from muxleak_scenarios import Pair, load_pairs
from muxleak_scenarios.pairs.growth import grow, measure
from muxleak_scenarios.pairs.registry import FLAGSHIP


def params(pairs: Iterable[Pair]) -> pytest.MarkDecorator:
    """Parametrize by pairs whose minimal sequence has no ``wait``, which takes seconds."""
    some = [pair for pair in pairs if "wait" not in pair.facts.minimal.split()]
    return pytest.mark.parametrize("pair", some, ids=[pair.slug for pair in some])


ALL = params(load_pairs().values())
PAIRS = params(pair for pair in load_pairs().values() if "tasks" in pair.facts.fails)
FLAG = load_pairs()[FLAGSHIP]


@pytest.mark.slow
@PAIRS
def test_growth_of_the_buggy_variant_is_one_for_each_connection(pair: Pair) -> None:
    """After n closed connections exactly n times as much is left, in as many groups."""
    one, ten = grow(pair.minimal, pair.buggy, (1, 10))

    assert (one.closed, ten.closed) == (1, 10)
    assert ten.tasks == 10 * one.tasks > 0
    assert [group.count for group in ten.report.groups] == [
        10 * group.count for group in one.report.groups
    ]


@ALL
def test_growth_of_the_fixed_variant_is_none(pair: Pair) -> None:
    """Nothing is left, and no connection is counted as open."""
    points = grow(pair.minimal, pair.fixed, (1, 10))

    assert [(point.closed, point.tasks, point.counted_open) for point in points] == [
        (1, 0, 0),
        (10, 0, 0),
    ]
    assert not points[1].report


def test_growth_is_measured_from_the_server_without_connections() -> None:
    """No connection, no growth: the server's own tasks are not counted."""
    assert measure(FLAG.minimal, FLAG.buggy(), 0).tasks == 0


def test_growth_counts_cleanups_that_ran_twice() -> None:
    """The count of open connections falls below zero by one for each."""
    pair = load_pairs()["cleanup_runs_twice"]
    growth = measure(pair.minimal, pair.buggy(), 10)

    assert (growth.tasks, growth.counted_open) == (0, -10)


def test_growth_tells_of_each_time() -> None:
    """`progress` is called once for every repetition."""
    seen: list[None] = []
    measure(FLAG.minimal, FLAG.fixed(), 5, lambda: seen.append(None))

    assert len(seen) == 5
