"""``muxleak hunt``: what it refuses, and what it finds in servers of ours, in other processes."""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from io import StringIO
from math import inf
from pathlib import Path
from typing import cast

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from harness.cli import cli, hunt_report
from harness.cli.params import Listen
from scenarios import Sequence, find_pair
from scenarios.hunt import outcome, target
from scenarios.hunt.counters import DESCRIPTORS, GOROUTINES
from scenarios.hunt.findings import Finding
from scenarios.hunt.measure import Growth
from scenarios.real.programs import free_port

ROOT = Path(__file__).parents[2]
SERVER = "127.0.0.1:1"


def invoke(*words: str) -> Result:
    """Run ``hunt`` in this process."""
    return CliRunner().invoke(cli, ["hunt", *words], env={"COLUMNS": "80"})


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((SERVER,), "expected a way to count the server"),
        (("192.0.2.1:443", "--pid", "1"), "add --i-own-this-server if it is yours"),
        ((SERVER, "--pprof", "http://192.0.2.1:6060"), "until it fails for everybody"),
        ((SERVER, "--pprof", "https://127.0.0.1:1"), "expected http://HOST:PORT"),
        ((SERVER, "--pid", "1", "--command", "x"), "--pid means nothing with --command"),
        ((SERVER, "--pid", "1", "--time", "11"), "expected --time to be twice as long"),
        ((SERVER, "--pid", "1", "--replay", "a:fly"), "expected one of"),
        ((SERVER, "--pid", "1", "--replay", "a:open cancel"), "step 'cancel': expected steps of a"),
        ((SERVER, "--pid", "1", "--known", "/dev/null"), "/dev/null: "),
        ((SERVER, "--pid", "1", "--destinations", "192.0.2.1"), "name an address of this machine"),
        ((SERVER, "--pid", "1", "--out", "/no/such/folder"), "expected a folder that exists"),
        ((SERVER, "--pid", str(os.getpid())), "got: refuses connections; check the address"),
        ((SERVER, "--command", "/no/such/program"), "cannot start '/no/such/program'"),
    ],
)
def test_hunt_refuses_what_it_cannot_do(words: tuple[str, ...], says: str) -> None:
    """Bad usage, with what was expected, and before anything is sent."""
    result = invoke(*words)

    assert result.exit_code == 2
    assert says in " ".join(result.stderr.split())


def test_hunt_tells_what_is_no_leak() -> None:
    """What went by itself and what was not measured to the end: each with its line, no finding."""
    growth = Growth(Counter({GOROUTINES: 8, DESCRIPTORS: 2}), Counter())
    lines = ["a:open a:new:1:@deaf a:close", "a:open a:close"]
    passing, suspicion = (Finding(Sequence.parse(line), growth) for line in lines)
    result = outcome.Result(
        passing=[replace(passing, gone=15.4)],
        suspicion=replace(suspicion, shrunk=False, confirmed=False),
        ended="time",
    )
    console = Console(width=200, file=StringIO(), color_system=None, emoji=False)
    again = hunt_report.Again(("hunt", SERVER), "goroutine")
    hunt_report.show(console, result, Listen("127.0.0.1", 1), None, again)
    left, unmeasured = (
        "8 goroutines and 2 descriptors per repetition",
        "not measured to the end, and so no finding",
    )
    told = cast("StringIO", console.file).getvalue().splitlines()

    assert told[0].startswith("nothing found in 127.0.0.1:1: ")
    assert told[1:] == [
        f"no leak: {left}, all gone after 15.4 s",
        "    muxleak hunt 127.0.0.1:1 --replay 'a:open a:new:1:@deaf a:close'",
        f"{unmeasured}: {left}; 0 and 0 after the destinations have gone",
        "    muxleak hunt 127.0.0.1:1 --replay 'a:open a:close'",
    ]


