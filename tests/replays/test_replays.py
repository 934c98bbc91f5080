"""Every line of every replay file beside this one; files of `muxleak fuzz` can be added."""

from pathlib import Path

import pytest

from muxleak.sim import Replay
from muxleak_scenarios import load_pairs
from muxleak_scenarios.pairs.replay import (
    ReplayLine,
    SequenceReplay,
    expectation,
    read_lines,
    recorded_subject,
)

FOUND = sorted(Path(__file__).parent.glob("*.sim.json"))
FILES = sorted(Path(__file__).parent.glob("*.seq"))
LINES = [
    pytest.param(line, id=f"{path.stem}:{line.number}")
    for path in FILES
    for line in read_lines(path.read_text("utf-8"))
]


@pytest.mark.parametrize("line", LINES)
def test_replay_does_what_its_line_expects(line: ReplayLine) -> None:
    """The run violates the properties that the line names, and no others."""
    assert expectation(SequenceReplay.parse(line.text).run()) == line.expected


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_replay_file_does_what_it_says(path: Path) -> None:
    """The run fails as the recorded one did."""
    found = Replay.load(path)

    assert recorded_subject(found).repeat(found).verdict == found.verdict


@pytest.mark.parametrize("path", FILES + FOUND, ids=lambda path: path.stem)
def test_replay_file_is_small(path: Path) -> None:
    """A file fits a report."""
    assert path.stat().st_size <= 4096


def test_replays_hold_every_pair() -> None:
    """Each pair has a file with both of its variants, and its wrong fixes."""
    variants = {
        path.stem: {
            SequenceReplay.parse(line.text).variant for line in read_lines(path.read_text("utf-8"))
        }
        for path in FILES
    }

    for slug, pair in load_pairs().items():
        assert variants.get(slug) == set(pair.variants), slug


def test_read_lines_takes_expectations_from_the_line_itself() -> None:
    """Other comments, and lines of nothing else, say nothing."""
    text = "# expect: clean\n\nREF a:open # quite\nV1 a:open a:close  # expect: violated tasks\n"

    assert [*read_lines(text)] == [
        (3, "REF a:open", ""),
        (4, "V1 a:open a:close", "violated tasks"),
    ]
