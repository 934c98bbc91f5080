"""Files that are broken, foreign or hostile: each reader says why, with exit code 2."""

import base64
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from muxleak_scenarios.cli import cli

COUNTS = [{"held": 1, "kept": 0, "stack": ["a"]}]
FINDING = {"sequence": "a:open a:close", "exact": True, "counts": COUNTS, "died": None}
BOMB = "sim1:" + base64.urlsafe_b64encode(b"\1" + zlib.compress(bytes(1 << 25))).decode()
RUN = {"program": "asyncio:sleep", "line": "sim1:AAAAAA", "trace": "", "verdict": "", "steps": []}


GROUP = {"kind": "task", "count": 1, "name": "f", "created": []}
RECORDED = {
    **RUN,
    "muxleak_replay": 2,
    "kind": "program",
    "subject": "asyncio:sleep",
    "signature": "",
    "groups": [GROUP],
    "versions": {"muxleak": "1", "python": "3"},
}


def invoke(*words: str) -> Result:
    """Run the program in this process, at 80 columns."""
    return CliRunner().invoke(cli, words, env={"COLUMNS": "80"})


def refused(result: Result, message: str) -> None:
    """Assert bad usage with this message, short, and no other exception."""
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in " ".join(result.stderr.split())
    assert len(result.stderr) < 2000


def hunt(**changes: Any) -> bytes:
    """The text of a file of findings with one finding, changed."""
    return json.dumps({"muxleak_hunt": 1, "findings": [{**FINDING, **changes}]}).encode()


def run(**changes: Any) -> bytes:
    """The text of a replay file of a program, changed."""
    return json.dumps({**RUN, **changes}).encode()


def recorded(**changes: Any) -> bytes:
    """The text of a replay file of version 2, changed."""
    return json.dumps({**RECORDED, **changes}).encode()


ANY = [
    (b"\xff\xfe", "expected UTF-8, got the byte 0xff at offset 0"),
    (b"{" * 9_000, "expected at most 32 brackets inside each other, got more"),
    (b'{"a": NaN}', "expected a finite number, got 'NaN'"),
    (b'{"a": ' + b"9" * 5000 + b"}", "expected a whole number of at most 20 digits, got 5,000"),
    (b'{"a": 1, "a": 1}', "expected every key once, got 'a' twice"),
    (b'{"a": "\\ud800"}', "half of a surrogate pair"),
    (b'{"a": 1', "expected JSON, got something else"),
]
PROGRAM_RUNS = [
    *ANY,
    (b"{" + b" " * (1 << 16), "expected at most 65,536 bytes, got more"),
    (b"[1]", "the content: expected an object, got a list of 1"),
    (run(line=1), "'line': expected text, got 1"),
    (run(line=BOMB), "cut or changed"),
    (run(line="sim1:AADwAA"), "cut or changed"),
    (run(line="sim1:BAAAAA"), "cut or changed"),
    (run(steps=[{}]), "a step: expected text, got an object of 0"),
    (run(steps={"a": 1}), "'steps': expected a list, got an object of 1"),
    (run(program=None), "'program': expected text, got null"),
    (run(trace=["x"]), "'trace': expected text, got a list of 1"),
    (recorded(muxleak_replay=3), "expected version 2 or earlier, got version 3"),
    (recorded(muxleak_replay="2"), "'muxleak_replay': expected a whole number, got '2'"),
    (recorded(versions=[]), "'versions': expected an object, got a list of 0"),
    (recorded(kind="x"), "'kind': expected one of program, server, sequence, hunt, got 'x'"),
    (recorded(kind="hunt"), "muxleak hunt HOST:PORT --replay FILE"),
    (recorded(findings=[]), "muxleak hunt HOST:PORT --replay FILE"),
    (recorded(subject=1), "'subject': expected text, got 1"),
    (recorded(line=1), "'line': expected text, got 1"),
    (recorded(kind="server", line="V1 a:open"), "expected a line that starts with 'sim1:'"),
    (recorded(signature=[]), "'signature': expected text, got a list of 0"),
    (recorded(groups={}), "'groups': expected a list, got an object of 0"),
    (recorded(groups=[1]), "expected an object, got 1"),
    (recorded(groups=[{**GROUP, "count": "1"}]), "'count': expected a whole number, got '1'"),
    (recorded(groups=[{**GROUP, "created": [[]]}]), "expected an object, got a list of 0"),
    (recorded(messages=[1]), "a message: expected text, got 1"),
    (recorded(target="os"), "'target': expected tcp, uvloop or none, got 'os'"),
]
SEQUENCES = [
    ("", "expected a line that starts with 'V1', got ''"),
    ("V1", "expected a line that starts with 'V1', got 'V1'"),
    ("V1 ", "expected steps after 'V1'"),
    ("V1 x", "step 'x': expected one of"),
    ("V1 b:close", "connection 'b' was not opened before"),
    ("V2 a:open", "expected a line that starts with 'V1', got 'V2 a:open'"),
    ("x" * 9_000, "expected a line that starts with 'V1', got 'xxx"),
]
FINDINGS = [
    *ANY,
    (b"{" + b" " * (1 << 23), "expected at most 8,388,608 bytes, got more"),
    (b'{"muxleak_hunt": 2, "findings": []}', "version 1: got version 2"),
    (b'{"muxleak_hunt": true, "findings": []}', "expected a whole number, got true"),
    (b'{"muxleak_hunt": 1, "findings": {}}', "'findings': expected a list, got an object of 0"),
    (b'{"muxleak_hunt": 1, "findings": [1]}', "expected an object, got 1"),
    (json.dumps({"muxleak_hunt": 1, "findings": [FINDING] * 1001}).encode(), "at most 1,000"),
    (hunt(sequence=1), "'sequence': expected text, got 1"),
    (hunt(sequence=""), "expected 1 to 500 steps, got 0"),
    (hunt(sequence="wait " * 501), "expected 1 to 500 steps, got 501"),
    (hunt(sequence="x" * 9999), "expected one of"),
    (hunt(counts=[{"held": 1e400, "kept": 1, "stack": []}]), "expected a finite number"),
    (hunt(counts=[{"held": -1, "kept": 1, "stack": []}]), "'held': expected a count of 0 or more"),
    (hunt(counts=[{"held": 1, "kept": "1", "stack": []}]), "'kept': expected a whole number"),
    (hunt(counts=[{"held": 1, "kept": 1, "stack": "abc"}]), "'stack': expected a list"),
    (hunt(counts=[{"held": 1, "kept": 1, "stack": [1]}]), "a stack: expected text, got 1"),
    (hunt(counts=None), "'counts': expected a list, got null"),
    (hunt(exact="no"), "'exact': expected true or false, got 'no'"),
    (hunt(died=[]), "'died': expected text, got a list of 0"),
    (hunt(gone_after_seconds="soon"), "'gone_after_seconds': expected a number, got 'soon'"),
    (hunt(gone_after_seconds=-1), "gone_after_seconds: expected 0 or more, got -1"),
]
LINES = [
    (b"\xff", "expected UTF-8, got the byte 0xff"),
    (b"#" * ((1 << 22) + 1), "expected at most 4,194,304 bytes, got more"),
    (b"V1 a:open \0", "expected CONNECTION:VERB"),
    (b"V1 a:open a:new:" + b"9" * 5000, "expected CONNECTION:VERB"),
    (b"V1 a:open a:data:1+99999999999999999999", "expected a size of 0 to 65535"),
    (b"V1 " + b"x" * 100_000, "step 'xxx"),
    (b"x" * 100_000, "expected a pair"),
    (b"live_id_reused/" + b"x" * 100_000, "expected /buggy or /fixed after the pair"),
    (b"V1 b:close", "connection 'b' was not opened before"),
]


