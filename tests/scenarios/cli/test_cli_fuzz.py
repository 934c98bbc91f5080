"""``muxleak fuzz``: what it prints, keeps, remembers and refuses."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from findings import finding
from muxleak_scenarios import Sequence, SequenceOutcome, find_pair, run_sequence
from muxleak_scenarios.cli import cli, fuzz, replay
from muxleak_scenarios.cli.params import TargetChoice
from muxleak_scenarios.pairs.campaign import CampaignProgress, CampaignResult
from pairs import SOME_SLUGS
from source_roots import PYTHONPATH

FLAGSHIP = "watcher_outlives_connection"
LINE = f"{FLAGSHIP}/buggy a:open a:close"
FILE = f"muxleak-{FLAGSHIP}-buggy.sim.json"
ROOT = Path(__file__).parents[3]


def invoke(*words: str) -> Result:
    """Run the program in this process, at 80 columns."""
    return CliRunner().invoke(cli, words, env={"COLUMNS": "80"})


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: files and memory are of one test only."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def find(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the search of the flagship come to a sequence at once."""

    def come_to(line: str = "a:open a:close", ended: str = "shrunk") -> None:
        sequence = Sequence.parse(line)
        outcome = run_sequence(sequence, find_pair(FLAGSHIP).buggy())
        status = CampaignProgress("shrinks", 3, 50, 300, 1.0, len(sequence))
        result = CampaignResult(finding(sequence, outcome), status, ended)
        monkeypatch.setattr(fuzz, "_search", lambda *_, **__: result)

    return come_to


def test_fuzz_prints_what_it_found_and_how_to_see_it_again(find: Callable[..., None]) -> None:
    """The steps in words, the property, the leak, the line and the file; exit code 1."""
    find()
    result = invoke("fuzz", FLAGSHIP)

    assert result.exit_code == 1
    assert f"found in {FLAGSHIP}/buggy, after 45 connections\n" in result.stdout
    assert "  a:close  client a closes the connection" in result.stdout
    assert "violated: tasks: after every close" in result.stdout
    assert "1 x MuxSession._watch" in result.stdout
    assert f"  muxleak replay '{LINE}'\n  muxleak replay {FILE}\n" in result.stdout
    assert [line for line in result.stdout.splitlines() if len(line) > 80] == []


def test_fuzz_writes_a_file_that_replay_reads(find: Callable[..., None], folder: Path) -> None:
    """The file has the line, the steps in words and the creation sites; it gives exit code 1."""
    find()
    invoke("fuzz", FLAGSHIP)
    text = (folder / FILE).read_text("utf-8")
    data = json.loads(text)

    assert (data["muxleak_replay"], data["kind"]) == (2, "sequence")
    assert (data["subject"], data["line"]) == (f"{FLAGSHIP}/buggy", LINE)
    assert (data["verdict"], data["steps"][1]) == (
        "violated: tasks",
        "a:close  client a closes the connection",
    )
    assert data["groups"][0]["created"][0]["function"] == "MuxSession.run"
    assert len(text) <= 4096
    again = invoke("replay", FILE, "--json")
    assert again.exit_code == 1
    assert [run["line"] for run in json.loads(again.stdout)["runs"]] == [LINE]


def test_fuzz_overwrites_nothing(find: Callable[..., None], folder: Path) -> None:
    """A different file stays; the same is written once."""
    find()
    (folder / FILE).write_text("mine\n")
    data = [json.loads(invoke("fuzz", FLAGSHIP, "--json").stdout) for _ in range(2)]

    second = FILE.replace(".sim.json", "-2.sim.json")
    assert [each["file"] for each in data] == [second, second]
    assert (folder / FILE).read_text() == "mine\n"
    assert len([*folder.glob("*.json")]) == 2


def test_fuzz_writes_where_it_is_told(find: Callable[..., None], folder: Path) -> None:
    """To a file by its name, into a folder by the usual one."""
    find()
    (folder / "kept").mkdir()
    invoke("fuzz", FLAGSHIP, "--out", "kept")
    invoke("fuzz", FLAGSHIP, "--out", "kept/mine.txt")

    assert {path.name for path in (folder / "kept").iterdir()} == {FILE, "mine.txt"}
    assert not [*folder.glob("*.json")]


