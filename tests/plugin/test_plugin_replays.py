"""Replay files as tests: they fail while the program does, pass when it is fixed, or are errors."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

# Loaded here, because pytester forgets what the projects load.
from muxleak.plugin import replays
from muxleak.plugin.options import REPLAY_SUFFIX
from muxleak.search import find_leaks
from muxleak.server import search_server, server_subject
from muxleak.sim import Replay
from muxleak.sim.fresh_process import Difference
from muxleak.sim.replay import SUFFIX

pytest_plugins = ["pytester"]

Project = Any  # conftest's; test folders are no packages, so that it cannot be imported

FILE = "tests/third_connection.sim.json"
BUGGY = '''
import asyncio

from muxleak.sim import current, simulated

async def forever():
    await asyncio.get_running_loop().create_future()

async def main():
    """Leaks the third connection."""
    opened = 0
    while current().choices.below(3):
        opened += 1
        current().step(f"open {opened}")
        if opened == 3:
            _ = asyncio.get_running_loop().create_task(forever())
        await current().gap()

async def order():
    seen = []
    async def note(number):
        seen.append(number)
    await asyncio.gather(note(1), note(2))
    assert seen == [1, 2]

@simulated(leaks=False)
async def keeps():
    _ = asyncio.get_running_loop().create_task(forever())
    assert not current().choices.below(2)
'''
FIXED = BUGGY.replace("if opened == 3", "if False")


@pytest.fixture
def chat(project: Project) -> Project:
    """A project with a leaking program, the file of its leak, and an ordinary test."""
    (project.path / "tests").mkdir()
    project.write(BUGGY, "chat.py")
    keep(project, "main", FILE)
    project.write("def test_it():\n    pass\n", "tests/test_it.py")
    return project


def keep(project: Project, name: str, path: str, **options: Any) -> None:
    """Search a program and write the replay file of its leak."""
    scope: dict[str, Any] = {"__name__": "chat"}
    exec(compile(BUGGY, str(project.path / "chat.py"), "exec"), scope)  # noqa: S102 - our own text
    found = find_leaks(scope[name], **options)
    assert found is not None
    replace(found.replay, name=f"chat:{name}").save(project.path / path)


def test_replay_fails_while_the_program_does(chat: Project) -> None:
    """The failure shows the leak, its creation site, the steps, and the command."""
    result = chat.run("--leaks-replays")

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            f"{FILE} F*",
            f"*{FILE}: chat:main*",
            "E   muxleak.LeakError: 1 task leaked (expected 0 alive after close, got 1)",
            "E     1 x forever",
            f"E       made at {chat.line('create_task', 'chat.py')} in main",
            "E   steps: open 1 | open 2 | open 3",
            f"E   replay with: muxleak replay {FILE}",
            f"FAILED {FILE}::chat:main - *",
        ]
    )
    assert "another run" not in result.stdout.str()
    assert "_pytest" not in result.stdout.str()


def test_replay_passes_when_the_program_is_fixed(chat: Project) -> None:
    """The file is the same; the changed program makes another run."""
    chat.write(FIXED, "chat.py")

    chat.run("--leaks-replays").assert_outcomes(passed=2)


def test_replay_that_takes_another_course_is_named_in_the_summary(chat: Project) -> None:
    """It passes, whatever the filters of warnings say; one that follows its run is not named."""
    keep(chat, "order", "tests/same.sim.json", wakeups=True)
    found = Replay.load(chat.path / "tests/same.sim.json")
    replace(found, environment=b"").save(chat.path / "tests/same.sim.json")
    chat.write(FIXED, "chat.py")
    replace(found, environment=b"", trace="").save(chat.path / "tests/no_trace.sim.json")
    result = chat.run("--leaks-replays", "-W", "error")

    result.assert_outcomes(passed=4, warnings=0)
    result.stdout.fnmatch_lines(
        ["*= replays =*", "2 replays passed and took another course than *", f"  {FILE}::chat:main"]
    )
    assert "no_trace" not in result.stdout.str().split("= replays =")[1]


@pytest.mark.parametrize("how", ["option", "ini"])
def test_replay_that_takes_another_course_fails_on_request(
    chat: Project, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The failure names the cause, as `muxleak replay` does."""
    difference = Difference("hash", "depends on hash order", ())
    monkeypatch.setattr(replays, "why_it_differs", lambda *_, **__: difference)
    chat.write(FIXED, "chat.py")
    chat.ini("leaks_replays_exact = true" if how == "ini" else "")
    result = chat.run(*(["--leaks-replays-exact"] if how == "option" else []))

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [f"*{FILE}: passes, but takes another course *: the program depends on hash order*"]
    )