@pytest.mark.parametrize(("content", "message"), PROGRAM_RUNS)
def test_replay_refuses_a_run_that_is_none(tmp_path: Path, content: bytes, message: str) -> None:
    """By its first byte it is JSON, whatever its name; with the suffix it is one in any case."""
    for name in ("found.sim.json", "found.txt")[: 2 if content.startswith(b"{") else 1]:
        file = tmp_path / name
        file.write_bytes(content)
        result = invoke("replay", str(file))
        refused(result, message)
        assert "muxleak fuzz MODULE:CALLABLE writes such files" in " ".join(result.stderr.split())


@pytest.mark.parametrize(("content", "message"), LINES)
def test_replay_refuses_lines_that_are_none(tmp_path: Path, content: bytes, message: str) -> None:
    """With the path of the file, and the number of the line."""
    file = tmp_path / "found.seq"
    file.write_bytes(content)
    refused(invoke("replay", str(file)), message)


@pytest.mark.parametrize(("line", "message"), SEQUENCES)
def test_replay_refuses_sequences_that_are_none(tmp_path: Path, line: str, message: str) -> None:
    """With the path of the file."""
    file = tmp_path / "found.sim.json"
    file.write_bytes(recorded(kind="sequence", subject="V1", line=line))
    refused(invoke("replay", str(file)), message)
    assert "found.sim.json: " in "".join(invoke("replay", str(file)).stderr.split("\n"))


@pytest.mark.parametrize(("content", "message"), FINDINGS)
def test_hunt_refuses_findings_that_are_none(tmp_path: Path, content: bytes, message: str) -> None:
    """Before the server is asked for anything."""
    file = tmp_path / "found.hunt.json"
    file.write_bytes(content)
    result = invoke("hunt", "127.0.0.1:9", "--pid", "1", "--known", str(file))
    refused(result, message)
    assert "expected a file that" in result.stderr or "expected" in message


@pytest.mark.parametrize(
    "command",
    [
        lambda path: ("replay", path),
        lambda path: ("hunt", "127.0.0.1:9", "--pid", "1", "--known", path),
    ],
)
@pytest.mark.parametrize("name", ["found.seq", "found.sim.json"])
def test_file_that_cannot_be_read_is_bad_usage(
    command: Callable[[str], tuple[str, ...]], name: str, tmp_path: Path, monkeypatch: Any
) -> None:
    """As one without permission, which the superuser of a container always has."""
    file = tmp_path / name
    file.write_text("V1 a:open\n")

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    refused(invoke(*command(str(file))), "Permission denied")