def test_fuzz_says_what_may_not_be_the_shortest(find: Callable[..., None]) -> None:
    """When it was stopped or its time was up, with something in hand."""
    find("a:open a:keepalive a:close", "stopped")
    stopped = invoke("fuzz", FLAGSHIP)
    find("a:open a:keepalive a:close", "time")
    late = invoke("fuzz", FLAGSHIP, "--json")

    assert stopped.exit_code == late.exit_code == 1
    assert "stopped, so perhaps not the shortest" in " ".join(stopped.stdout.split())
    assert json.loads(late.stdout)["shrunk"] is False


def test_fuzz_file_of_a_long_sequence_leaves_out_the_words(find: Callable[..., None]) -> None:
    """Unshrunk sequences still make files of at most 4 KB."""
    find(" ".join(["a:open", *["a:new:1:stubborn+60~0", "a:reset:1~0"] * 40, "a:close"]))
    invoke("fuzz", FLAGSHIP)
    data = json.loads(Path(FILE).read_text("utf-8"))

    assert data["steps"][-1] == "..."
    assert len(data["line"].split()) == 83
    assert Path(FILE).stat().st_size <= 4096
    assert invoke("replay", FILE).exit_code == 1


def test_fuzz_says_the_budget_in_which_nothing_was_found(folder: Path) -> None:
    """Exit code 0, no file."""
    result = invoke("fuzz", FLAGSHIP, "--variant", "fixed", "--examples", "5", "--time", "100")

    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    assert text.startswith("nothing found: 5 sequences, ")
    assert text.endswith("within the budget of 5 sequences and 100 s")
    assert not [*folder.glob("*.json")]


def test_fuzz_keeps_to_its_time() -> None:
    """Without --examples, sequences are without limit; at least the clock is asked first."""
    data = json.loads(invoke("fuzz", "REF", "--time", "0.01", "--json").stdout)

    assert data["budget"] == {"examples": None, "seconds": 0.01}
    assert data["ended"] == "time"
    assert data["found"] is False
    assert data["sequences"] <= 10
    nothing = {name for name, value in data.items() if value is None or value is False}
    assert nothing == {
        *("found", "found_at", "minimal", "remembered", "replay", "file", "shrunk", "half")
    }


def test_fuzz_json_has_everything(find: Callable[..., None]) -> None:
    """What was searched, what was found and what it did."""
    find()
    data: dict[str, Any] = json.loads(invoke("fuzz", FLAGSHIP, "--json", "--seed", "3").stdout)

    assert (data["subject"], data["half"], data["target"]) == (FLAGSHIP, "buggy", "simulated")
    assert (data["seed"], data["found"], data["shrunk"]) == (3, True, True)
    assert data["found_at"] == {"sequences": 3, "connections": 45}
    assert (data["minimal"], data["replay"], data["file"]) == ("a:open a:close", LINE, FILE)
    assert data["outcome"]["violated"] == ["tasks"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nobody",), "expected a pair (watcher_outlives_connection,"),
        (("live_id_reusd",), "did you mean 'live_id_reused'?"),
        (("V1", "--variant", "fixed"), "expected no variant, since a version has none"),
        ((FLAGSHIP, "--variant", "both"), "'both' is not one of"),
        ((FLAGSHIP, "--examples", "0"), "must be a whole number of at least 1, got 0"),
        ((FLAGSHIP, "--time", "0"), "must be a finite number above 0, such as 60 or 0.5; got 0"),
        ((FLAGSHIP, "--target", "udp"), "'udp' is not one of"),
        ((FLAGSHIP, "--out", "no/such"), "expected a folder that exists, got 'no'"),
        ((), "Missing argument 'PAIR|VERSION|MODULE:CALLABLE|HOST:PORT'"),
    ],
)
def test_fuzz_tells_bad_usage(words: tuple[str, ...], message: str) -> None:
    """Exit code 2, before anything is searched."""
    result = invoke("fuzz", *words)

    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr


