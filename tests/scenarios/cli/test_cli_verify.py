"""``muxleak verify``: claims, verdicts, and the table of versions."""

import json
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from muxleak_scenarios import PROPERTIES, Sequence, find_pair, load_pairs
from muxleak_scenarios.cli import answers, cli, verify
from muxleak_scenarios.pairs.go_comparison import ENDINGS, VersionRow
from muxleak_scenarios.pairs.mutants import Mutant, all_mutants
from muxleak_scenarios.pairs.negative_controls import CONTROLS, Trial
from muxleak_scenarios.pairs.verify import Verdict
from muxleak_vless.bugs.watcher_outlives_connection.buggy import WatchedContext
from muxleak_vless.lifecycle import Lifecycle
from muxleak_vless.versions import VERSIONS

FLAGSHIP = "watcher_outlives_connection"


def invoke(*words: str) -> Result:
    """Run the program in this process, at 80 columns."""
    return CliRunner().invoke(cli, words, env={"COLUMNS": "80"})


@pytest.fixture
def verdicts(monkeypatch: pytest.MonkeyPatch) -> dict[str, Verdict]:
    """Verdicts that the command hands out instead of proving anything; tests may break them."""
    made = {slug: Verdict(slug, ("tasks",), connections=1234) for slug in load_pairs()}
    for pair in load_pairs().values():
        slugs = [f"{pair.slug}/{wrong.name}" for wrong in pair.wrong]
        made |= {slug: Verdict(slug, ("cleanup",)) for slug in slugs}
    monkeypatch.setattr(verify, "verify", lambda pair, **_: made[pair.slug])
    monkeypatch.setattr(
        verify, "verify_wrong", lambda pair, wrong, **_: made[f"{pair.slug}/{wrong.name}"]
    )
    monkeypatch.setattr(verify, "reference_holds", lambda **_: [])
    monkeypatch.setattr(verify, "try_control", lambda name, **_: Trial(name, connections=1234))
    return made


def test_verify_prints_a_line_for_every_pair(verdicts: dict[str, Verdict]) -> None:
    """And for each wrong fix, the reference, each control, all; exit code 0 when it holds."""
    result = invoke("verify")
    lines = [line.split() for line in result.stdout.splitlines()]
    variants = [
        name
        for pair in load_pairs().values()
        for name in (pair.slug, *(f"/{wrong.name}" for wrong in pair.wrong))
    ]

    assert result.exit_code == 0
    assert len(variants) == len(verdicts)
    assert [words[1] for words in lines if words and words[0] == "ok"] == [
        *(*variants, "the", *CONTROLS, str(len(load_pairs()))),
    ]
    wrong = len(verdicts) - len(load_pairs())
    summary = f"{len(load_pairs())} pairs, {wrong} wrong fixes, the reference, {len(CONTROLS)} "
    assert result.stdout.endswith(f"ok  {summary}controls: every claim holds\n")
    assert [line for line in result.stdout.splitlines() if len(line) > 80] == []


def test_verify_names_a_broken_claim_of_a_wrong_fix(verdicts: dict[str, Verdict]) -> None:
    """It breaks the whole, and is replayed under its own name and with its own minimal sequence."""
    wrong = find_pair(FLAGSHIP).wrong[0]
    verdicts[f"{FLAGSHIP}/{wrong.name}"].broken.append("repaired: expected no ['tasks']")
    result, data = invoke("verify", FLAGSHIP), invoke("verify", FLAGSHIP, "--json")

    assert result.exit_code == data.exit_code == 1
    assert f"FAIL    /{wrong.name}" in result.stdout
    assert f"      replay: {FLAGSHIP}/{wrong.name} {wrong.minimal}\n" in result.stdout
    assert "FAIL  1 pair, 3 wrong fixes: not every claim holds" in result.stdout
    broken = [each["pair"] for each in json.loads(data.stdout)["wrong_fixes"] if each["broken"]]
    assert broken == [f"{FLAGSHIP}/{wrong.name}"]


