"""``muxleak reproduce``: the verdict, the story, and the whole run of the real program."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence as Words
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from creation_sites import shown
from findings import finding
from muxleak import LeakReport
from muxleak_scenarios import SequenceOutcome, Violation, find_pair
from muxleak_scenarios.cli import cli, render, reproduce
from muxleak_scenarios.cli.reproduce import Reproduction
from muxleak_scenarios.pairs.growth import TaskGrowth
from muxleak_vless import session
from muxleak_vless.versions import VERSIONS
from source_roots import PYTHONPATH

ROOT = Path(__file__).parents[3]
COUNTS = [1, 10, 100, 1000]
SECONDS = 20
NOTHING = LeakReport.of([])


def program(words: Words[str]) -> "subprocess.CompletedProcess[str]":
    """Run the real program, at 80 columns."""
    return subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", "muxleak", *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": PYTHONPATH, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def growths(*points: tuple[int, int, int]) -> list[TaskGrowth]:
    """Growths of closed connections, tasks and connections counted as open."""
    return [TaskGrowth(n, tasks, counted, NOTHING) for n, tasks, counted in points]


@pytest.fixture
def flagship() -> Reproduction:
    """A reproduction as it should be, without having run anything."""
    pair = find_pair("watcher_outlives_connection")
    outcome = SequenceOutcome([Violation("tasks", "a", "")], connections=1, left=1)
    return Reproduction(
        pair,
        growths((1, 1, 0), (10, 10, 0)),
        growths((1, 0, 0), (10, 0, 0)),
        finding(pair.minimal, outcome),
        {name: SequenceOutcome(connections=1, cleanups=1) for name in VERSIONS},
        (),
    )


def test_reproduced_when_one_half_grows_and_the_other_is_clean(flagship: Reproduction) -> None:
    """The buggy variant does as claimed, the fixed one leaves nothing."""
    assert flagship.reproduced


@pytest.mark.parametrize(
    "wrong",
    [
        {"buggy": growths((1, 1, 0), (10, 1, 0))},
        {"fixed": growths((1, 0, 0), (10, 1, 0))},
        {"fixed": growths((1, 0, 0), (10, 0, -1))},
        {"found": None},
        {"fixed_violates": ("tasks",)},
    ],
    ids=["no growth", "fixed leaks", "fixed miscounts", "nothing found", "fixed violates"],
)
def test_reproduced_is_false_when_anything_differs(
    flagship: Reproduction, wrong: dict[str, Any]
) -> None:
    """A constant instead of a growth, a leak of the fixed variant, a search in vain."""
    assert not replace(flagship, **wrong).reproduced


def test_reproduced_needs_the_property_that_is_claimed(flagship: Reproduction) -> None:
    """Finding another bug is not a reproduction of this one."""
    assert flagship.found is not None
    other = finding(flagship.pair.minimal, SequenceOutcome([Violation("data", "a", "")]))

    assert not replace(flagship, found=other).reproduced


def test_growth_is_of_what_the_pair_breaks(flagship: Reproduction) -> None:
    """A pair that leaks no task shows the connections counted as open."""
    pair = find_pair("cleanup_runs_twice")
    outcome = SequenceOutcome([Violation("cleanup", "a", "")])
    twice = replace(
        flagship,
        pair=pair,
        buggy=growths((1, 0, -1), (10, 0, -10)),
        found=finding(pair.minimal, outcome),
    )

    assert flagship.metric == "tasks"
    assert twice.metric == "counted_open"
    assert twice.reproduced


@pytest.mark.parametrize("reproduced", [True, False])
def test_command_exits_by_the_verdict(
    flagship: Reproduction, monkeypatch: pytest.MonkeyPatch, *, reproduced: bool
) -> None:
    """0 if it went as claimed, 1 if not; the conclusion says so, too."""
    result = flagship if reproduced else replace(flagship, fixed_violates=("tasks",))
    monkeypatch.setattr(reproduce, "reproduce", lambda *_: result)
    done = CliRunner().invoke(cli, ["reproduce"], env={"COLUMNS": "80"})

    assert done.exit_code == (0 if reproduced else 1)
    assert ("Reproduced, and fixed: " in done.stdout) is reproduced
    assert ("Not as claimed: " in done.stdout) is not reproduced


def test_story_tells_a_search_in_vain(
    flagship: Reproduction, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a found sequence the story goes on with the minimal one."""
    result = replace(flagship, found=None)
    reproduce.show_result(render.stdout(), result)

    assert "none found that violates a property" in capsys.readouterr().out
    assert str(result.replay) == "watcher_outlives_connection/buggy a:open a:close"


@pytest.mark.parametrize("counts", ["", "0", "1,x", "-1", "1,,2", "1.5"])
def test_counts_must_be_numbers_above_0(counts: str) -> None:
    """Anything else is bad usage, with an example."""
    result = CliRunner().invoke(cli, ["reproduce", "--counts", counts])

    assert result.exit_code == 2
    assert "expected numbers above 0, such as 1,10,100; got" in result.stderr


@pytest.mark.slow
def test_reproduce_json_is_complete_exact_and_quick() -> None:
    """The flagship by default: one task per connection, none when fixed, in under 20 seconds."""
    start = time.monotonic()
    done = program(["reproduce", "--json"])
    elapsed = time.monotonic() - start
    data = json.loads(done.stdout)

    assert (done.returncode, done.stderr) == (0, "")
    assert elapsed < SECONDS
    assert data["pair"] == "watcher_outlives_connection"
    assert data["growth"] == {
        "buggy": [[n, n] for n in COUNTS],
        "fixed": [[n, 0] for n in COUNTS],
    }
    assert data["counted_open"] == {variant: [[n, 0] for n in COUNTS] for variant in data["growth"]}
    assert [group["count"] for group in data["blocked"]] == [1000]
    assert data["blocked"][0]["made_at"].startswith(f"{shown(session)}:")
    assert "Context.wait" in data["blocked"][0]["waiting_on"]
    assert data["minimal"] == "a:open a:close"
    assert data["violated"] == ["tasks"]
    assert data["replay"] == "watcher_outlives_connection/buggy a:open a:close"
    assert set(data["found_at"]) == {"sequences", "connections"}
    assert "+        return session.context\n" in data["diff"]
    assert data["reproduced"] is True
    assert {"title", "symptom", "references", "question", "python", "platform"} <= set(data)
    left = {fix["version"]: fix["left"] for fix in data["fixes"]}
    assert left == {**dict.fromkeys(VERSIONS, 0), "V1": 1}
    twice = [fix["version"] for fix in data["fixes"] if fix["violated"] == ["cleanup"]]
    assert twice == ["V0", "P-B"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "pair", ["cleanup_runs_twice", "new_after_cleanup", "watcher_outlives_connection"]
)
def test_reproduce_prints_lines_that_replay(pair: str) -> None:
    """The very lines printed are run: exit 1 as they are, and 0 with the fixed variant."""
    done = program(["reproduce", pair, "--counts", "1,10"])
    lines = [line.strip() for line in done.stdout.splitlines() if "muxleak replay " in line]
    commands = [shlex.split(line)[1:] for line in lines]

    assert done.returncode == 0
    assert done.stdout == "\n".join(line.rstrip() for line in done.stdout.split("\n"))
    assert "--variant" in commands[1]
    assert [program(command).returncode for command in commands] == [1, 0]


@pytest.mark.slow
def test_reproduce_is_the_same_under_any_hash_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs print the same text."""
    texts = []
    for seed in ("1", "2"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        texts.append(program(["reproduce", "live_id_reused", "--counts", "1,10"]).stdout)

    assert texts[0] == texts[1]
