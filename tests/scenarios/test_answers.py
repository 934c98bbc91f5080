"""Answers by properties: every other answer is noticed, unless it amounts to the reference's."""

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
    Answer,
    Noticed,
    notice,
    other_answers,
    sequences,
    witnesses,
)
from muxleak_vless import Lifecycle

if TYPE_CHECKING:
    from muxleak_vless import MuxSession

ANSWERS = other_answers()
LABELS = {(each.question, each.label) for each in ANSWERS}


def test_answers_cover_every_question() -> None:
    """Each question has at least one other answer; each pair's buggy variant is one."""
    assert {each.question for each in ANSWERS} == set(QUESTIONS)
    assert len(LABELS) == len(ANSWERS)
    assert {(pair.facts.question, slug) for slug, pair in load_pairs().items()} <= LABELS


def test_answers_change_one_question_each() -> None:
    """All others are the reference's."""
    for each in ANSWERS:
        differing = [
            name
            for name in QUESTIONS
            if getattr(each.lifecycle, name) is not getattr(Lifecycle, name)
        ]
        assert differing == [each.question]


def test_answers_are_what_the_question_can_be_answered_with() -> None:
    """Nothing, twice, the opposite and constants, by type; none that stands there already."""
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


def test_answers_that_are_equivalent_exist() -> None:
    """The list names answers that there are, each with a reason."""
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
def test_answer_is_noticed_on_the_shortest_sequence(
    question: str, label: str, line: str, caught: tuple[str, ...]
) -> None:
    """Mechanical answers do what they are called."""
    (answer,) = (each for each in ANSWERS if (each.question, each.label) == (question, label))

    assert run_sequence(Sequence.parse(line), answer.lifecycle()).violated == caught


def test_notice_counts_sequences_by_property() -> None:
    """One for each sequence that violates it; the reference has none."""
    close = Sequence.parse("a:open a:close")
    (answer,) = (each for each in ANSWERS if each.label == "cleanup_runs_twice")

    assert notice(answer, [close, close]).counts == {"cleanup": 2}
    assert notice(Answer("admit", "the same", Lifecycle), [close]).counts == {}


def test_noticed_holds_exactly_if_it_should() -> None:
    """One that is not noticed is a hole; one that equals the reference's must not be noticed."""
    wrong = Answer("release", NOTHING, Lifecycle)
    same = Answer("release", TWICE, Lifecycle)
    counted = Counter(tasks=1)
    verdicts = [
        Noticed(wrong, counted).holds,
        Noticed(wrong).holds,
        Noticed(same).holds,
        Noticed(same, counted).holds,
    ]

    assert verdicts == [True, False, True, False]
    assert Noticed(wrong, counted).to_json()["noticed"] == {"tasks": 1}
    assert Noticed(same).to_json()["equivalent"] == EQUIVALENT["release", TWICE]


def test_sequences_begin_with_the_witnesses() -> None:
    """Of pairs and wrong fixes, each once; then as many random ones as are asked for."""
    known = witnesses()
    lines = {str(each) for each in known}
    subjects = sequences(3, 0)

    assert len(lines) == len(known)
    for pair in load_pairs().values():
        assert {pair.facts.minimal, *(each.facts.minimal for each in pair.wrong)} <= lines
    assert subjects[: len(known)] == known
    assert len(subjects) == len(known) + 3
    assert sequences(3, 1) != subjects


def test_a_hole_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the property that alone notices an answer, it comes out as unnoticed."""
    (answer,) = (each for each in ANSWERS if each.label == "handler_must_close")
    subjects = [pair.minimal for pair in load_pairs().values()]
    assert notice(answer, subjects).holds

    monkeypatch.setattr("muxleak_scenarios.sequence.model.ConnectionModel.unanswered", "")
    assert not notice(answer, subjects).holds


def test_a_reference_that_is_not_idempotent_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Doing it twice is then no longer the same as doing it once."""

    def forgetful(_self: Lifecycle, session: MuxSession) -> bool:
        del session
        return True

    monkeypatch.setattr(Lifecycle, "may_clean_up", forgetful)
    monkeypatch.setattr(Lifecycle, "watched_context", lambda *_: None)
    close = Sequence.parse("a:open a:close")
    (answer,) = (
        each for each in ANSWERS if (each.question, each.label) == ("receive_ended", TWICE)
    )

    assert run_sequence(close, Lifecycle()).violated == ()
    assert not notice(answer, [close]).holds


@pytest.mark.slow
@pytest.mark.parametrize("answer", ANSWERS, ids=lambda each: f"{each.question}-{each.label}")
def test_every_other_answer_is_noticed(answer: Answer) -> None:
    """By at least one property, or never if it amounts to the reference's."""
    noticed = notice(answer, sequences(100, 0))

    assert set(noticed.counts) <= set(PROPERTIES)
    assert noticed.holds, f"{answer.question}: {answer.label}: {dict(noticed.counts)}"
