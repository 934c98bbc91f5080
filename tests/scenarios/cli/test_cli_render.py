"""Rendering: JSON that reads well, bars, plain text when piped, results in words."""

import io
import json
import re
import sys
from itertools import pairwise
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from muxleak_scenarios import Sequence, SequenceOutcome, Violation
from muxleak_scenarios.cli import render
from muxleak_scenarios.sequence import describe
from muxleak_scenarios.sequence import steps as vocabulary

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=20,
)


@given(JSON)
@settings(max_examples=20)
def test_json_text_is_the_same_data(data: object) -> None:
    """Whatever is printed is read back as it was."""
    assert json.loads(render.json_text(data)) == data


def test_json_text_keeps_short_lists_on_one_line() -> None:
    """Points of a curve stand side by side, members of an object one below the other."""
    data = {"growth": {"buggy": [[1, 1], [10, 10]]}, "symptom": "x" * 60}

    assert render.json_text(data).splitlines() == [
        "{",
        '  "growth": {"buggy": [[1, 1], [10, 10]]},',
        f'  "symptom": "{"x" * 60}"',
        "}",
    ]


def test_stdout_piped_has_no_colour_and_no_trailing_space(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes into a file is the text alone, 80 columns wide."""
    monkeypatch.delenv("COLUMNS", raising=False)
    console = render.stdout()
    render.heading(console, "Head", "note")
    render.body(console, render.facts({"name": ["one", "two"], "other": "word " * 30}))

    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert [line for line in text.splitlines() if line != line.rstrip() or len(line) > 80] == []
    assert "  name   one\n         two\n" in text


def test_stdout_survives_an_encoding_that_has_no_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a stream of plain ASCII, bars are drawn in ASCII and the rest is replaced."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    console = render.stdout()
    console.print(render.chart(console, ("n", "buggy", "fixed"), [(1, 1, 0)]))
    console.print("1≠2")

    assert b"1 ####" in raw.getvalue()
    assert b"1?2" in raw.getvalue()


def test_chart_grows_with_the_digits_and_leaves_zero_empty() -> None:
    """Ten times as many is one step more; nothing is no bar at all."""
    console = Console(width=80, file=io.StringIO(), legacy_windows=False)
    rows = [(10**n, 10**n, 0) for n in range(4)]
    console.print(render.chart(console, ("n", "buggy", "fixed"), rows))

    output = console.file.getvalue()  # type: ignore[attr-defined] # the StringIO above
    bars = [line.count("█") for line in output.splitlines()[1:]]
    steps = [after - before for before, after in pairwise(bars)]
    assert bars[0] > 0
    assert max(steps) - min(steps) <= 1
    assert max(map(len, output.splitlines())) <= 80


def test_progress_is_silent_when_piped(capsys: pytest.CaptureFixture[str]) -> None:
    """Where stderr is no terminal, progress writes nothing anywhere."""
    with render.progress(2) as steps:
        steps.say("works")
        steps.advance()
        steps.follow(2)
        with steps.aside():
            pass

    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("columns", [30, 40, 60, 80])
def test_progress_has_room_for_its_text(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar is left out where the beginning of the text would not fit beside it."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys, "stderr", written := io.StringIO())
    with render.progress(100) as steps:
        steps.follow(50)
        steps.say("1,234 connections")

    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.getvalue())
    assert " 50% 1,234 connections" in text
    assert max(map(len, re.split(r"[\r\n]", text))) <= columns


@pytest.mark.parametrize("columns", [20, 40, 60])
def test_rows_keep_their_columns_and_stay_within_the_console(columns: int) -> None:
    """A cell that is too wide is wrapped in its column; empty cells take no line of their own."""
    console = Console(width=columns, file=io.StringIO(), color_system=None)
    rows = render.Rows(console, [render.Column(14), render.Column(8), render.Column(9, "right")])
    rows.head("name", "kind", "count")
    rows.print("one", "tasks, timers", "1")
    rows.print("another", "", "1,234,567")
    rows.print("third")
    lines = cast("io.StringIO", console.file).getvalue().splitlines()

    assert all(len(line.rstrip()) <= columns for line in lines)
    ends = {len(line.rstrip()) for line in lines if line.rstrip().endswith(("count", "1", "567"))}
    assert len(ends) == 1
    assert {line.index("tim") for line in lines if "tim" in line} == {
        line.index("tas") for line in lines if "tas" in line
    }
    assert lines[-1].strip() == "third"


def test_words_exist_for_every_verb() -> None:
    """No step of the vocabulary is shown without its meaning."""
    verbs = vocabulary.PLAIN | vocabulary.ENDINGS | vocabulary.ON_STREAM | vocabulary.OPENING
    missing = [
        verb
        for verb in sorted({*verbs, *vocabulary.OPERATOR, "bad", "junk", "cut"})
        if describe.step_in_words(vocabulary.Step(verb)) == verb
    ]

    assert missing == []


def test_words_tell_what_happens_before_the_next_step() -> None:
    """A gap is part of a step's meaning."""
    line = Sequence.parse("a:open a:new:1:@echo+5~2 cancel~0")

    assert [describe.step_in_words(step) for step in line] == [
        "client a connects and sends a request header with the mux command",
        (
            "client a opens stream 1, served by a destination of the kind 'echo';"
            " 2 loop iterations later:"
        ),
        "the server's context ends, as in a reload; in the same instant:",
    ]


def violated(*names: str) -> list[Violation]:
    """Violations of these properties."""
    return [Violation(name, "a", "") for name in names]


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (SequenceOutcome(connections=1, cleanups=1), "clean"),
        (
            SequenceOutcome(violated("tasks"), 1, left=1, cleanups=2),
            "leaks 1 until the server ends",
        ),
        (SequenceOutcome(violated("tasks"), 1, left=1, left_after_end=1), "leaks 1 for ever"),
        (SequenceOutcome(violated("tasks"), 1, left=2, left_after_end=1), "leaks 2, 1 for ever"),
        (SequenceOutcome(violated("tasks"), 1), "leaks until a later step"),
        (SequenceOutcome(violated("cleanup"), 1, cleanups=2), "cleanup runs twice"),
        (SequenceOutcome(violated("cleanup"), 1, cleanups=0), "never cleans up"),
        (SequenceOutcome(violated("cleanup"), 2, cleanups=3), "3 cleanups of 2 connections"),
        (SequenceOutcome(violated("data"), 1, cleanups=1), "breaks 'data'"),
    ],
)
def test_words_tell_what_a_version_left(outcome: SequenceOutcome, expected: str) -> None:
    """Verdicts are short, and tell a leak that ends with the server from one that stays."""
    assert describe.outcome_in_words(outcome) == expected
