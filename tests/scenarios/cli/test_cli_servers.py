"""``muxleak fuzz module:server`` and ``muxleak replay`` of what it found."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from muxleak.server.messages import escaped
from muxleak.server.regression import FIRST_LINE
from muxleak_scenarios.cli import cli
from muxleak_scenarios.cli.fuzz_server import Bytes, check_test, is_given_as_server

ROOM = '''
import asyncio
from contextlib import asynccontextmanager

from muxleak.sim import simulated

tickers = []


async def handler(reader, writer):
    """Leaks a task for each client that says hello."""
    try:
        while line := await reader.readline():
            if line == b"hello\\n":
                tickers.append(asyncio.create_task(asyncio.sleep(3600)))
    finally:
        writer.close()


async def start():
    print("starts")
    return await asyncio.start_server(handler, "127.0.0.1", 0)


async def start_at(host, port):
    return await asyncio.start_server(handler, host, port)


async def annotated() -> asyncio.Server:
    return await start()


@asynccontextmanager
async def running():
    async with await start() as server:
        yield server


class Silent(asyncio.Protocol):
    pass


async def main():
    """A program of the simulation."""


@simulated
async def with_settings():
    return await start()


async def forever() -> None:
    server = await start()
    async with server:
        await server.serve_forever()


async def with_clients():
    async def serve(server):
        await server.serve_forever()

    server = await start()
    task = asyncio.create_task(serve(server))
    task.cancel()


async def threads(reader, writer):
    await asyncio.to_thread(len, "")
    writer.close()


async def answer():
    return 42
'''


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with the module; it is imported anew for each test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "room.py").write_text(ROOM)
    monkeypatch.delitem(__import__("sys").modules, "room", raising=False)
    yield tmp_path
    __import__("sys").modules.pop("room", None)


FILE = "muxleak-room-start.sim.json"


def invoke(*words: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(cli, words)


@pytest.mark.parametrize(
    "name", ["handler", "start", "start_at", "annotated", "running", "forever"]
)
def test_fuzz_server_prints_what_it_found(name: str) -> None:
    """The steps, the leak with its sites, and the command that repeats it; exit code 1."""
    result = invoke("fuzz", f"room:{name}", "--message", r"hello\n", "--examples", "300")

    assert result.exit_code == 1, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"found in room:{name}, in sequence ")
    assert r"  a connects and sends b'hello\n'" in lines
    assert "    made at room.py:15 in handler" in lines
    file = f"muxleak-room-{name}.sim.json"
    assert lines[-3] == f"again, also from {file}:"
    assert lines[-2].endswith(rf" room:{name} --message 'hello\n'")
    assert lines[-1] == f"  muxleak replay {file} room:{name}"
    assert "starts" not in result.output


def test_replay_repeats_the_sequence() -> None:
    """The command of the report fails again with the same words; without the message it passes."""
    found = invoke("fuzz", "room:start", "--message", r"hello\n").stdout
    words = shlex.split(found.splitlines()[-2])[1:]

    again = invoke(*words)
    other = invoke(*words[:-1], r"other\n")
    data = json.loads(invoke(*words, "--json").stdout)

    assert (again.exit_code, other.exit_code) == (1, 0)
    verdict = found.partition("\n")[2].partition("again, also")[0]
    assert again.stdout == f"failed: room:start\n{verdict}"
    assert other.stdout == "clean: room:start does not fail\n"
    assert (data["clean"], data["runs"][0]["error"]) == (False, "LeakError")


def test_file_repeats_the_sequence(folder: Path) -> None:
    """It has the messages; the server must be named, or the file trusted."""
    found = invoke("fuzz", "room:start", "--message", r"hello\n").stdout
    data = json.loads((folder / FILE).read_text())
    verdict = found.partition("\n")[2].partition("again, also")[0]

    assert (data["kind"], data["subject"]) == ("server", "room:start")
    assert (data["messages"], data["steps"][0]) == (
        [r"hello\n"],
        r"a connects and sends b'hello\n'",
    )
    assert data["groups"][0]["created"][0] == {"file": "room.py", "line": 15, "function": "handler"}
    assert (folder / FILE).stat().st_size <= 4096
    for words in ((FILE, "room:start"), (FILE, "--trust")):
        again = invoke("replay", *words)
        assert (again.exit_code, again.stdout) == (1, f"failed: room:start\n{verdict}")
    assert json.loads(invoke("replay", FILE, "--trust", "--json").stdout)["runs"][0]["same_run"]
    other = invoke("replay", FILE, "room:start", "--message", r"other\n")
    assert other.exit_code == 0
    assert "another run than the file's: the program or its settings have changed" in other.stdout
    refused = invoke("replay", FILE)
    assert refused.exit_code == 2
    assert "if you trust that code: muxleak replay" in " ".join(refused.stderr.split())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "os"}, "'target': expected tcp, uvloop or none, got 'os'"),
        ({"messages": ["\\x"]}, "has an escape that means nothing"),
        ({"messages": ["a"] * 300}, "expected at most 256 messages, got 300"),
        ({"subject": "room:tickers"}, "expected an async function (reader, writer)"),
        ({"subject": "room:threads"}, "run_in_executor leaves the simulation"),
    ],
)
def test_file_that_cannot_be_repeated_is_bad_usage(
    folder: Path, changes: dict[str, object], message: str
) -> None:
    """Exit code 2, and the reason."""
    invoke("fuzz", "room:start", "--message", r"hello\n")
    data = json.loads((folder / FILE).read_text())
    (folder / FILE).write_text(json.dumps({**data, **changes}))
    result = invoke("replay", FILE, "--trust")

    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())


def test_fuzz_server_json_has_everything() -> None:
    """What was searched with which messages, what was found, and how to repeat it."""
    data = json.loads(invoke("fuzz", "room:start", "--message", r"hello\n", "--json").stdout)

    assert (data["subject"], data["target"], data["messages"]) == (
        "room:start",
        "simulated",
        [r"hello\n"],
    )
    assert (data["found"], data["error"]) == (True, "LeakError")
    assert data["steps"][0] == r"a connects and sends b'hello\n'"
    assert data["replay"].startswith("muxleak replay sim1:")
    assert data["file"] == FILE


def test_fuzz_server_says_the_budget_in_which_nothing_was_found() -> None:
    """Exit code 0."""
    result = invoke("fuzz", "room:Silent", "--message", "x", "--examples", "20")

    text = "nothing found: 20 sequences, within the budget of 20 sequences\n"
    assert (result.exit_code, result.stdout) == (0, text)


@pytest.mark.parametrize(
    ("name", "server"),
    [
        ("handler", True),
        ("start", True),
        ("start_at", True),
        ("annotated", True),
        ("running", True),
        ("forever", True),
        ("Silent", True),
        ("main", False),
        ("with_clients", False),
        ("with_settings", False),
        ("answer", False),
        ("tickers", False),
    ],
)
def test_servers_and_programs_are_told_apart(name: str, *, server: bool) -> None:
    """By the signature, the annotation, the settings, or what it returns; messages settle it."""
    assert is_given_as_server(f"room:{name}", messages=False) is server
    assert is_given_as_server(f"room:{name}", messages=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("room:tickers", "--message", "x"), "expected an async function (reader, writer)"),
        (("room:answer", "--message", "x"), "expected an asyncio.Server"),
        (("room:threads",), "--target tcp"),
        (("room:start", "--wakeups"), "means nothing for a server"),
        (("room:main", "--target", "tcp"), "means nothing for a program"),
        (("room:main", "--test", "t.py"), "means nothing for a program"),
        (("V1", "--message", "x"), "means nothing for a pair or version"),
        (("room:start", "--message", "\\x"), "has an escape that means nothing"),
        (("room:start", "--message", "\\d"), "has an escape that means nothing"),
        (("room:start", "--message", "\\u20ac"), "has an escape that means nothing"),
        (("room:start", "--messages", "none.txt"), "none.txt: No such file or directory"),
        (("V1", "--messages", "room.py"), "--messages means nothing for a pair or version"),
    ],
)
def test_bad_usage_is_named(words: tuple[str, ...], message: str) -> None:
    """Exit code 2, and the reason."""
    result = invoke("fuzz", *words)

    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())


def test_messages_of_a_file_are_sent(folder: Path) -> None:
    """After those of the command line; the printed command names the file, and repeats."""
    (folder / "sent.txt").write_bytes(b"other\\n\r\n\nhello\\n\n")
    words = ("--message", r"x\x00", "--messages", "sent.txt")

    data = json.loads(invoke("fuzz", "room:start", *words, "--json").stdout)
    again = invoke(*shlex.split(data["replay"])[1:])

    assert data["messages"] == [r"x\x00", r"other\n", r"hello\n"]
    assert data["replay"].endswith(r" room:start --message 'x\x00' --messages sent.txt")
    assert "a connects and sends b'hello\\n'" in data["steps"]
    assert again.exit_code == 1, again.output


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"good\\n\nbad\\", r"wrong.txt:2: 'bad\\' has an escape that means nothing"),
        (b"\xff", "wrong.txt: expected UTF-8, got the byte 0xff"),
        (b"\n\n", "wrong.txt: expected a message on each line, got none"),
        (b"x\n" * 257, "expected at most 256 messages, got 257"),
        (b"x" * (4 << 20) + b"\n", "wrong.txt: expected at most 4,194,304 bytes"),
    ],
)
def test_malformed_files_of_messages_are_refused(
    content: bytes, message: str, folder: Path
) -> None:
    """Exit code 2, with the file and the line."""
    (folder / "wrong.txt").write_bytes(content)

    result = invoke("fuzz", "room:start", "--messages", "wrong.txt")

    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())


@pytest.mark.slow
def test_a_test_is_written(folder: Path) -> None:
    """It is named in the output, and it fails on the server."""
    result = invoke("fuzz", "room:start", "--message", r"hello\n", "--test", "test_room.py")

    assert result.stdout.splitlines()[-1] == "test: test_room.py"
    assert "async def connections" in (folder / "test_room.py").read_text()


def test_a_test_takes_no_other_file_s_place(folder: Path) -> None:
    """Only a file that an earlier search has written is written anew."""
    mine = folder / "test_mine.py"
    mine.write_text("def test_mine(): pass\n")

    result = invoke("fuzz", "room:start", "--message", r"hello\n", "--test", "test_mine.py")

    assert result.exit_code == 2
    told = " ".join(result.stderr.split())
    assert "test_mine.py exists, and is no test that --test has written" in told
    assert mine.read_text() == "def test_mine(): pass\n"

    mine.write_text(f"{FIRST_LINE} room:start that failed:\n")
    check_test(mine)
    check_test(folder / "test_new.py")


@pytest.mark.usefixtures("folder")
def test_a_file_in_place_of_its_module_is_answered_with_the_module() -> None:
    """The slip of a user who completes file names."""
    result = invoke("fuzz", "room.py:start", "--message", "x")

    assert result.exit_code == 2
    assert "did you mean 'room:start'?" in " ".join(result.stderr.split())


@pytest.mark.parametrize("message", [b"hello\n", b"it's \xff\x00", b'"\\', "é".encode()])
def test_messages_are_written_as_they_are_read(message: bytes) -> None:
    """The escapes of a printed command give the same bytes again."""
    assert Bytes().convert(escaped(message), None, None) == message
