"""``muxleak verify``: claims, verdicts, and the table of versions."""

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from harness.cli import cli, verify
from scenarios import find_pair, load_pairs
from scenarios.history import ENDINGS, Row
from scenarios.verify import Verdict
from vless.bugs.watcher_outlives_connection.buggy import WatchedContext
from vless.lifecycle import Lifecycle
from vless.versions import VERSIONS

FLAGSHIP = "watcher_outlives_connection"


def invoke(*words: str) -> Result:
    """Run the program in this process, at 80 columns."""
    return CliRunner().invoke(cli, words, env={"COLUMNS": "80"})


@pytest.fixture
def verdicts(monkeypatch: pytest.MonkeyPatch) -> dict[str, Verdict]:
    """Verdicts that the command hands out instead of proving anything; tests may break them."""
    made = {slug: Verdict(slug, ("tasks",), connections=1234) for slug in load_pairs()}
    monkeypatch.setattr(verify, "verify", lambda pair, **_: made[pair.slug])
    monkeypatch.setattr(verify, "reference_holds", lambda **_: [])
    return made


def test_verify_prints_a_line_for_every_pair(verdicts: dict[str, Verdict]) -> None:
    """And one for the reference; exit code 0 when all of it holds."""
    result = invoke("verify")
    lines = [line.split() for line in result.stdout.splitlines()]

    assert result.exit_code == 0
    assert [words[1] for words in lines if words and words[0] == "ok"] == [*verdicts, "the"]
    assert [line for line in result.stdout.splitlines() if len(line) > 80] == []


def test_verify_of_one_pair_leaves_the_reference_alone(verdicts: dict[str, Verdict]) -> None:
    """Who names pairs gets those."""
    assert FLAGSHIP in verdicts
    data = json.loads(invoke("verify", FLAGSHIP, "--json").stdout)

    assert [each["pair"] for each in data["pairs"]] == [FLAGSHIP]
    assert "reference" not in data


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
    rows = [Row(name, "peer EOF", "a:open", "close", 3, 4) for name in VERSIONS]
    monkeypatch.setattr(verify, "compare", lambda _: rows)
    result = invoke("verify", "--versions")

    assert result.exit_code == 1
    assert "3≠4" in result.stdout
    assert "FAIL" in result.stdout


@pytest.mark.slow
def test_verify_json_proves_every_pair() -> None:
    """For real: every pair is caught, its fixed half and the reference hold."""
    result = invoke("verify", "--json", "--sequences", "5")
    data = json.loads(result.stdout)

    assert result.exit_code == 0
    assert data["holds"] is True
    assert data["reference"] == {"holds": True, "violated": []}
    assert [each["pair"] for each in data["pairs"]] == list(load_pairs())
    for each in data["pairs"]:
        facts = find_pair(each["pair"]).facts
        assert (each["buggy"], each["fixed"]) == (list(facts.fails), "clean")
        assert each["found_at"]["connections"] > 0
        assert each["minimal"]


@pytest.mark.slow
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
