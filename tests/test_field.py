"""The command that runs bug reports of other projects, on stand-ins, and its table in docs."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import bug_reports
import environments
import probe
from bug_reports import Outcome, Row
from environments import Environment, InstallError
from muxleak import LeakError
from pages import DOCS, table
from reports import REPORTS, Report

if TYPE_CHECKING:
    from collections.abc import Sequence

PAGE = (DOCS / "field.md").read_text("utf-8")
LEAKING = """
import asyncio

kept = []


async def use():
    kept.append(asyncio.create_task(asyncio.Event().wait()))
"""
CLEAN = "async def use():\n    pass\n"
FAILING = "async def use():\n    raise ValueError('no server')\n"
REPORT = Report("planted", "", "", ("p==1",), ("p==2",), "planted.py:8")


def test_table_of_reports_is_that_of_the_command() -> None:
    """The page lists each report with its releases, the entry that finds it, and the line."""
    listed = [tuple(cells[:3]) for cells in table("field.md", "Bug reports")]
    assert listed == [(each.releases, each.entry, f"`{each.place}`") for each in REPORTS]


def test_every_report_has_a_source_on_the_page() -> None:
    """The page links each report."""
    assert [each.program for each in REPORTS if f"({each.source})" not in PAGE] == []


def test_every_report_has_a_program_and_pinned_releases() -> None:
    """Each report has a program of its own, and names releases exactly."""
    programs = sorted(path.stem for path in bug_reports.PROGRAMS.glob("*.py"))
    assert programs == sorted(each.program for each in REPORTS)
    pins = [
        each for report in REPORTS for each in (*report.affected, *report.fixed, *report.beside)
    ]
    assert [pin for pin in pins if not re.fullmatch(r"[\w.\[\]-]+==[\w.]+", pin)] == []


@pytest.mark.slow
@pytest.mark.parametrize("entry", [*bug_reports.ENTRIES[:3], "strict"])
def test_entry_finds_a_planted_leak_and_passes_a_clean_program(tmp_path: Path, entry: str) -> None:
    """A program that leaks is found with its line, a clean one passes, a broken one is an error."""
    outcomes = []
    for text in (LEAKING, CLEAN, FAILING):
        (tmp_path / "planted.py").write_text(text)
        path = f"{environments.path_of_sources()}:{tmp_path}"
        outcomes.append(bug_reports.check(Environment(Path(sys.prefix)), entry, REPORT, path))
    leaking, clean, failing = outcomes
    assert (leaking.found, leaking.named, leaking.error) == (True, True, None)
    assert (clean.found, clean.error) == (False, None)
    assert not failing.found
    assert failing.error


@pytest.mark.slow
def test_program_without_an_answer_is_an_error(tmp_path: Path) -> None:
    """A program that cannot be imported is no clean one."""
    place = Environment(Path(sys.prefix))
    done = bug_reports.check(place, "bare", REPORT, str(tmp_path))
    assert not done.found
    assert done.error
    assert "planted" in done.error


def test_outcome_tells_a_verdict_from_another_exception() -> None:
    """A leak error is a verdict; any other exception is an error of the program."""

    async def leak() -> LeakError:
        event = asyncio.Event()

        async def use() -> None:
            tasks.append(asyncio.create_task(event.wait()))

        tasks: list[asyncio.Task[bool]] = []
        with pytest.raises(LeakError) as caught:
            await probe.block(use)
        return caught.value

    verdict = probe.outcome(asyncio.run(leak()))
    assert (verdict["found"], verdict["error"]) == (True, None)
    assert "test_field.py" in verdict["text"]
    error = probe.outcome(ValueError("no server"))
    assert (error["found"], error["error"]) == (False, "ValueError")


def row(affected: dict[str, Outcome], fixed: dict[str, Outcome]) -> Row:
    """A row with pyleak's outcomes added."""
    nothing = {"pyleak": Outcome(found=False)}
    return Row("planted", REPORT.releases, "", affected | nothing, fixed | nothing)


FOUND = Outcome(found=True, named=True)
NOTHING = Outcome(found=False)


@pytest.mark.parametrize(
    ("affected", "fixed", "deviates"),
    [
        ({"block": FOUND}, {"block": NOTHING}, False),
        ({"block": NOTHING, "repeat": FOUND}, {"block": NOTHING}, True),
        ({"block": Outcome(found=True)}, {"block": NOTHING}, True),  # another line
        ({"block": FOUND}, {"block": NOTHING, "strict": FOUND}, True),
        ({"block": FOUND}, {"block": Outcome(found=False, error="no end")}, True),
    ],
)
def test_row_deviates_from_the_page(
    affected: dict[str, Outcome], fixed: dict[str, Outcome], *, deviates: bool
) -> None:
    """A later entry, a wrong line, an accused or broken fixed release is not as documented."""
    result = row(affected, fixed)
    assert bug_reports.deviates(result, REPORT) is deviates
    assert ("not as documented" in bug_reports.line(result, REPORT)) is deviates


def test_summary_counts_rows() -> None:
    """Found by the first entry, by a later one, and missed are counted apart."""
    results = [
        row({"block": FOUND}, {}),
        row({"repeat": FOUND}, {}),
        row({"block": NOTHING}, {"block": FOUND}),
    ]
    assert bug_reports.summary(results) == (
        "3 reports: 1 found by block, 1 by a later entry, 1 missed; 1 fixed releases accused; "
        "pyleak finds 0"
    )


def test_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A name that is not in the list is an error of usage, not an empty run."""
    assert bug_reports.main(["--only", "nothing"]) == 2
    assert "got nothing" in capsys.readouterr().err


def test_environment_is_made_once_and_removed_where_pip_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache keeps what was installed whole, and nothing else."""
    calls: list[Sequence[str]] = []

    def pip(*words: str) -> str:
        calls.append(words)
        if "broken==1" in words:
            raise InstallError("no such release")
        return ""

    monkeypatch.setattr(environments, "_pip", pip)
    monkeypatch.setattr(environments, "_venv", lambda folder: folder.mkdir())
    first = environments.environment(tmp_path, "a", ["b==1"])
    assert environments.environment(tmp_path, "a", ["b==1"]) == first
    assert environments.environment(tmp_path, "a", ["b==2"]) != first
    assert len(calls) == 2
    with pytest.raises(InstallError, match="no such release"):
        environments.environment(tmp_path, "a", ["broken==1"])
    assert len(list(tmp_path.iterdir())) == 2
