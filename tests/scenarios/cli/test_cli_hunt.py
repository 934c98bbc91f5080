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
from functools import partial
from importlib import import_module
from io import StringIO
from math import inf
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from creation_sites import site
from muxleak_scenarios import Sequence, find_pair
from muxleak_scenarios.cli import cli, hunt_report
from muxleak_scenarios.cli.params import Listen
from muxleak_scenarios.hunt import batch, findings, remote_server, v2ray
from muxleak_scenarios.hunt.counters import DESCRIPTORS, GOROUTINES, CounterError
from muxleak_scenarios.hunt.destinations import Destinations
from muxleak_scenarios.hunt.findings import HuntOutcome
from muxleak_scenarios.hunt.hunt import Hunt, HuntResult
from muxleak_scenarios.hunt.measure import RepetitionGrowth
from muxleak_scenarios.real.programs import free_port
from muxleak_vless import MuxSession
from processes import has_ended
from source_roots import PYTHONPATH

ROOT = Path(__file__).parents[3]
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
        (
            (SERVER, "--pid", "1", "--time", "11"),
            "--time must be at least 12 s (twice --patience), got 11 s",
        ),
        ((SERVER, "--pid", "1", "--replay", "a:fly"), "expected one of"),
        ((SERVER, "--pid", "1", "--replay", ""), "expected steps, such as 'a:open a:close'"),
        ((SERVER, "--command", "'x"), 'a command as a shell takes it, got "\'x"'),
        ((SERVER, "--command", " "), "expected a command that starts the server"),
        ((SERVER, "--pid", "1", "--replay", "a:open cancel"), "step 'cancel': expected steps of a"),
        ((SERVER, "--pid", "1", "--known", "/dev/null"), "/dev/null: expected a file"),
        ((SERVER, "--pid", "1", "--destinations", "192.0.2.1"), "name an address of this machine"),
        ((SERVER, "--pid", "1", "--out", "/no/such/folder"), "expected a folder that exists"),
        ((SERVER, "--pid", str(os.getpid())), "got: refuses connections; check the address"),
        ((SERVER, "--command", "/no/such/program"), "cannot start '/no/such/program': there"),
        ((SERVER, "--pid", "0"), "'--pid': must be a whole number of at least 1, got 0"),
        ((SERVER, "--pid", "x"), "'--pid': must be a whole number of at least 1, got x"),
        (
            (SERVER, "--pid", "1", "--time", "9", "--patience", "2", "--idle", "2"),
            "10 s (four times",
        ),
        ((SERVER, "--command", ""), "expected a command that starts the server, got none"),
        ((SERVER, "--pprof", "http://127.0.0.1:99999"), "expected a port of 1 to 65535, got"),
    ],
)
def test_hunt_refuses_what_it_cannot_do(words: tuple[str, ...], says: str) -> None:
    """Bad usage, with what was expected, and before anything is sent."""
    result = invoke(*words)

    assert result.exit_code == 2
    assert says in " ".join(result.stderr.split())


def test_hunt_asks_no_v2ray_beyond_this_machine() -> None:
    """Where its counts come from is part of the server."""
    pytest.importorskip("grpc", reason=f"needs: {v2ray.HOW}")
    result = invoke(SERVER, "--v2ray-stats", "192.0.2.1:1")

    assert result.exit_code == 2
    assert "expected a loopback address, got '192.0.2.1'" in " ".join(result.stderr.split())


def test_hunt_tells_what_is_no_leak() -> None:
    """What went by itself and what was not measured to the end: each with its line, no finding."""
    growth = RepetitionGrowth(Counter({GOROUTINES: 8, DESCRIPTORS: 2}), Counter())
    lines = ["a:open a:new:1:@deaf a:close", "a:open a:close"]
    passing, suspicion = (
        HuntOutcome(sequence=Sequence.parse(line), growth=growth) for line in lines
    )
    result = HuntResult(
        completed=3,
        unsettled=1,
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
        "1 of 3 measurements said nothing: " + REMEDY,
    ]