def test_verify_fails_with_a_control(
    verdicts: dict[str, Verdict], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A control that is flagged breaks the whole, and the sequence is printed."""
    assert verdicts
    flagged = Trial("slow_close", ("tasks",), broken=["tasks: got 1 in SimWorld: a:open"])
    monkeypatch.setattr(
        verify, "try_control", lambda name, **_: flagged if name == "slow_close" else Trial(name)
    )
    result, data = invoke("verify"), invoke("verify", "--json")

    assert result.exit_code == data.exit_code == 1
    assert "FAIL  slow_close" in result.stdout
    assert "      tasks: got 1 in SimWorld: a:open\n" in result.stdout
    controls = {each["control"]: each for each in json.loads(data.stdout)["controls"]}
    assert list(controls) == list(CONTROLS)
    assert controls["slow_close"]["flagged"] == ["tasks"]
    assert [name for name, each in controls.items() if not each["holds"]] == ["slow_close"]


@pytest.fixture
def few_answers(monkeypatch: pytest.MonkeyPatch) -> list[Mutant]:
    """Two other answers only, one of which amounts to the reference's."""
    few = [each for each in all_mutants() if each.question == "hang_up"]
    monkeypatch.setattr(answers, "all_mutants", lambda: few)
    monkeypatch.setattr(answers, "mutant_sequences", lambda *_: [Sequence.parse("a:bad:user")])
    return few


def test_verify_answers_tells_what_notices_each(few_answers: list[Mutant]) -> None:
    """A line each, with the counts or the reason, under the question; within 80 columns."""
    result = invoke("verify", "--answers")
    lines = result.stdout.splitlines()

    assert result.exit_code == 0
    assert [line for line in lines if len(line) > 80] == []
    assert "The server is done with a connection, served or refused: who closes it?" in lines
    heads, caught, same = (line.split() for line in lines[2:5])
    assert heads[1:] == [name[:3] for name in PROPERTIES]
    assert caught[:2] == ["ok", "refused_stays_open"]
    counts = dict(zip(PROPERTIES, caught[2:], strict=True))
    assert {name for name, count in counts.items() if count == "1"} == {
        *("tasks", "transports", "timers"),
    }
    assert same[:2] == ["ok", "does"]
    assert len(few_answers) == 2
    assert lines[-1] == "ok  2 answers: 1 equal the reference's, 0 of the others unnoticed"


def test_verify_answers_fails_with_a_hole(
    few_answers: list[Mutant], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that nothing notices is exit code 1, in the table and in the data."""
    monkeypatch.setattr(answers, "mutant_sequences", lambda *_: [Sequence.parse("a:open a:close")])
    monkeypatch.setattr(
        answers,
        "all_mutants",
        lambda: [replace(few_answers[0], lifecycle=Lifecycle), few_answers[1]],
    )
    result, data = invoke("verify", "--answers"), invoke("verify", "--answers", "--json")
    plain = json.loads(data.stdout)

    assert result.exit_code == data.exit_code == 1
    assert "FAIL  refused_stays_open" in result.stdout
    assert "1 of the others unnoticed" in result.stdout
    assert plain["holds"] is False
    assert [each["holds"] for each in plain["answers"]] == [False, True]
    assert plain["answers"][0]["noticed"] == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--answers", FLAGSHIP), "--answers tries those of all questions: expected no PAIR"),
        (("--answers", "--versions"), "expected --versions or --answers, got both"),
    ],
)
def test_verify_answers_alone(words: tuple[str, ...], message: str) -> None:
    """It goes with neither pairs nor versions."""
    result = invoke("verify", *words)

    assert result.exit_code == 2
    assert message in result.stderr


def test_verify_of_one_pair_leaves_the_reference_alone(verdicts: dict[str, Verdict]) -> None:
    """Who names pairs gets those."""
    assert FLAGSHIP in verdicts
    data = json.loads(invoke("verify", FLAGSHIP, "--json").stdout)

    assert [each["pair"] for each in data["pairs"]] == [FLAGSHIP]
    assert [each["pair"] for each in data["wrong_fixes"]] == [
        f"{FLAGSHIP}/{wrong.name}" for wrong in find_pair(FLAGSHIP).wrong
    ]
    assert "reference" not in data
    assert "controls" not in data


def test_verify_names_a_broken_claim_and_its_replay(verdicts: dict[str, Verdict]) -> None:
    """A claim that does not hold is exit code 1, in words and with a line to replay."""
    verdicts[FLAGSHIP].broken.append("search: nothing found in 2000 sequences, seed 0")
    result = invoke("verify", FLAGSHIP)

    assert result.exit_code == 1
    assert f"FAIL  {FLAGSHIP}" in result.stdout
    assert "      search: nothing found in 2000 sequences, seed 0\n" in result.stdout
    assert f"      replay: {FLAGSHIP}/buggy a:open a:close\n" in result.stdout


def test_verify_fails_with_the_reference(
    verdicts: dict[str, Verdict], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reference that is violated breaks the whole, and its replay line is printed."""
    assert verdicts
    line = "tasks: connection a: got 1; replay: REF a:open a:close"
    monkeypatch.setattr(verify, "reference_holds", lambda **_: [line])
    result, data = invoke("verify"), invoke("verify", "--json")

    assert (result.exit_code, data.exit_code) == (1, 1)
    assert f"      {line}\n" in result.stdout
    assert json.loads(data.stdout)["reference"] == {"holds": False, "violated": [line]}
    assert json.loads(data.stdout)["holds"] is False


def test_verify_versions_takes_no_pair() -> None:
    """The comparison is of all versions."""
    result = invoke("verify", "--versions", FLAGSHIP)

    assert result.exit_code == 2
    assert "expected no PAIR" in result.stderr


def cells(rows: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """Rows by version and ending."""
    return {(row["version"], row["ending"]): row for row in rows}


def test_verify_versions_json_agrees_with_go() -> None:
    """Every version on every ending; equal wherever Go was measured; the reference leaves none."""
    result = invoke("verify", "--versions", "--json")
    data = json.loads(result.stdout)
    found = cells(data["rows"])

    assert result.exit_code == 0
    assert data["holds"] is True
    assert len(found) == len(data["rows"]) == len(VERSIONS) * len(ENDINGS)
    assert found["V1", "peer EOF"]["python"] == found["V1", "peer EOF"]["go"] == 1
    assert found["V2", "cancel-New-close"]["python"] == 1
    assert found["V1", "cancel-New-close"]["python"] == 0
    for version in ("V1", "P-A", "P-B", "V2"):
        assert found[version, "live id reuse"]["python"] == 1
    assert [row for row in data["rows"] if row["version"] == "REF" and row["python"]] == []
    measured = [row for row in data["rows"] if row["go"] is not None]
    assert len(measured) > 30
    assert [row for row in measured if row["python"] != row["go"]] == []


def test_verify_versions_table_fits_a_terminal() -> None:
    """Endings by versions within 80 columns, marked where Go was measured."""
    text = invoke("verify", "--versions").stdout

    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert text.splitlines()[0].split() == ["ending", *VERSIONS]
    assert "1=" in text
    assert "sing-vmess" in text


def test_verify_versions_marks_what_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A figure that is not Go's is shown beside it, and is exit code 1."""
    rows = [VersionRow(name, "peer EOF", "a:open", "close", 3, 4) for name in VERSIONS]
    monkeypatch.setattr(verify, "compare", lambda _: rows)
    result = invoke("verify", "--versions")

    assert result.exit_code == 1
    assert "3≠4" in result.stdout
    assert "FAIL" in result.stdout


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_verify_json_proves_every_pair() -> None:
    """For real: every pair is caught, its fixed variant and the reference hold."""
    result = invoke("verify", "--json", "--sequences", "5")
    data = json.loads(result.stdout)

    assert result.exit_code == 0
    assert data["holds"] is True
    assert data["reference"] == {"holds": True, "violated": []}
    assert [each["pair"] for each in data["pairs"]] == list(load_pairs())
    assert [each["holds"] for each in data["wrong_fixes"]] == [True] * 3
    assert [each["control"] for each in data["controls"]] == list(CONTROLS)
    assert [each["flagged"] for each in data["controls"] if each["flagged"]] == []
    for each in data["pairs"]:
        facts = find_pair(each["pair"]).facts
        assert (each["buggy"], each["fixed"]) == (list(facts.fails), "clean")
        assert each["found_at"]["connections"] > 0
        assert each["minimal"]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_verify_catches_a_bug_planted_into_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the buggy answer in the reference, the proof fails and gives a line that shows it."""
    monkeypatch.setattr(Lifecycle, "watched_context", WatchedContext.watched_context)
    result = invoke("verify", "--json", "--sequences", "5")
    data = json.loads(result.stdout)

    assert result.exit_code == 1
    assert data["holds"] is False
    assert data["reference"]["holds"] is False
    assert {each["pair"] for each in data["pairs"] if not each["holds"]} == set(load_pairs())
    line = data["reference"]["violated"][0].partition("; replay: ")[2]
    assert invoke("replay", line).exit_code == 1
