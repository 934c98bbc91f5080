"""Files of what was found: asked for before, and no finding is lost with them."""

import json
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from findings import finding
from muxleak_scenarios import Sequence, find_pair, run_sequence
from muxleak_scenarios.cli import cli, fuzz, replay_files
from muxleak_scenarios.pairs.campaign import CampaignProgress, CampaignResult

FLAGSHIP = "watcher_outlives_connection"
SEARCHES = (("fuzz", "V1"), ("fuzz", "chat:main"), ("hunt", "127.0.0.1:1", "--pid", "1"))
searches = pytest.mark.parametrize("search", SEARCHES, ids=["fuzz", "program", "hunt"])
needs_proc = pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
PROGRAM = """
import asyncio

async def main():
    asyncio.get_running_loop().create_task(asyncio.Event().wait())
    await asyncio.sleep(0)
"""


def invoke(*words: str) -> Result:
    """Run the program in this process, at 80 columns."""
    return CliRunner().invoke(cli, words, env={"COLUMNS": "80"})


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with a program to search; forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "chat.py").write_text(PROGRAM)
    yield tmp_path
    sys.modules.pop("chat", None)


@contextmanager
def full_disk() -> Iterator[None]:
    """Files can be made, but nothing can be written to them."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def find(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Let the search of the flagship do something, and come to a sequence."""

    def come_to(first: Callable[[], object]) -> None:
        def search(*_: object, **__: object) -> CampaignResult:
            sequence = Sequence.parse("a:open a:close")
            outcome = run_sequence(sequence, find_pair(FLAGSHIP).buggy())
            status = CampaignProgress("shrinks", 3, 50, 300, 1.0, len(sequence))
            first()
            return CampaignResult(finding(sequence, outcome), status, "shrunk")

        monkeypatch.setattr(fuzz, "_search", search)

    return come_to


@searches
@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("no/such", "expected a folder that exists, got 'no'; make it first"),
        ("nope/", "expected a folder that exists, got 'nope/'; make it first"),
        ("nope/.", "expected a folder that exists, got 'nope/.'; make it first"),
        ("chat.py/", "expected a folder that exists, got 'chat.py/'; make it first"),
        ("/dev/null", "expected a regular file or a folder, got '/dev/null', which is neither"),
        ("a" * 300, "File name too long; name another with --out"),
        pytest.param(
            "/proc", "expected a folder that can be written, got '/proc'", marks=needs_proc
        ),
        pytest.param("/proc/", "that can be written, got '/proc'", marks=needs_proc),
        pytest.param("/proc/x", "that can be written, got '/proc/x'", marks=needs_proc),
    ],
)
def test_out_that_cannot_be_written_is_refused(
    search: tuple[str, ...], out: str, says: str, folder: Path
) -> None:
    """Exit code 2, before anything is searched; nothing is made."""
    result = invoke(*search, "--out", out)

    assert result.exit_code == 2
    assert result.stdout == ""
    assert says in " ".join(result.stderr.split())
    # Importing the program may leave its bytecode.
    assert {path.name for path in folder.iterdir()} - {"__pycache__"} == {"chat.py"}


@needs_proc
@searches
def test_current_folder_that_cannot_be_written_is_refused(
    search: tuple[str, ...], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is where the file goes if nothing else is said."""
    monkeypatch.syspath_prepend(folder)  # the program is imported to see that it is no server
    monkeypatch.chdir("/proc")
    result = invoke(*search)

    assert result.exit_code == 2
    assert "expected a folder that can be written, got '.'" in " ".join(result.stderr.split())


@pytest.mark.parametrize("out", [".", "./", "kept", "kept/", "new.seq", "kept/new", "there.seq"])
def test_out_that_can_be_written_is_left_as_it_is(out: str, folder: Path) -> None:
    """To see whether it can be written leaves nothing behind."""
    (folder / "kept").mkdir()
    (folder / "there.seq").write_text("mine")
    before = sorted(folder.rglob("*"))
    replay_files.check_out(replay_files.OUT.convert(out, None, None))

    assert sorted(folder.rglob("*")) == before
    assert (folder / "there.seq").read_text() == "mine"


def test_finding_is_shown_though_its_folder_has_gone(
    find: Callable[[Callable[[], object]], None], folder: Path
) -> None:
    """The exit code stays that of a finding, and why there is no file is told."""
    (folder / "kept").mkdir()
    find((folder / "kept").rmdir)
    result = invoke("fuzz", FLAGSHIP, "--out", "kept/x.seq")

    assert result.exit_code == 1
    assert result.stderr == "kept/x.seq could not be kept: No such file or directory\n"
    assert result.stdout.startswith(f"found in {FLAGSHIP}/buggy, ")


def test_finding_is_shown_though_the_disk_is_full(
    find: Callable[[Callable[[], object]], None], folder: Path
) -> None:
    """In text and JSON; no variant of a file is left."""
    find(bool)
    with full_disk():
        shown = invoke("fuzz", FLAGSHIP)
        told = invoke("fuzz", FLAGSHIP, "--json")

    assert shown.exit_code == told.exit_code == 1
    line = f"muxleak-{FLAGSHIP}-buggy.sim.json could not be kept: File too large\n"
    assert shown.stderr == told.stderr == line
    assert shown.stdout.endswith(f"again:\n  muxleak replay '{FLAGSHIP}/buggy a:open a:close'\n")
    assert json.loads(told.stdout)["file"] is None
    # Importing the program may leave its bytecode.
    assert {path.name for path in folder.iterdir()} - {"__pycache__"} == {"chat.py"}


def test_finding_in_a_program_is_shown_though_the_disk_is_full(folder: Path) -> None:
    """The same, with the line that runs it again."""
    with full_disk():
        result = invoke("fuzz", "chat:main", "--examples", "5")

    assert result.exit_code == 1
    assert "muxleak-chat-main.sim.json could not be kept: File too large\n" in result.stderr
    assert "again:\n  muxleak replay sim1:" in result.stdout
    assert "too long" not in result.stdout
    assert not [*folder.glob("*.sim.json")]