def our_server(version: str) -> list[str]:
    """Words that hunt our own server, in a process of its own."""
    port, debug = free_port(), free_port()
    program = str(ROOT / "tests/support/counted_server.py")
    command = shlex.join(
        ["env", f"PYTHONPATH={ROOT}", sys.executable, program, version, str(port), str(debug)]
    )
    pprof = f"http://127.0.0.1:{debug}/debug/tasks"
    return [f"127.0.0.1:{port}", "--command", command, "--pprof", pprof]


@pytest.mark.slow
def test_hunt_finds_the_bug_of_issue_2421(tmp_path: Path) -> None:
    """Knowing nothing of V1: one task for each connection, shrunk to two steps, and kept."""
    words = [*our_server("V1"), "--time", "60", "--patience", "1", "--out", str(tmp_path)]
    result = invoke(*words, "--findings", "1", "--json")
    (first,) = json.loads(result.stdout)["findings"]

    assert result.exit_code == 1
    assert (first["sequence"], first["confirmed"]) == ("a:open a:close", True)
    assert (first["tasks"], first["descriptors"]) == (
        {"held": 1, "kept": 1},
        {"held": 0, "kept": 0},
    )
    made = "created by vless/session.py:83 in MuxSession.run"
    assert first["counts"][0]["stack"][-2:] == ["MuxSession._watch", made]

    again = invoke(*shlex.split(first["replay"])[2:], "--patience", "1", "--out", str(tmp_path))
    assert again.exit_code == 1
    assert "1 task per repetition; 1 after the destinations have gone" in again.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("version", "length"), [("V1", 2), ("V2", 4)])
def test_hunt_and_replay_take_each_other_s_sequences(
    tmp_path: Path, version: str, length: int
) -> None:
    """What is found at a server leaks in Python, and a pair's witness leaks at a server."""
    words = [*our_server(version), "--patience", "1", "--out", str(tmp_path), "--json"]
    result = invoke(*words, "--time", "60", "--findings", "1")
    (found,) = json.loads(result.stdout)["findings"]
    assert len(found["sequence"].split()) == length

    replayed = CliRunner().invoke(cli, ["replay", version, found["sequence"]])
    assert (replayed.exit_code, "violated: tasks" in replayed.stdout) == (1, True)

    witness = str(find_pair("live_id_reused").facts.witness)
    assert ":echo" in witness
    result = invoke(*words, "--replay", witness)
    (found,) = json.loads(result.stdout)["findings"]
    assert found["sequence"] == witness.replace(":echo", ":@echo")


@pytest.mark.slow
def test_hunt_finds_nothing_in_the_reference(tmp_path: Path) -> None:
    """The same hunt of the reference, which leaves nothing."""
    words = [*our_server("REF"), "--time", "15", "--patience", "2", "--out", str(tmp_path)]
    result = invoke(*words, "--json")
    data = json.loads(result.stdout)

    assert (result.exit_code, data["findings"]) == (0, [])
    assert data["looks"] > 20
    assert list(tmp_path.iterdir()) == []


def test_hunt_ends_while_it_waits_for_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that interrupts it before it comes up, and then never does."""
    monkeypatch.setattr(target, "START_SECONDS", inf)
    script = "import os, signal; os.kill(os.getppid(), signal.SIGINT); signal.pause()"
    result = invoke(SERVER, "--command", shlex.join([sys.executable, "-c", script]))

    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "interrupted\n")


HELD_UP = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open(sys.argv[1], "w") as file:
    print(os.getpid(), file=file)
signal.pause()
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_hunt_ended_twice_leaves_no_server(number: signal.Signals, tmp_path: Path) -> None:
    """One that it has started itself, and that does not come up, is ended with it."""
    told, script = tmp_path / "pid", tmp_path / "server.py"
    os.mkfifo(told)
    script.write_text(HELD_UP)
    command = shlex.join([sys.executable, str(script), str(told)])
    with subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", "harness", "hunt", SERVER, "--command", command],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        pid = int(told.read_text())
        process.send_signal(number)
        # Two that come at once are one: the second may have to be said again.
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
        _, stderr = process.communicate()

    assert (process.returncode, stderr) == (130, "interrupted\n")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