REMEDY = (
    "the counts did not stand still; hunt a server that nobody else uses, or give less --patience"
)
FOUND = HuntOutcome(
    sequence=Sequence.parse("a:open a:new:1:@echo a:close"),
    growth=RepetitionGrowth(
        Counter({("io.Read", "x/main.run"): 2, DESCRIPTORS: 1}),
        Counter({("io.Read", "x/main.run"): 1}),
        exact=False,
        memory=3 << 10,
    ),
    seconds=6,
    log=("starting", "goodbye"),
    after=12.3,
)


class Hunted:
    """What the command hunts with, in place of a server."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.result: HuntResult | Exception = HuntResult(ended="time", completed=1)
        self.settings: dict[str, Any] = {}
        self.so_far: list[HuntResult] = []
        """What it has found each time that it finds something."""
        self.folder = Path()
        self.files: list[dict[str, str]] = []
        """What is in the folder then."""

        async def run(
            _target: object, _user: object, hosts: Destinations, hunt: partial[Hunt], *_: object
        ) -> Any:
            self.settings = hunt.keywords
            async with hosts:
                if isinstance(self.result, Exception):
                    raise self.result
                for so_far in self.so_far:
                    hunt.keywords["found"](so_far)
                    self.files.append({p.name: p.read_text() for p in self.folder.iterdir()})
                return self.result

        monkeypatch.setattr(import_module("muxleak_scenarios.cli.hunt"), "_run", run)


@pytest.fixture
def hunted(monkeypatch: pytest.MonkeyPatch) -> Hunted:
    """A hunt that finds nothing so far."""
    return Hunted(monkeypatch)


@pytest.mark.parametrize(
    ("result", "code"),
    [
        (HuntResult(ended="time", completed=5, unsettled=2), 0),
        (HuntResult(ended="time", completed=1, suspicion=FOUND, passing=[FOUND]), 0),
        (HuntResult(ended="known"), 0),
        (HuntResult(ended="replayed", findings=[FOUND.finding(SERVER)]), 1),
        (HuntResult(ended="stopped", findings=[FOUND.finding(SERVER)]), 1),
        (HuntResult(ended="trouble", trouble="no profile", findings=[FOUND.finding(SERVER)]), 1),
        (HuntResult(ended="died"), 1),
        (HuntResult(ended="trouble", trouble="no profile"), 2),
        (HuntResult(ended="stopped"), 130),
        (HuntResult(ended="time"), 75),
        (HuntResult(ended="time", completed=4, unsettled=2), 75),
        (HuntResult(ended="connections", completed=4, unsettled=4), 75),
        (HuntResult(ended="replayed", completed=1, unsettled=1), 75),
        (HuntResult(ended="time", completed=4, unsettled=4, findings=[FOUND.finding(SERVER)]), 1),
        (CounterError("no profile"), 2),
    ],
)
def test_hunt_exits_with_what_it_came_to(
    result: HuntResult | Exception, code: int, hunted: Hunted, tmp_path: Path
) -> None:
    """A leak or a death comes before trouble, and that before an interruption; it is said, too."""
    hunted.result = result
    told = invoke(SERVER, "--pid", "1", "--out", str(tmp_path))

    assert told.exit_code == code
    if isinstance(result, Exception) or result.trouble:
        assert "no profile" in told.output


def test_hunt_that_could_not_measure_does_not_look_clean(hunted: Hunted, tmp_path: Path) -> None:
    """Its first words say so, in text and as data; a clean hunt has others."""
    words = [SERVER, "--pid", "1", "--out", str(tmp_path)]
    hunted.result = HuntResult(ended="time", completed=3, unsettled=3)

    assert invoke(*words).stdout.startswith("could not measure, so nothing is known in 127.0.0.1:1")
    data = json.loads(invoke(*words, "--json").stdout)
    assert (data["measured"], data["looks_without_rest"]) == (False, 3)
    hunted.result = HuntResult(ended="time")
    assert "no measurement came to its end; give more --time" in invoke(*words).stdout
    hunted.result = HuntResult(ended="time", completed=3)
    assert invoke(*words).stdout.startswith("nothing found in 127.0.0.1:1")
    assert json.loads(invoke(*words, "--json").stdout)["measured"] is True


def test_hunt_keeps_what_it_found_for_the_next_one(hunted: Hunted, tmp_path: Path) -> None:
    """What leaks and what goes by itself, in a file that --known reads."""
    passing = replace(FOUND, sequence=Sequence.parse("a:open a:close"), gone=15.0)
    words = [SERVER, "--pid", "1", "--out", str(tmp_path)]
    for result, known in (
        (HuntResult(ended="time", passing=[passing]), [passing]),
        (
            HuntResult(ended="enough", findings=[FOUND.finding(SERVER)], passing=[passing]),
            [FOUND, passing],
        ),
    ):
        hunted.result = result
        told = invoke(*words, "--json")
        kept = json.loads(told.stdout)["file"]
        again = invoke(*words, "--known", kept, "--seed", "7", "--bandwidth", "2", "--idle", "3")
        assert again.exit_code == told.exit_code
        read = hunted.settings["known"]
        assert [(each.sequence, each.gone) for each in read] == [
            (each.sequence, each.gone) for each in known
        ]
    limits = hunted.settings["limits"]
    assert (hunted.settings["seed"], limits.bandwidth, limits.idle) == (7, 2e6, 3.0)
    hunted.result = HuntResult(ended="time", suspicion=FOUND)
    before = set(tmp_path.iterdir())
    invoke(*words)
    assert set(tmp_path.iterdir()) == before


def test_hunt_writes_each_finding_at_once(hunted: Hunted, tmp_path: Path) -> None:
    """One file grows, beside that of an earlier hunt; nothing else is in the folder then."""
    other = replace(FOUND, sequence=Sequence.parse("a:open a:close"))
    hunted.folder = tmp_path
    first = HuntResult(ended="time", findings=[FOUND.finding(SERVER)])
    both = HuntResult(ended="time", findings=[FOUND.finding(SERVER)], passing=[other])
    hunted.so_far, hunted.result = [first, both], both
    name = "muxleak-hunt-127.0.0.1-1.hunt.json"
    (tmp_path / name).write_text("of an earlier hunt")

    told = invoke(SERVER, "--pid", "1", "--out", str(tmp_path), "--json")

    mine = name.replace(".hunt", "-2.hunt")
    assert Path(json.loads(told.stdout)["file"]).name == mine
    assert [set(each) for each in hunted.files] == [{name, mine}] * 2
    read = [[str(one.sequence) for one in findings.read(each[mine])] for each in hunted.files]
    assert read == [[str(FOUND.sequence)], [str(FOUND.sequence), "a:open a:close"]]
    assert (tmp_path / mine).read_text() == hunted.files[-1][mine]
    assert (tmp_path / name).read_text() == "of an earlier hunt"
    assert (tmp_path / mine).stat().st_mode == (tmp_path / name).stat().st_mode


def test_hunt_measures_the_findings_of_a_file_again(hunted: Hunted, tmp_path: Path) -> None:
    """It is a replay file like all others, and also one of the first version."""
    other = replace(FOUND, sequence=Sequence.parse("a:open a:close"))
    hunted.so_far = [
        HuntResult(ended="time", findings=[FOUND.finding(SERVER), other.finding(SERVER)])
    ]
    invoke(SERVER, "--pid", "1", "--out", str(tmp_path / "found.hunt.json"))
    data = json.loads((tmp_path / "found.hunt.json").read_text())
    first = [{name: each[name] for name in FOUND.to_json()} for each in data["findings"]]
    earlier = {"muxleak_hunt": 1, "findings": first}
    (tmp_path / "earlier.hunt.json").write_text(json.dumps(earlier))

    assert (data["muxleak_replay"], data["muxleak_hunt"]) == (2, 1)
    each = data["findings"][0]
    assert (each["kind"], each["subject"], each["line"]) == ("hunt", SERVER, str(FOUND.sequence))
    assert each["verdict"] == "each repetition leaves 3, and 1 after its destination has closed"
    assert each["steps"][2] == "a:close  client a closes the connection"
    lines = []

    async def run(*words: Any) -> HuntResult:
        lines.append([str(each) for each in words[4]])
        return HuntResult(ended="replayed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("muxleak_scenarios.cli.hunt"), "_run", run)
        for name in ("found", "earlier"):
            invoke(SERVER, "--pid", "1", "--replay", str(tmp_path / f"{name}.hunt.json"))
    assert lines == [[str(FOUND.sequence), "a:open a:close"]] * 2
    refused = CliRunner().invoke(cli, ("replay", str(tmp_path / "found.hunt.json")))
    assert refused.exit_code == 2
    assert "muxleak hunt HOST:PORT --replay FILE" in " ".join(refused.stderr.split())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected a file that muxleak hunt has written"),
        ('{"muxleak_hunt": 1, "findings": []}', "expected findings to measure, got none"),
        ("V1 a:open", "expected JSON"),
    ],
)
def test_hunt_refuses_a_file_without_findings(tmp_path: Path, text: str, message: str) -> None:
    """Exit code 2."""
    (tmp_path / "found.json").write_text(text)
    result = invoke(SERVER, "--pid", "1", "--replay", str(tmp_path / "found.json"))

    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


@pytest.mark.slow
def test_hunt_that_is_killed_loses_no_finding(tmp_path: Path) -> None:
    """It is a process of its own, and goes on after its finding, until SIGKILL."""
    words = [*our_server("V1"), "--time", "600", "--patience", "1", "--out", str(tmp_path)]
    with subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", "muxleak", "hunt", *words],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not (written := [*tmp_path.glob("*.json")]):
            assert process.poll() is None
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
        # The server that it has started is in a session of its own, and outlives a SIGKILL.
        servers = [int(each) for each in children.read_text().split()]
        process.kill()
        for each in servers:
            os.killpg(each, signal.SIGKILL)

    (file,) = written
    assert str(findings.read(file.read_text())[0].sequence) == "a:open a:close"


def test_hunt_tells_the_line_that_measures_again(hunted: Hunted, tmp_path: Path) -> None:
    """With what says which server it is and how long it is waited for, as far as it was given."""
    hunted.result = HuntResult(
        ended="enough",
        findings=[FOUND.finding(SERVER)],
        passing=[FOUND],
        suspicion=FOUND,
        unsure=3,
        explained=4,
    )
    server = ["--pprof", "http://192.0.2.1:6060", "--pprof", "http://192.0.2.1:6061", "--pid", "1"]
    server += ["--user", "00000000-0000-0000-0000-000000000001"]
    words = ["192.0.2.1:443", *server, "--patience", "2.0", "--i-own-this-server"]
    data = json.loads(invoke(*words, "--time", "99", "--out", str(tmp_path), "--json").stdout)

    for found in (*data["findings"], *data["passing"], data["suspicion"]):
        said = shlex.split(found["replay"])
        assert said[:2] == ["muxleak", "hunt"]
        assert said[-2:] == ["--replay", str(FOUND.sequence)]
        assert sorted(said[2:-2]) == sorted(words)
    assert (data["found"], len(data["passing"])) == (1, 1)
    data = json.loads(invoke(SERVER, "--pid", "1", "--out", str(tmp_path), "--json").stdout)
    assert shlex.split(data["suspicion"]["replay"])[2:6] == [SERVER, "--pid", "1", "--replay"]
    assert (data["gone_when_waited_for"], data["looks_that_left_the_same"]) == (3, 4)


def test_hunt_shows_what_it_found() -> None:
    """How much of what is left where, what frees it, and what there is to know beside that."""
    shrinking = FOUND.growth._replace(memory=-(3 << 10))
    console = Console(width=100, file=StringIO(), color_system=None, emoji=False)
    result = HuntResult(
        findings=[
            FOUND.finding(SERVER),
            replace(FOUND, shrunk=False, log=(), growth=shrinking).finding(SERVER),
        ],
        ended="trouble",
        trouble="no profile",
    )
    again = hunt_report.Again(("hunt", SERVER), "goroutine")
    hunt_report.show(console, result, Listen("127.0.0.1", 1), None, again)
    first, _, second = cast("StringIO", console.file).getvalue().partition("\n2  ")
    told = [" ".join(line.split()) for line in first.splitlines()]

    left = "about 2 goroutines and 1 descriptor per repetition"
    assert told[0] == f"1 {left}; 1 and 0 after the destinations have gone"
    at = told.index("each after blocked in")
    assert [line for line in told[at + 1 :] if line[:1].isdigit()][:2] == [
        "2 1 io.Read < main.run",
        "1 0 (descriptors)",
    ]
    assert "memory about 3 KiB per repetition" in told
    assert "found shrunk and measured after 12 s" in told
    assert any("starting" in line for line in told)
    assert any("goodbye" in line for line in told)
    assert "perhaps not the shortest" in second
    assert "memory" not in second
    assert "shrunk and measured" not in second
    assert "the hunt could not go on\nno profile\n" in second


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_hunt_fits_the_terminal(columns: int) -> None:
    """But for the lines that measure again, which are there to be copied."""
    console = Console(width=columns, file=StringIO(), color_system=None, emoji=False)
    stack = ("github.com/sagernet/sing-vmess.(*ServerSession).recvLoopOfAVeryLongName", "main.run")
    counts = Counter({stack: 2, DESCRIPTORS: 1})
    found = replace(FOUND, growth=FOUND.growth._replace(held=counts, kept=Counter()))
    result = HuntResult(
        findings=[found.finding(SERVER)], passing=[found], suspicion=found, trouble="no profile"
    )
    again = hunt_report.Again(("hunt", SERVER), "goroutine")
    hunt_report.show(console, result, Listen("127.0.0.1", 1), None, again)
    lines = cast("StringIO", console.file).getvalue().splitlines()

    wide = [line for line in lines if len(line.rstrip()) > columns]
    assert [line for line in wide if not line.lstrip().startswith("muxleak hunt ")] == []
    assert not any("…" in line for line in lines)
    assert "recvLoopOfAVeryLongName" in "".join(line.strip() for line in lines)


def our_server(version: str) -> list[str]:
    """Words that hunt our own server, in a process of its own."""
    port, debug = free_port(), free_port()
    program = str(ROOT / "tests/support/counted_server.py")
    command = shlex.join(
        ["env", f"PYTHONPATH={PYTHONPATH}", sys.executable, program, version, str(port), str(debug)]
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
    made = "created by " + site(MuxSession.run, "self._watch(")
    assert first["counts"][0]["stack"][-2:] == ["MuxSession._watch", made]

    again = invoke(*shlex.split(first["replay"])[2:], "--patience", "1", "--out", str(tmp_path))
    assert again.exit_code == 1
    assert "1 task per repetition; 1 after the destinations have gone" in again.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("version", "length"), [("V1", 2), ("V2", 4)])
def test_hunt_and_replay_take_each_other_s_sequences(
    tmp_path: Path, version: str, length: int
) -> None:
    """A finding at a server leaks in Python, and a pair's minimal sequence leaks at a server."""
    words = [*our_server(version), "--patience", "1", "--out", str(tmp_path), "--json"]
    result = invoke(*words, "--time", "60", "--findings", "1")
    (found,) = json.loads(result.stdout)["findings"]
    assert len(found["sequence"].split()) == length

    replayed = CliRunner().invoke(cli, ["replay", version, found["sequence"]])
    assert (replayed.exit_code, "violated: tasks" in replayed.stdout) == (1, True)

    minimal = str(find_pair("live_id_reused").facts.minimal)
    assert ":echo" in minimal
    result = invoke(*words, "--replay", minimal)
    (found,) = json.loads(result.stdout)["findings"]
    assert found["sequence"] == minimal.replace(":echo", ":@echo")


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
    monkeypatch.setattr(remote_server, "START_SECONDS", inf)
    script = "import os, signal; os.kill(os.getppid(), signal.SIGINT); signal.pause()"
    result = invoke(SERVER, "--command", shlex.join([sys.executable, "-c", script]))

    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "interrupted\n")


@pytest.mark.slow
def test_hunt_refuses_a_server_that_dials_nothing_for_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be told as one in which nothing was found."""
    monkeypatch.setattr(batch, "REACH_SECONDS", 1)
    words = [*our_server("REF"), "--user", str(UUID(int=7)), "--out", str(tmp_path)]
    result = invoke(*words)

    assert result.exit_code == 2
    said = " ".join(result.stderr.split())
    assert f"to dial 127.0.0.1 for a mux.cool stream of user {UUID(int=7)}, got nothing" in said


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
        [sys.executable, "-m", "muxleak", "hunt", SERVER, "--command", command],
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
    assert has_ended(pid)