def test_replay_fails_when_another_run_does(chat: Project) -> None:
    """A program that has changed and still fails is reported with a note."""
    chat.write(BUGGY.replace('"open {opened}"', '"connect {opened}"'), "chat.py")
    result = chat.run("--leaks-replays")

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["E   steps: connect 1*", "E   the program no longer follows*"])


def test_replay_shows_where_a_program_raises(chat: Project) -> None:
    """Only the program's frames are shown; an order that asyncio never produces is labelled."""
    (chat.path / FILE).unlink()
    keep(chat, "order", FILE, wakeups=True)
    result = chat.run("--leaks-replays")

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            f"{chat.line('assert seen', 'chat.py')}: in order",
            "E   AssertionError*",
            "E   needs wakeups=True: stock asyncio *",
        ]
    )
    assert "plugin/replays.py" not in result.stdout.str()


@pytest.mark.parametrize(
    ("ini", "arguments", "failed"),
    [
        ("", [], 0),
        ("", ["--leaks=strict"], 0),
        ("", ["--leaks-replays"], 1),
        ("leaks_replays = true", [], 1),
        ("leaks_replays = false", [], 0),
        ("leaks_replays = false", ["--leaks-replays"], 1),
        ("", ["tests"], 0),
        ("leaks_replays = true", [FILE, "tests/test_it.py"], 1),
        ("", [f"{FILE}::chat:main", "tests/test_it.py"], 1),
    ],
)
def test_replays_are_tests_only_if_asked_for(
    chat: Project, ini: str, arguments: list[str], failed: int
) -> None:
    """By the option, by the ini value, or by the names of the file and the program."""
    chat.ini(ini)

    chat.run(*arguments).assert_outcomes(passed=1, failed=failed)


def test_replays_named_bring_no_others(chat: Project) -> None:
    """Naming one file asks for that file."""
    (chat.path / "tests" / "broken.sim.json").write_text("{")

    chat.run(f"{FILE}::chat:main", "tests").assert_outcomes(passed=1, failed=1)


@pytest.mark.parametrize("node", [FILE, f"{FILE}::chat:order", f"{FILE}::"])
def test_replay_imports_no_program_that_only_a_file_names(chat: Project, node: str) -> None:
    """The file is an error that says how to name the program, or to trust the file."""
    chat.write("raise SystemExit('imported')\n", "chat.py")
    result = chat.run(node, "tests/test_it.py")

    # pytest's own answer to a word that names no test is a usage error.
    codes = pytest.ExitCode.INTERRUPTED, pytest.ExitCode.USAGE_ERROR
    assert result.ret == codes["::" in node]
    assert (
        f"{FILE}: names the program 'chat:main', which would be imported; if you trust that code: "
        f"pytest {FILE}::chat:main, or --leaks-replays"
    ) in result.stdout.str()
    assert "imported" not in result.stdout.str().replace("be imported", "")


def test_replays_leave_foreign_files_alone(chat: Project) -> None:
    """Files of other names are not opened, and while replays are off none is."""
    (chat.path / "tests" / "foreign.json").write_text("{")
    (chat.path / "tests" / "sim.json").write_text("{")
    chat.write(FIXED, "chat.py")
    chat.run("--leaks-replays").assert_outcomes(passed=2)
    (chat.path / "tests" / "broken.sim.json").write_text("{")

    chat.run().assert_outcomes(passed=1)


