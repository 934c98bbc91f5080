"""The command that runs test suites of other projects, on stand-ins, and its tables in docs."""

from __future__ import annotations

import re
import sys
import tarfile
from typing import TYPE_CHECKING

import pytest

import suites
from pages import table
from projects import SUITES, Judgement, Suite
from suites import Run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def test_table_of_suites_is_that_of_the_command() -> None:
    """The page lists each suite with its release."""
    releases = [cells[0] for cells in table("field.md", "Test suites")]
    assert releases == [each.release.replace("==", " ") for each in SUITES]
    pins = [pin for suite in SUITES for pin in (suite.release, *suite.requirements)]
    assert [pin for pin in pins if not re.fullmatch(r"[\w.\[\]-]+==[\w.]+", pin)] == []


def test_every_judgement_is_on_the_page() -> None:
    """The page has each judged place with its verdict and its reason."""
    judged = [(each.name, judgement) for each in SUITES for judgement in each.judged]
    listed = [tuple(cells) for cells in table("field.md", "Leaks in the suites")]
    wanted = [(name, f"`{one.place}`", one.verdict, one.reason) for name, one in judged]
    assert listed == wanted


def test_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A name that is not in the list is an error of usage, not an empty run."""
    assert suites.main(["--only", "nothing"]) == 2
    assert "got nothing" in capsys.readouterr().err


SUITE = Suite("p", "p==1", judged=(Judgement("p.py:3 in f", "true leak", "a reason"),))


def runs(**outcomes: Sequence[str]) -> dict[str, list[Run]]:
    """Runs of one test in each mode: its outcomes, "passed" where none are given."""
    report = {"t": "1 task left behind\n  1 x f\n    made at p.py:3 in f"}
    return {
        mode: [Run({"t": outcome}, report, 2.0 if mode == "strict" else 1.0, 0) for outcome in each]
        for mode, each in ({mode: ["passed"] for mode in suites.MODES} | outcomes).items()
    }


def test_suite_whose_outcomes_are_equal_is_as_documented() -> None:
    """Equal outcomes in all modes; the cost is beside the run without the plugin."""
    result = suites.compare(SUITE, runs())
    assert (result.tests, result.leaks, result.deviates) == (1, {}, False)
    assert (result.cost["off"], result.cost["strict"]) == (1.0, 2.0)


def test_leak_needs_a_judgement() -> None:
    """A test that fails under strict is judged by the place in its report, or a deviation."""
    result = suites.compare(SUITE, runs(strict=["error"]))
    assert (result.leaks, result.deviates) == ({"t": "p.py:3 in f"}, False)
    unjudged = suites.compare(Suite("p", "p==1"), runs(strict=["error"]))
    assert unjudged.deviates
    assert "not judged: t" in suites.line(unjudged)


@pytest.mark.parametrize("mode", ["off", "warn"])
def test_changed_outcome_is_a_deviation(mode: str) -> None:
    """Off and warn must change nothing."""
    result = suites.compare(SUITE, runs(**{mode: ["failed"]}))
    assert result.deviates
    assert f"{mode} changes t" in suites.line(result)


def test_unstable_test_is_left_out() -> None:
    """A test that differs from run to run without the plugin proves nothing."""
    result = suites.compare(SUITE, runs(bare=["passed", "failed"], strict=["error"]))
    assert (result.tests, result.unstable, result.deviates) == (0, ["t"], False)


def test_worst_outcome_of_a_test_counts(tmp_path: Path) -> None:
    """A test that fails and whose teardown fails is an error, with both texts."""
    report = tmp_path / "report.xml"
    report.write_text(
        "<testsuites><testsuite>"
        '<testcase classname="m" name="a"><failure>one</failure></testcase>'
        '<testcase classname="m" name="a"><error>two</error></testcase>'
        '<testcase classname="m" name="b"><skipped/></testcase>'
        '<testcase classname="m" name="c"/>'
        "</testsuite></testsuites>"
    )
    outcomes, reports = suites.read(report)
    assert outcomes == {"m::a": "error", "m::b": "skipped", "m::c": "passed"}
    assert reports == {"m::a": "onetwo"}


def test_tests_are_unpacked_without_the_package(tmp_path: Path) -> None:
    """The folder that would hide the installed package is removed."""
    for name in ("package", "tests"):
        (tmp_path / "p-1" / name).mkdir(parents=True)
    with tarfile.open(tmp_path / "p-1.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "p-1", "p-1")
    target = tmp_path / "target"
    target.mkdir()
    root = suites.unpack(tmp_path / "p-1.tar.gz", target, Suite("p", "p==1", hidden=("package",)))
    assert [path.name for path in root.iterdir()] == ["tests"]


def test_cpu_time_of_a_command_is_measured(tmp_path: Path) -> None:
    """The time of a busy program is counted, and its exit code returned."""
    program = "import time\nwhile time.process_time() < 0.05: pass\nraise SystemExit(3)"
    with (tmp_path / "log").open("w") as log:
        command = [sys.executable, "-S", "-c", program]
        seconds, code = suites.timed(command, tmp_path, {}, log.fileno())
    assert seconds >= 0.05
    assert code == 3
