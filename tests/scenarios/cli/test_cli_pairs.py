"""``muxleak list`` and ``muxleak show``."""

import json
import re

import pytest
from click.testing import CliRunner, Result

from muxleak_scenarios import load_pairs
from muxleak_scenarios.cli import cli

FLAGSHIP = "watcher_outlives_connection"


def invoke(*words: str) -> Result:
    """Run the program in this process, at 80 columns."""
    return CliRunner().invoke(cli, words, env={"COLUMNS": "80"})


def test_list_names_every_pair_with_its_title() -> None:
    """One line for the pair or wrong fix and one for its title, within 80 columns."""
    lines = invoke("list").stdout.splitlines()
    listed = []
    for pair in load_pairs().values():
        listed.append((pair.slug, pair.facts.title))
        listed += [(f"/{wrong.name}", wrong.facts.title) for wrong in pair.wrong]

    names, titles = zip(*listed, strict=True)
    assert tuple(word for line in lines if (word := line.split()[0]) in names) == names
    assert tuple(text for line in lines if (text := line.strip()) in titles) == titles


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_list_fits_the_terminal_and_keeps_its_columns(columns: int) -> None:
    """Properties and questions begin where their titles do, or stand below the name."""
    text = CliRunner().invoke(cli, ["list"], env={"COLUMNS": str(columns)}).stdout
    lines = text.splitlines()

    assert [line for line in lines if len(line) > columns] == []
    (start,) = {line.index("breaks") for line in lines[:3] if "breaks" in line}
    rows = [line for line in lines if re.match(r"(\w+ +)?tasks,", line.strip())]
    assert len(rows) >= 2
    assert {line.index("tasks,") for line in rows} == {start}


def test_list_json_has_the_facts() -> None:
    """The data are those of the pairs."""
    data = json.loads(invoke("list", "--json").stdout)

    assert [each["pair"] for each in data] == list(load_pairs())
    assert data[0]["fails"] == ["tasks"]
    assert data[0]["question"] == "watched_context"
    assert [each["name"] for each in data[0]["wrong_fixes"]] == [
        wrong.name for wrong in load_pairs()[FLAGSHIP].wrong
    ]


def test_show_tells_story_diff_and_witness() -> None:
    """All there is to know of a pair, drawings and diff line by line as they are written."""
    pair = load_pairs()[FLAGSHIP]
    text = invoke("show", FLAGSHIP).stdout
    lines = {line.strip() for line in text.splitlines()}
    drawing = pair.readme.split("```")[1].splitlines()

    assert [line for line in pair.diff().splitlines() if line.strip() not in lines] == []
    assert [line for line in drawing if line.strip() not in lines] == []
    assert f"muxleak replay '{FLAGSHIP}/buggy a:open a:close'" in lines
    assert all(reference.split()[0] in text for reference in pair.facts.references)


def test_show_tells_of_wrong_fixes() -> None:
    """What each breaks, and the line that shows it; nothing where there are none."""
    text = invoke("show", FLAGSHIP).stdout
    lines = {line.strip() for line in text.splitlines()}

    for wrong in load_pairs()[FLAGSHIP].wrong:
        assert f"muxleak replay '{FLAGSHIP}/{wrong.name} {wrong.minimal}'" in lines
        assert f"Wrong fix: /{wrong.name}" in text
        assert wrong.facts.fails[0] in text
    assert "Wrong fix" not in invoke("show", "live_id_reused").stdout


def test_show_json_has_a_line_to_replay() -> None:
    """The data include story, diff and the line of the minimal sequence."""
    data = json.loads(invoke("show", FLAGSHIP, "--json").stdout)

    assert data["replay"] == f"{FLAGSHIP}/buggy a:open a:close"
    assert data["diff"] == load_pairs()[FLAGSHIP].diff()
    assert data["story"].startswith("# ")


@pytest.mark.parametrize("command", ["show", "reproduce", "verify"])
def test_unknown_pair_is_bad_usage_with_a_hint(command: str) -> None:
    """Who misspells a pair is told which there are and which was meant."""
    result = invoke(command, "watcher_outlive_connection")

    assert result.exit_code == 2
    assert result.stdout == ""
    assert "cleanup_runs_twice" in result.stderr
    assert f"did you mean '{FLAGSHIP}'?" in result.stderr
