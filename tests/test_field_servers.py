"""The command that checks servers with libraries of other projects, and its tables in docs."""

from __future__ import annotations

import importlib.util
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import environments
from environments import Environment
from pages import table
from served import SERVERS, TrueLeak, UserServer

if TYPE_CHECKING:
    from collections.abc import Sequence


def command() -> Any:
    """Import the command under another name: "servers" is a module of the tests' own support."""
    path = Path(environments.ROOT, "tests", "field", "servers.py")
    spec = importlib.util.spec_from_file_location("field_servers", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["field_servers"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


servers = command()
Checked, Row = servers.Checked, servers.Row
PROGRAM = """
import asyncio

MESSAGES = [b"hello"]


async def clean(reader, writer):
    await reader.read()
    writer.close()


async def planted(reader, writer):
    kept.append(asyncio.create_task(asyncio.Event().wait()))  # planted
    await clean(reader, writer)


async def leaving(reader, writer):
    if await reader.read(100) == LEAVING_MESSAGES[0]:
        raise LookupError("a leak of another kind")
    writer.close()


LEAVING_MESSAGES = [b"bye"]
LEAVING_OPTIONS = {"events": ["send"], "clients": 1}
kept = []
"""
LEAK = TrueLeak("Library.accept", "It stays.")
SERVER = UserServer("library_task", "library==1", leaks=(LEAK,))
PASSED = Checked(found=False)
FOUND = Checked(
    found=True,
    text="1 task leaked\n  made at library_task.py:12 in f\nfound in sequence 1,234 of x, "
    'shortened to:\nagain: check_server(..., replay="sim1:AAAA")',
)
TRUE = Checked(found=True, text="1 task leaked\n  made at library.py:3 in Library.accept")


def row(planted: Any = FOUND, clean: Any = PASSED, leak: Any = TRUE) -> Any:
    """Results of the server above."""
    line, leaks = "library_task.py:12", {LEAK.place: leak}
    return Row("library 1", "simulated", line, 2_000, planted, clean, leaks, leaks)


def test_table_of_servers_is_that_of_the_command() -> None:
    """The page lists each library with its target, the planted kind, and the true leaks."""
    listed = [(*cells[:2], cells[3], cells[-1]) for cells in table("field.md", "Servers")]
    assert listed == [
        (
            each.release.replace("==", " "),
            each.target,
            each.kind,
            ", ".join(f"`{leak.place}`" for leak in each.leaks) or "none",
        )
        for each in SERVERS
    ]


def test_every_true_leak_is_on_the_page() -> None:
    """The page has the reason of each."""
    page = Path(environments.ROOT, "docs", "field.md").read_text("utf-8")
    words = " ".join(page.split())
    reasons = [leak.reason for each in SERVERS for leak in each.leaks]
    assert [reason for reason in reasons if reason not in words] == []


def test_every_server_has_a_program_with_a_planted_line() -> None:
    """Each entry has a program of its own, with one planted line, and names releases exactly."""
    programs = sorted(path.stem for path in servers.PROGRAMS.glob("*.py"))
    assert programs == sorted(each.program for each in SERVERS)
    for each in SERVERS:
        assert servers.planted_line(servers.PROGRAMS / f"{each.program}.py")
    pins = [pin for each in SERVERS for pin in (each.release, *each.requirements)]
    assert [pin for pin in pins if not re.fullmatch(r"[\w.\[\]-]+==[\w.]+", pin)] == []


def test_row_as_documented() -> None:
    """A planted leak with its line, a clean variant that passes, and a true leak at its place."""
    result = row()
    assert (result.is_named, result.faults) == (True, [])
    assert servers.line(result, SERVER) == (
        "| library 1 | simulated | 0 | task | 1,234 | yes | 0 | `Library.accept` |\n"
        "    Library.accept, in sequence , again: replay=''"
    )
    assert servers.summary([result]).startswith("1 servers: 1 planted leaks found")


@pytest.mark.parametrize(
    ("result", "fault"),
    [
        (row(planted=PASSED), "the planted leak at library_task.py:12: nothing was reported"),
        (row(planted=TRUE), "the planted leak"),
        (row(planted=replace(FOUND, text=FOUND.text.replace(":12", ":123"))), "the planted leak"),
        (row(planted=Checked(found=False, error="KeyError", text="x")), "KeyError: x"),
        (row(clean=FOUND), "the clean variant: 1 task leaked"),
        (row(clean=Checked(found=False, error="no end within 900 s")), "no end within 900 s"),
        (row(leak=PASSED), "the leak at Library.accept: nothing was reported"),
        (row(leak=FOUND), "the replay of the leak"),
    ],
)
def test_row_that_differs_from_the_page(result: Any, fault: str) -> None:
    """A missed plant, a wrong line, an accused clean variant and a lost true leak are faults."""
    assert any(fault in each for each in result.faults)
    assert "not as documented" in servers.line(result, SERVER)


def test_true_leaks_are_ignored_where_another_thing_is_sought() -> None:
    """The clean variant is checked without them, and each of them without the others."""
    other = TrueLeak("Library.leave", "It stays.", "leaving")
    server = replace(SERVER, leaks=(LEAK, other))
    assert server.ignored("clean") == server.ignored("planted") == [LEAK.place]
    assert server.ignored("clean", LEAK.place) == server.ignored("leaving", other.place) == []
    assert server.ignored("leaving") == [other.place]


@pytest.mark.slow
def test_probe_checks_each_variant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted leak is found with its line, and a variant may have messages of its own."""
    (tmp_path / "library_task.py").write_text(PROGRAM)
    monkeypatch.setattr(servers, "PROGRAMS", tmp_path)
    path = f"{environments.path_of_sources()}:{tmp_path}"

    def checked(*words: str) -> Any:
        return servers.check(Environment(Path(sys.prefix)), "library_task", words, path)

    clean, planted, leaving = (
        checked(variant, "--sequences=50") for variant in ("clean", "planted", "leaving")
    )
    again = checked("planted", f"--replay={planted.replay}")
    ignored = checked("planted", "--sequences=50", "--ignore=planted")

    assert (clean.passed, ignored.passed) == (True, True)
    assert servers.planted_line(tmp_path / "library_task.py") in planted.text
    assert (planted.sequence, again.found) == ("1", True)
    assert leaving.error == "LookupError"
    assert "sends b'bye'" in leaving.text


@pytest.mark.slow
def test_probe_without_an_answer_is_an_error(tmp_path: Path) -> None:
    """A program that cannot be imported is no clean one."""
    done = servers.check(Environment(Path(sys.prefix)), "missing", ["clean"], str(tmp_path))
    assert not done.passed


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--only", "nothing"], "got nothing"), (["--sequences", "0"], "got 0")],
)
def test_wrong_argument_is_refused(
    words: Sequence[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unknown name, or no sequence, is an error of usage and not an empty run."""
    assert servers.main(words) == 2
    assert message in capsys.readouterr().err


def test_kind_is_part_of_the_name() -> None:
    """The name of a program ends with the kind of its planted leak."""
    assert {each.kind for each in SERVERS} >= {"task", "timer", "connection", "generator"}