@pytest.mark.parametrize("text", ["{", "[]", "", '{"program": "chat:main", "line": "sim1:A"}'])
def test_replay_file_that_is_none_is_an_error(chat: Project, text: str) -> None:
    """It is named with what is wrong; the run ends as with a test file that cannot be read."""
    (chat.path / "tests" / "broken.sim.json").write_text(text)
    result = chat.run("--leaks-replays")

    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*broken.sim.json: not a replay file: *"])
    assert "Traceback" not in result.stdout.str()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("chatt:main", "no module 'chatt': there is no 'chatt' on the import path"),
        ("chat:mian", "no 'mian' in module 'chat'; did you mean 'main'?"),
        ("broken:main", "importing 'broken' failed: ZeroDivisionError: *broken.py:1*"),
        ("chat:test.<locals>.main", "expected module:callable*"),
        ("", "expected module:callable*"),
    ],
)
def test_replay_without_its_program_is_an_error(chat: Project, name: str, message: str) -> None:
    """An error of the setup, not a failure, says why and what to do."""
    chat.write("1 / 0\n", "broken.py")
    replace(Replay.load(chat.path / FILE), name=name).save(chat.path / FILE)
    result = chat.run("--leaks-replays")

    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines([f"{FILE}: {message}; expected a program that can be imported*"])


@pytest.mark.parametrize("mode", ["strict", "warn"])
def test_replay_is_judged_by_itself_alone(chat: Project, mode: str) -> None:
    """The settings of a program, not `--leaks`, say which objects it may leave."""
    keep(chat, "keeps", FILE)
    chat.write(BUGGY.replace("assert not ", ""), "chat.py")
    result = chat.run("--leaks-replays", f"--leaks={mode}")

    result.assert_outcomes(passed=2, warnings=0)


SERVER = """
import asyncio

kept = []

async def serve(reader, writer):
    if await reader.readline() == b"hello\\n":
        kept.append(asyncio.create_task(asyncio.sleep(3600)))
    writer.close()
"""


def keep_server(project: Project) -> None:
    """Search a server and write the replay file of its leak."""
    scope: dict[str, Any] = {"__name__": "room"}
    exec(compile(SERVER, str(project.path / "room.py"), "exec"), scope)  # noqa: S102 - our own text
    found = search_server(server_subject(scope["serve"], messages=[b"hello\n"]))
    assert found is not None
    replace(found.replay, name="room:serve").save(project.path / FILE)


@pytest.mark.parametrize("how", [["--leaks-replays"], [f"{FILE}::room:serve"]])
def test_replay_of_a_server_fails_while_the_server_does(chat: Project, how: list[str]) -> None:
    """With the messages of the file; it passes when the server is fixed, on another course."""
    chat.write(SERVER, "room.py")
    keep_server(chat)
    result = chat.run(*how)

    assert result.parseoutcomes()["failed"] == 1
    result.stdout.fnmatch_lines(
        [
            "E   muxleak.LeakError: *",
            f"E       made at {chat.line('create_task', 'room.py')} in serve",
            "E   steps: a connects and sends b'hello*",
            f"E   replay with: muxleak replay {FILE}",
        ]
    )
    chat.write(SERVER.replace("kept.append", "").replace("sleep(3600)", "sleep(0)"), "room.py")
    chat.run("--leaks-replays").assert_outcomes(passed=2)
    exact = chat.run("--leaks-replays-exact")
    exact.assert_outcomes(passed=1, failed=1)
    exact.stdout.fnmatch_lines(["*the server or its settings have changed*"])


