"""``muxleak verify``: claims, verdicts, and the table of versions."""

import json
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from muxleak_scenarios import PROPERTIES, Sequence, find_pair, load_pairs
from muxleak_scenarios.cli import cli, controls, go_comparison, mutants, verify
from muxleak_scenarios.pairs.go_comparison import ENDINGS, VersionRow
from muxleak_scenarios.pairs.mutants import Mutant, all_mutants
from muxleak_scenarios.pairs.negative_controls import CONTROLS, Trial
from muxleak_scenarios.pairs.verify import Verdict
from muxleak_scenarios.sequence import describe
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
    # Other processes would not have them.
    monkeypatch.setattr(verify, "cpus", lambda: 1)
    monkeypatch.setattr(controls, "try_control", lambda name, **_: Trial(name, connections=1234))
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
        controls, "try_control", lambda name, **_: flagged if name == "slow_close" else Trial(name)
    )
    result, data = invoke("verify"), invoke("verify", "--json")

    assert result.exit_code == data.exit_code == 1
    assert "FAIL  slow_close" in result.stdout
    assert "      tasks: got 1 in SimWorld: a:open\n" in result.stdout
    tried = {each["control"]: each for each in json.loads(data.stdout)["controls"]}
    assert list(tried) == list(CONTROLS)
    assert tried["slow_close"]["flagged"] == ["tasks"]
    assert [name for name, each in tried.items() if not each["holds"]] == ["slow_close"]


@pytest.fixture
def few_mutants(monkeypatch: pytest.MonkeyPatch) -> list[Mutant]:
    """Let there be two mutants only, one of which is equivalent to the reference."""
    few = [each for each in all_mutants() if each.question == "hang_up"]
    monkeypatch.setattr(mutants, "all_mutants", lambda: few)
    monkeypatch.setattr(mutants, "mutant_sequences", lambda *_: [Sequence.parse("a:bad:user")])
    return few


def test_self_mutants_prints_the_counts_of_each(few_mutants: list[Mutant]) -> None:
    """A line each, with the counts or the reason, under the question; within 80 columns."""
    result = invoke("self", "mutants")
    lines = result.stdout.splitlines()

    assert result.exit_code == 0
    assert [line for line in lines if len(line) > 80] == []
    assert describe.question_in_words("hang_up") in lines
    heads, caught, same = (line.split() for line in lines[2:5])
    assert heads[1:] == [name[:3] for name in PROPERTIES]
    assert caught[:2] == ["ok", "refused_stays_open"]
    counts = dict(zip(PROPERTIES, caught[2:], strict=True))
    assert {name for name, count in counts.items() if count == "1"} == {
        *("tasks", "transports", "timers"),
    }
    assert same[:2] == ["ok", "does"]
    assert len(few_mutants) == 2
    assert lines[-1] == "ok  2 mutants: 1 killed, 1 equivalent, 0 survived"


