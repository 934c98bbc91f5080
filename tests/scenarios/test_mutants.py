"""Mutants of the reference: every one is killed, unless it is equivalent."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from muxleak_scenarios import PROPERTIES, Sequence, load_pairs, run_sequence
from muxleak_scenarios.pairs.mutants import (
    EQUIVALENT,
    NOTHING,
    OPPOSITE,
    QUESTIONS,
    TWICE,
    Mutant,
    MutantResult,
    all_mutants,
    minimal_sequences,
    mutant_sequences,
    run_mutant,
)
from muxleak_vless import Lifecycle

if TYPE_CHECKING:
    from muxleak_vless import MuxSession

MUTANTS = all_mutants()
LABELS = {(each.question, each.label) for each in MUTANTS}


def test_mutants_cover_every_question() -> None:
    """Each question has at least one mutant; each pair's buggy variant is one."""
    assert {each.question for each in MUTANTS} == set(QUESTIONS)
    assert len(LABELS) == len(MUTANTS)
    assert {(pair.facts.question, slug) for slug, pair in load_pairs().items()} <= LABELS


def test_mutants_change_one_question_each() -> None:
    """The methods of all other questions are the reference's."""
    for each in MUTANTS:
        differing = [
            name
            for name in QUESTIONS
            if getattr(each.lifecycle, name) is not getattr(Lifecycle, name)
        ]
        assert differing == [each.question]


def test_mutants_do_what_the_type_of_the_question_allows() -> None:
    """Nothing, twice, the opposite and constants, by type; none that exists already."""
    made = {label for question, label in LABELS if question == "may_clean_up"}
    assert made == {"cleanup_runs_twice", "returns False", OPPOSITE}

    assert ("watched_context", "returns None") in LABELS
    assert ("release", NOTHING) in LABELS
    assert ("release", TWICE) in LABELS
    # The reference's own, and buggy variants that are mechanical themselves.
    assert ("malformed", NOTHING) not in LABELS
    assert ("malformed", TWICE) not in LABELS
    assert ("tolerates", "returns True") not in LABELS
    assert ("end_link", NOTHING) not in LABELS
    assert ("full", "returns False") not in LABELS


def test_equivalent_mutants_exist() -> None:
    """The list names mutants that exist, each with a reason."""
    assert set(EQUIVALENT) <= LABELS
    assert all(EQUIVALENT.values())


@pytest.mark.parametrize(
    ("question", "label", "line", "caught"),
    [
        ("unknown", NOTHING, "a:open a:data:9+5 a:close", ("answers",)),
        ("unknown", TWICE, "a:open a:data:9+5 a:close", ("data",)),
        ("deliver", TWICE, "a:open a:new:1:echo+5 a:close", ("data",)),
        ("full", OPPOSITE, "a:open a:new:1:echo a:close", ("data",)),
        ("owns", "returns False", "a:open a:new:1:echo a:end:1 a:close", ("answers",)),
    ],
)
def test_mutant_is_killed_by_the_shortest_sequence(
    question: str, label: str, line: str, caught: tuple[str, ...]
) -> None:
    """Mechanical mutants do as their label says."""
    (mutant,) = (each for each in MUTANTS if (each.question, each.label) == (question, label))

    assert run_sequence(Sequence.parse(line), mutant.lifecycle()).violated == caught


def test_run_mutant_counts_sequences_by_property() -> None:
    """One for each sequence that violates it; the reference has none."""
    close = Sequence.parse("a:open a:close")
    (mutant,) = (each for each in MUTANTS if each.label == "cleanup_runs_twice")

    assert run_mutant(mutant, [close, close]).counts == {"cleanup": 2}
    assert run_mutant(Mutant("admit", "the same", Lifecycle), [close]).counts == {}


def test_result_holds_exactly_if_killed_or_equivalent() -> None:
    """A survivor is a hole in the properties; an equivalent mutant must survive."""
    wrong = Mutant("release", NOTHING, Lifecycle)
    same = Mutant("release", TWICE, Lifecycle)
    counted = Counter(tasks=1)
    held = [
        MutantResult(wrong, counted).holds,
        MutantResult(wrong).holds,
        MutantResult(same).holds,
        MutantResult(same, counted).holds,
    ]

    assert held == [True, False, True, False]
    assert MutantResult(wrong, counted).to_json()["noticed"] == {"tasks": 1}
    assert MutantResult(same).to_json()["equivalent"] == EQUIVALENT["release", TWICE]


def test_sequences_begin_with_the_minimal_sequences() -> None:
    """Of pairs and wrong fixes, each once; then as many random ones as are asked for."""
    known = minimal_sequences()
    lines = {str(each) for each in known}
    subjects = mutant_sequences(3, 0)

    assert len(lines) == len(known)
    for pair in load_pairs().values():
        assert {pair.facts.minimal, *(each.facts.minimal for each in pair.wrong)} <= lines
    assert subjects[: len(known)] == known
    assert len(subjects) == len(known) + 3
    assert mutant_sequences(3, 1) != subjects


def test_a_hole_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the only property that kills a mutant, the mutant survives."""
    (mutant,) = (each for each in MUTANTS if each.label == "handler_must_close")
    subjects = [pair.minimal for pair in load_pairs().values()]
    assert run_mutant(mutant, subjects).holds

    monkeypatch.setattr("muxleak_scenarios.sequence.model.ConnectionModel.unanswered", "")
    assert not run_mutant(mutant, subjects).holds


def test_a_reference_that_is_not_idempotent_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Acting twice is then no longer equivalent to acting once."""

    def forgetful(_self: Lifecycle, session: MuxSession) -> bool:
        del session
        return True

    monkeypatch.setattr(Lifecycle, "may_clean_up", forgetful)
    monkeypatch.setattr(Lifecycle, "watched_context", lambda *_: None)
    close = Sequence.parse("a:open a:close")
    (mutant,) = (
        each for each in MUTANTS if (each.question, each.label) == ("receive_ended", TWICE)
    )

    assert run_sequence(close, Lifecycle()).violated == ()
    assert not run_mutant(mutant, [close]).holds


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda each: f"{each.question}-{each.label}")
def test_every_mutant_is_killed_or_equivalent(mutant: Mutant) -> None:
    """At least one property is violated, or none if the mutant is equivalent."""
    result = run_mutant(mutant, mutant_sequences(100, 0))

    assert set(result.counts) <= set(PROPERTIES)
    assert result.holds, f"{mutant.question}: {mutant.label}: {dict(result.counts)}"