def test_fuzz_tells_that_uvloop_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no dependency; what to install is said."""
    monkeypatch.setitem(sys.modules, "uvloop", None)
    result = invoke("fuzz", FLAGSHIP, "--target", "uvloop")

    assert result.exit_code == 2
    assert "pip install uvloop" in result.stderr


def test_fuzz_progress_tells_speed_and_the_shortest() -> None:
    """Connections per second, sequences run, and the best so far once there is one."""
    searching = CampaignProgress("searches", 10, 10, 150, 0.1, None)
    shrinking = CampaignProgress("shrinks", 10, 1234, 3000, 2.0, 4)

    assert fuzz.progress_in_words("V1", searching) == "1,500 connections/s, 10 run: searches V1"
    assert fuzz.progress_in_words("V1", shrinking) == (
        "1,500 connections/s, 1,234 run, shortest 4 steps: shrinks V1"
    )


def test_fuzz_file_of_a_real_target_is_run_there_again(
    find: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless another target is given."""
    find()
    invoke("fuzz", FLAGSHIP, "--target", "tcp")
    assert json.loads(Path(FILE).read_text("utf-8"))["target"] == "tcp"

    targets = []
    outcome = run_sequence(Sequence.parse("a:open a:close"), find_pair(FLAGSHIP).buggy())

    def run(_line: object, _replay: object, target: TargetChoice) -> SequenceOutcome:
        targets.append(target.name)
        return outcome

    monkeypatch.setattr(replay, "_run", run)
    for words in ((), ("--target", "simulated")):
        assert invoke("replay", FILE, *words).exit_code == 1
    assert targets == ["tcp", "simulated"]


@pytest.mark.slow
@pytest.mark.parametrize("slug", SOME_SLUGS)
def test_fuzz_finds_pairs_and_remembers_it(slug: str) -> None:
    """For real: shrunk to the minimal length, then found at once; `--fresh` searches anew."""
    data = [json.loads(invoke("fuzz", slug, "--json", *extra).stdout) for extra in ((), ())]
    first, second = data

    assert len(first["minimal"].split()) <= len(find_pair(slug).minimal)
    assert set(first["outcome"]["violated"]) & set(find_pair(slug).facts.fails)
    assert (first["remembered"], second["remembered"]) == (False, True)
    assert second["sequences"] <= 2 < first["sequences"]
    assert second["file"] == first["file"]
    assert invoke("replay", first["file"]).exit_code == 1


@pytest.mark.slow
def test_fuzz_fresh_neither_tries_nor_keeps_what_is_remembered(folder: Path) -> None:
    """Nothing is written but the replay file."""
    data = [json.loads(invoke("fuzz", "V1", "--fresh", "--json").stdout) for _ in range(2)]

    assert [each["remembered"] for each in data] == [False, False]
    assert [path.name for path in folder.iterdir()] == ["muxleak-V1.sim.json"]


@pytest.mark.slow
@pytest.mark.parametrize("target", ["tcp", "uvloop"])
def test_fuzz_runs_over_tcp(target: str) -> None:
    """On real sockets: found within its time, shrunk as far as that allows."""
    if target == "uvloop":
        pytest.importorskip("uvloop", reason="needs: pip install uvloop")
    result = invoke("fuzz", FLAGSHIP, "--target", target, "--time", "4", "--json")

    assert result.exit_code == 1
    assert "tasks" in json.loads(result.stdout)["outcome"]["violated"]


@pytest.mark.slow
def test_fuzz_stops_on_interrupt_with_what_it_has(folder: Path) -> None:
    """Ctrl-C, once it is at work, is no traceback: the budget so far is told, and exit code 130."""
    code = (
        "import sys, os, signal; import muxleak_scenarios.pairs.subject as c\n"
        "run = c.run_sequence\n"
        "def first(*a, **k):\n os.kill(os.getpid(), signal.SIGINT); return run(*a, **k)\n"
        "c.run_sequence = first\nfrom muxleak_scenarios.cli import main\nmain()"
    )
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", code, "fuzz", "REF"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (128 + signal.SIGINT, "")
    assert done.stdout.startswith("nothing found: 1 sequence, ")
    assert "stopped before the budget of 2,000 sequences" in " ".join(done.stdout.split())


def test_fuzz_remembers_nothing_without_hypothesis(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search needs only its own engine; the database of findings is Hypothesis's."""
    monkeypatch.setitem(sys.modules, "hypothesis.database", None)
    results = [invoke("fuzz", "V1", "--json") for _ in range(2)]

    assert [result.exit_code for result in results] == [1, 1]
    assert [json.loads(result.stdout)["remembered"] for result in results] == [False, False]
    assert not (folder / ".hypothesis").exists()