def test_self_mutants_fails_if_a_mutant_survives(
    few_mutants: list[Mutant], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 1, in the table and in the data."""
    monkeypatch.setattr(mutants, "mutant_sequences", lambda *_: [Sequence.parse("a:open a:close")])
    monkeypatch.setattr(
        mutants,
        "all_mutants",
        lambda: [replace(few_mutants[0], lifecycle=Lifecycle), few_mutants[1]],
    )
    result, data = invoke("self", "mutants"), invoke("self", "mutants", "--json")
    plain = json.loads(data.stdout)

    assert result.exit_code == data.exit_code == 1
    assert "FAIL  refused_stays_open" in result.stdout
    assert "0 killed, 1 equivalent, 1 survived" in result.stdout
    assert plain["holds"] is False
    assert [each["holds"] for each in plain["answers"]] == [False, True]
    assert plain["answers"][0]["noticed"] == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--answers", FLAGSHIP), "--answers takes no PAIR; leave it out"),
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


@pytest.mark.slow
def test_verify_in_two_processes_prints_the_same() -> None:
    """Rows, order and exit code do not depend on the number of processes."""
    words = ("verify", FLAGSHIP, "live_id_reused", "--sequences", "2", "--processes")
    one, two = invoke(*words, "1"), invoke(*words, "2")

    assert (two.exit_code, two.stdout) == (one.exit_code, one.stdout)
    assert two.exit_code == 0
    assert "ok  2 pairs, 3 wrong fixes: every claim holds" in two.stdout


def test_verify_versions_takes_no_pair() -> None:
    """The comparison is of all versions."""
    result = invoke("verify", "--versions", FLAGSHIP)

    assert result.exit_code == 2
    assert "--versions takes no PAIR; leave it out" in result.stderr


@pytest.mark.parametrize(
    ("option", "command"), [("--answers", "mutants"), ("--versions", "versions")]
)
def test_verify_option_that_moved_does_what_its_command_does(
    few_mutants: list[Mutant], option: str, command: str
) -> None:
    """With a note on stderr, so that scripts that read the output go on working."""
    assert few_mutants
    old = [invoke("verify", option, *more) for more in ((), ("--json",))]
    new = [invoke("self", command, *more) for more in ((), ("--json",))]

    note = f"verify {option} is deprecated and will be removed: use muxleak self {command}\n"
    assert [each.stderr for each in old] == [note, note]
    assert [each.stdout for each in old] == [each.stdout for each in new]
    assert [each.exit_code for each in (*old, *new)] == [0, 0, 0, 0]
    assert option not in invoke("verify", "--help").stdout


def test_self_controls_prints_a_row_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows and data that ``verify`` has of them; exit code 1 if one is flagged."""
    monkeypatch.setattr(controls, "try_control", lambda name, **_: Trial(name, connections=7))
    result, data = invoke("self", "controls"), invoke("self", "controls", "--json")

    assert (result.exit_code, data.exit_code) == (0, 0)
    rows = [line.split()[1] for line in result.stdout.splitlines() if line.startswith("ok  ")]
    assert rows == [*CONTROLS, str(len(CONTROLS))]
    assert [each["control"] for each in json.loads(data.stdout)["controls"]] == list(CONTROLS)
    monkeypatch.setattr(controls, "try_control", lambda name, **_: Trial(name, broken=["a:open"]))
    assert invoke("self", "controls").exit_code == 1


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_verify_rows_fit_the_terminal_and_keep_their_columns(
    columns: int, verdicts: dict[str, Verdict]
) -> None:
    """Whatever a pair breaks: cells are wrapped in their column, or stand below the name."""
    everything = ("tasks", "cleanup", "transports", "exceptions", "timers")
    wide = Verdict(FLAGSHIP, everything, connections=1_234_567)
    verdicts[FLAGSHIP] = wide
    result = CliRunner().invoke(cli, ["verify"], env={"COLUMNS": str(columns)})
    lines = result.stdout.splitlines()

    assert [line for line in lines if len(line) > columns] == []
    table = lines[: lines.index("")]
    figures = {line.index("1,234") + len("1,234") for line in table if line.endswith(" 1,234")}
    (widest,) = [line for line in table if line.endswith(" 1,234,567")]
    assert figures == {len(widest)}
    assert all(name in result.stdout for name in (*verdicts, *everything) if "/" not in name)


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_self_tables_fit_the_terminal(few_mutants: list[Mutant], columns: int) -> None:
    """No row is wider, and nothing of it is cut off."""
    assert few_mutants
    for command in ("mutants", "versions"):
        result = CliRunner().invoke(cli, ["self", command], env={"COLUMNS": str(columns)})

        assert [line for line in result.stdout.splitlines() if len(line) > columns] == []
        assert "…" not in result.stdout


def cells(rows: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """Rows by version and ending."""
    return {(row["version"], row["ending"]): row for row in rows}


def test_verify_versions_json_agrees_with_go() -> None:
    """Every version on every ending; equal wherever Go was measured; the reference leaves none."""
    result = invoke("self", "versions", "--json")
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
    text = invoke("self", "versions").stdout

    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert text.splitlines()[0].split() == ["ending", *VERSIONS]
    assert "1=" in text
    assert "sing-vmess" in text


def test_verify_versions_marks_what_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A figure that is not Go's is shown beside it, and is exit code 1."""
    rows = [VersionRow(name, "peer EOF", "a:open", "close", 3, 4) for name in VERSIONS]
    monkeypatch.setattr(go_comparison, "compare", lambda _: rows)
    result = invoke("self", "versions")

    assert result.exit_code == 1
    assert "3≠4" in result.stdout
    assert "FAIL" in result.stdout


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_verify_json_proves_every_pair() -> None:
    """For real: every pair is caught, its fixed variant and the reference hold."""
    # Other processes would have the reference without it.
    result = invoke("verify", "--json", "--sequences", "5", "--processes", "1")
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
    # Other processes would have the reference without it.
    result = invoke("verify", "--json", "--sequences", "5", "--processes", "1")
    data = json.loads(result.stdout)

    assert result.exit_code == 1
    assert data["holds"] is False
    assert data["reference"]["holds"] is False
    assert {each["pair"] for each in data["pairs"] if not each["holds"]} == set(load_pairs())
    line = data["reference"]["violated"][0].partition("; replay: ")[2]
    assert invoke("replay", line).exit_code == 1
