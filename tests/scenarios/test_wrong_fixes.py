"""Wrong fixes: each repaired its pair's bug and broke something else, and that is found."""

from __future__ import annotations

from dataclasses import replace

import pytest

from muxleak_scenarios import PROPERTIES, Pair, Sequence, TcpTarget, load_pairs, run_sequence
from muxleak_scenarios.pairs.check import how_to_replay
from muxleak_scenarios.pairs.registry import FLAGSHIP, WrongVariant
from muxleak_scenarios.pairs.replay import SequenceReplay
from muxleak_scenarios.pairs.verify import verify_wrong
from muxleak_vless.versions import VERSIONS

PAIR = load_pairs()[FLAGSHIP]
CASES = [(pair, wrong) for pair in load_pairs().values() for wrong in pair.wrong]
WRONG = pytest.mark.parametrize(
    ("pair", "wrong"), CASES, ids=[f"{pair.slug}-{wrong.name}" for pair, wrong in CASES]
)
(DEFERRED,) = (each for each in PAIR.wrong if each.name == "wrong_deferred_cancel")
VERSION_OF = {
    "wrong_cleanup_in_watcher": "V2",
    "wrong_deferred_cancel": "P-B",
    "wrong_no_watcher": "P-A",
}


@WRONG
def test_wrong_fix_repairs_what_the_buggy_variant_breaks(pair: Pair, wrong: WrongVariant) -> None:
    """On the pair's minimal sequence, where the buggy variant is caught and it is not."""
    buggy = run_sequence(pair.minimal, pair.buggy()).violated

    assert set(buggy) >= set(pair.facts.fails)
    assert not set(run_sequence(pair.minimal, wrong.lifecycle()).violated) & set(pair.facts.fails)


@WRONG
def test_wrong_fix_is_caught_by_its_own_minimal_sequence(pair: Pair, wrong: WrongVariant) -> None:
    """It breaks the claimed properties, simulated and over TCP, and the fixed variant none."""
    outcome = run_sequence(wrong.minimal, wrong.lifecycle())

    assert outcome.violated == run_sequence(wrong.minimal, wrong.lifecycle(), TcpTarget).violated
    assert outcome.violated == wrong.facts.fails
    assert run_sequence(wrong.minimal, pair.fixed()).violated == ()
    assert set(wrong.facts.fails) <= set(PROPERTIES)


@WRONG
def test_wrong_fix_minimal_sequence_is_needed_whole(pair: Pair, wrong: WrongVariant) -> None:
    """It is canonical, and without any one of its steps but the last close it shows nothing."""
    minimal = wrong.minimal
    assert str(minimal.canonical()) == str(minimal) == wrong.facts.minimal

    for at in range(1, len(minimal) - 1):
        shorter = Sequence(minimal[:at] + minimal[at + 1 :])
        assert run_sequence(shorter, wrong.lifecycle()).violated == ()
    assert wrong.facts.title != pair.facts.title
    assert wrong.facts.references


@WRONG
def test_wrong_fix_gives_the_answers_of_its_version(pair: Pair, wrong: WrongVariant) -> None:
    """Each question that it answers is answered as in the version that it stands for."""
    assert pair is PAIR
    version = VERSIONS[VERSION_OF[wrong.name]]

    for question in wrong.questions:
        assert getattr(wrong.lifecycle, question) is getattr(version, question)


@WRONG
def test_wrong_fix_is_named_by_replay_lines(pair: Pair, wrong: WrongVariant) -> None:
    """The line that names it runs it, and errors of `check_sequence` give that line."""
    line = f"{pair.slug}/{wrong.name} {wrong.minimal}"
    replay = SequenceReplay.parse(line)

    assert str(replay) == line
    assert replay.lifecycle is wrong.lifecycle
    assert line in how_to_replay(wrong.minimal, wrong.lifecycle)


@pytest.mark.slow
@WRONG
def test_verify_wrong_holds(pair: Pair, wrong: WrongVariant) -> None:
    """All claims, the search's too."""
    verdict = verify_wrong(pair, wrong)

    assert verdict.broken == []
    assert verdict.buggy == wrong.facts.fails
    assert verdict.found is not None
    assert verdict.to_json()["pair"] == f"{pair.slug}/{wrong.name}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        pytest.param(
            replace(DEFERRED, lifecycle=PAIR.buggy),
            [
                "repaired",
                "repaired",
                "minimal sequence in SimTarget",
                "minimal sequence in TcpTarget",
                "search",
            ],
            id="repairs nothing",
        ),
        pytest.param(
            replace(DEFERRED, lifecycle=PAIR.fixed),
            ["minimal sequence in SimTarget", "minimal sequence in TcpTarget", "search"],
            id="breaks nothing",
        ),
        pytest.param(
            replace(DEFERRED, facts=replace(DEFERRED.facts, fails=("shutdown",))),
            ["minimal sequence in SimTarget", "minimal sequence in TcpTarget", "search"],
            id="breaks another property",
        ),
        pytest.param(
            replace(DEFERRED, facts=replace(DEFERRED.facts, fails=("tasks",))),
            ["facts", "minimal sequence in SimTarget", "minimal sequence in TcpTarget", "search"],
            id="breaks what the buggy variant breaks",
        ),
    ],
)
def test_verify_wrong_finds_a_wrong_claim(
    monkeypatch: pytest.MonkeyPatch, wrong: WrongVariant, expected: list[str]
) -> None:
    """A wrong fact is found."""
    monkeypatch.setattr("muxleak_scenarios.pairs.verify.SEARCH_EXAMPLES", 50)
    broken = verify_wrong(PAIR, wrong).broken

    assert [line.partition(":")[0] for line in broken] == expected
