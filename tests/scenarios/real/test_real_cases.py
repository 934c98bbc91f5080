"""Tests of the cases of real proxies: one notation for them, their twins and the hunt."""

from fractions import Fraction
from itertools import groupby
from operator import attrgetter

import pytest
from click.testing import CliRunner

from muxleak_scenarios.cli import cli
from muxleak_scenarios.cli.hunt import read_sequence as hunted
from muxleak_scenarios.pairs.replay import SequenceReplay
from muxleak_scenarios.real.cases import CASES, Case, Left, cuts, for_release, left
from muxleak_scenarios.sequence.decoder import SIZES
from muxleak_scenarios.sequence.steps import Sequence

every_case = pytest.mark.parametrize("case", CASES, ids=attrgetter("name"))


def replay(line: str) -> int:
    """Return the exit code of the command."""
    return CliRunner().invoke(cli, ["replay", line]).exit_code


@every_case
def test_case_replays_in_the_simulation(case: Case) -> None:
    """The buggy variant leaks where the twin is claimed to, and the fixed one never."""
    line = str(case.replay)
    assert line.startswith(f"{case.pair}/buggy a:open ")

    assert replay(line) == any(case.twin)
    assert replay(line.replace("/buggy", "/fixed")) == 0


@every_case
def test_case_is_a_sequence_for_the_hunt(case: Case) -> None:
    """``muxleak hunt --replay`` takes the line as it is, and nothing is open at its end."""
    assert str(hunted(case.line)) == case.line
    assert case.sequence.canonical() == case.sequence


@every_case
def test_case_differs_in_the_simulation_only_where_that_has_a_limit(case: Case) -> None:
    """Only the lines of a destination that never reads differ."""
    same = case.replay.sequence == case.sequence
    blocked = sum(step.size for step in case.sequence) > max(SIZES) and "@deaf" in case.line

    assert same != blocked
    assert str(case.replay.sequence) == (
        case.line.replace("@deaf", "deaf") if blocked else case.line
    )


def test_control_claims_no_growth() -> None:
    """Every other case claims a leak of both, and each pair has cases of either kind."""
    assert all(any(case.real) == any(case.twin) for case in CASES)
    for pair, group in groupby(CASES, attrgetter("pair")):
        assert {case.control for case in group} == {True, False}, pair


def test_cases_of_a_pair_are_neighbours() -> None:
    """Neighbours of one pair share servers."""
    groups = [pair for pair, _ in groupby(CASES, attrgetter("pair"))]

    assert len(groups) == len(set(groups))


@pytest.mark.parametrize(
    ("figures", "shown"),
    [
        (left(2, 1, 1, 1), "2+1, 1+1"),
        (left(1, 1, 0, 0), "1+1, 0+0"),
        (left(0, 0, 0, 0), "0"),
        (Left(Fraction(21, 20), Fraction(1), Fraction(-1, 3)), "1.05+1, -0.33+0"),
    ],
)
def test_left_shows_fractions_as_such(figures: Left, shown: str) -> None:
    """A fraction is not rounded to a whole number."""
    assert str(figures) == shown


def test_blocked_destination_needs_no_more_than_is_sent() -> None:
    """In the simulation a handler that never reads blocks the receive loop by itself."""
    last = CASES[-1]
    assert last.control

    outcome = SequenceReplay(
        last.pair, "buggy", Sequence.parse(last.line.replace("@deaf", "deaf"))
    ).run()
    assert "tasks" in outcome.violated


@pytest.mark.parametrize(
    ("version", "cut"),
    [
        *(("1.12.10", False), ("1.13.0", True), ("1.13.21", True), ("1.14.0-beta.1", True)),
        *(("1.14.1", True), ("1.14.2", False), ("1.14.4", False), ("1.15.0", False)),
        ("unknown", False),
    ],
)
def test_release_that_cuts_streams_leaves_nothing_for_end(version: str, *, cut: bool) -> None:
    """The other claims are the same for every release."""
    claimed = for_release(CASES, version)

    assert cuts(version) is cut
    differ = [one.pair for one, other in zip(CASES, claimed, strict=True) if one != other]
    assert differ == ["end_forgets_stream"] * (2 * cut)
    assert all(case.control for case in claimed if case.pair in differ)