def test_replay_of_a_server_is_not_imported_unasked(chat: Project) -> None:
    """As for a program."""
    chat.write("raise SystemExit('imported')\n", "room.py")
    keep_server(chat)

    assert chat.run(FILE).ret == pytest.ExitCode.INTERRUPTED


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"messages": ("\\x",)}, "*has an escape that means nothing*"),
        ({"name": "room:kept"}, "*expected an async function (reader, writer)*"),
        (
            {"kind": "sequence", "name": "V1", "notation": "b:close"},
            "*expected each connection to be opened first, got 'V1 b:close'*",
        ),
        ({"kind": "sequence", "name": "nobody", "notation": "a:open"}, "*expected a pair*"),
    ],
)
def test_replay_that_cannot_be_repeated_is_no_pass(
    chat: Project, changes: dict[str, Any], message: str
) -> None:
    """The reason is named."""
    chat.write(SERVER, "room.py")
    keep_server(chat)
    replace(Replay.load(chat.path / FILE), **changes).save(chat.path / FILE)
    result = chat.run("--leaks-replays")

    assert result.parseoutcomes().get("passed") == 1
    result.stdout.fnmatch_lines([message])


@pytest.mark.parametrize("how", ["--leaks-replays", FILE])
def test_replay_of_a_pair_fails_while_the_pair_does(chat: Project, how: str) -> None:
    """It needs no trust, since no module is imported that the file names."""
    found = Replay(kind="sequence", name="V1", notation="a:open a:close")
    found.save(chat.path / FILE)
    result = chat.run(how)

    assert result.parseoutcomes().get("failed") == 1
    result.stdout.fnmatch_lines(
        ["E   *violated: tasks: *", "E   steps: a:open  client a connects*"]
    )
    replace(found, name="REF").save(chat.path / FILE)
    assert "failed" not in chat.run(how).parseoutcomes()


def test_replay_of_a_hunt_is_an_error(chat: Project) -> None:
    """Its run needs a server from outside."""
    Replay(kind="hunt", name="127.0.0.1:1", notation="a:open").save(chat.path / FILE)
    result = chat.run("--leaks-replays")

    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["*muxleak hunt HOST:PORT --replay FILE*"])


def test_replay_leaves_the_path_as_it_was(chat: Project) -> None:
    """The root of the project is on the path for the program only."""
    chat.ini("addopts = --import-mode=importlib")
    chat.write(
        """
        import sys
        from pathlib import Path

        def test_it():
            assert str(Path(__file__).parents[1]) not in sys.path
        """,
        "tests/test_it.py",
    )
    chat.write(FIXED, "chat.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [each for each in sys.path if each not in {"", str(chat.path)}])
        chat.run("--leaks-replays").assert_outcomes(passed=2)


def test_replay_suffix_is_the_one_that_is_written() -> None:
    """The plugin has it without importing the simulation."""
    assert REPLAY_SUFFIX == SUFFIX


@pytest.mark.slow
def test_plugin_that_is_off_loads_next_to_nothing(project: Project) -> None:
    """A project without checks and replay files does not wait for the harness."""
    project.write("""
        import sys

        def test_it():
            loaded = {name for name in sys.modules if name.startswith("muxleak.")}
            plugin = {f"muxleak.plugin{name}" for name in ("", ".options", ".summary")}
            assert loaded == plugin | {"muxleak.lazy"}
        """)

    project.run_apart().assert_outcomes(passed=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "workers",
    [
        [],
        pytest.param(
            ["-n", "2"],
            marks=pytest.mark.skipif(
                importlib.util.find_spec("xdist") is None,
                reason="needs pytest-xdist: pip install pytest-xdist (the extra `dev` has it)",
            ),
        ),
    ],
    ids=["alone", "xdist"],
)
def test_replay_in_a_process_of_its_own(chat: Project, workers: list[str]) -> None:
    """With every plugin that is installed, both ways."""
    result = chat.run_apart("--leaks-replays", *workers)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["E     1 x forever"])
    chat.write(FIXED, "chat.py")

    result = chat.run_apart("--leaks-replays", *workers)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["1 replay passed and took another course than *"])
    assert Path(chat.path, FILE).stat().st_size <= 4096
