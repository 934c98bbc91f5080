"""`check_sequence`: the text of its error, and the command in a failing Hypothesis test."""

import re
import shlex
from collections.abc import Callable
from functools import partial

import pytest
from click.testing import CliRunner
from hypothesis import Phase, given, settings

from muxleak_scenarios import (
    Sequence,
    SimTarget,
    Target,
    TcpTarget,
    ViolationError,
    check_sequence,
    find_pair,
    sequences,
)
from muxleak_scenarios.cli import cli
from muxleak_scenarios.pairs.check import how_to_replay
from muxleak_scenarios.pairs.registry import FLAGSHIP
from muxleak_vless import Lifecycle
from muxleak_vless.versions import VERSIONS
from pairs import SOME_SLUGS

CLOSE = Sequence.parse("a:open a:close")


class Another(Lifecycle):
    """A life cycle that no command names."""


def test_check_returns_what_a_clean_sequence_did() -> None:
    """The reference violates nothing."""
    assert check_sequence(CLOSE, Lifecycle).connections == 1


def test_check_raises_what_was_violated() -> None:
    """The error names the property, the connection, the leak and the command."""
    with pytest.raises(ViolationError) as caught:
        check_sequence(CLOSE, VERSIONS["V1"])

    text = str(caught.value)
    assert "violated: tasks: after every close, the tasks of the connection are gone" in text
    assert "  connection a: expected 0 alive after its close, got 1" in text
    assert "1 x MuxSession._watch" in text
    assert caught.value.outcome.violated == ("tasks",)
    assert caught.value.__notes__ == ["replay with: muxleak replay 'V1 a:open a:close'"]


@pytest.mark.parametrize(
    ("lifecycle", "target", "command"),
    [
        (VERSIONS["P-C"], SimTarget, "muxleak replay 'P-C a:open a:close'"),
        (VERSIONS["V2"], TcpTarget, "muxleak replay --target tcp 'V2 a:open a:close'"),
        (
            find_pair(FLAGSHIP).buggy,
            SimTarget,
            f"muxleak replay '{FLAGSHIP}/buggy a:open a:close'",
        ),
        (
            find_pair(FLAGSHIP).fixed,
            SimTarget,
            f"muxleak replay '{FLAGSHIP}/fixed a:open a:close'",
        ),
        (Lifecycle, SimTarget, "muxleak replay 'REF a:open a:close'"),
        (
            Another,
            SimTarget,
            "muxleak_scenarios.check_sequence(Sequence.parse('a:open a:close'), ...)",
        ),
        (
            Lifecycle,
            partial(SimTarget),
            "muxleak_scenarios.check_sequence(Sequence.parse('a:open a:close'), ...)",
        ),
    ],
)
def test_check_names_server_and_target(
    lifecycle: type[Lifecycle], target: Callable[[Lifecycle], Target], command: str
) -> None:
    """The command that does the same, or else the call."""
    assert how_to_replay(CLOSE, lifecycle, target) == command


@pytest.mark.slow
@pytest.mark.parametrize("slug", SOME_SLUGS)
def test_check_in_a_failing_test_prints_the_command(slug: str) -> None:
    """The note names the shrunk sequence, and its command finds the same violation."""
    pair = find_pair(slug)

    @settings(
        database=None,
        derandomize=True,
        deadline=None,
        max_examples=3_000,
        phases=[Phase.generate, Phase.shrink],
    )
    @given(sequences())
    def hold(sequence: Sequence) -> None:
        check_sequence(sequence, pair.buggy)

    with pytest.raises(ViolationError) as caught:
        hold()
    notes = [each for each in caught.value.__notes__ if each.startswith("replay with: ")]
    assert len(notes) == 1
    _, command, line = shlex.split(notes[0].removeprefix("replay with: "))
    assert re.match(rf"{slug}/buggy [a-z]:", line)
    assert len(line.split()) - 1 <= len(pair.minimal)
    assert re.search(r"hold\(\n", "\n".join(caught.value.__notes__))
    again = CliRunner().invoke(cli, [command, line])
    assert again.exit_code == 1
    assert all(f"violated: {each}" in again.stdout for each in caught.value.outcome.violated)
