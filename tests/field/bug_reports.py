"""Runs public bug reports of other projects under each entry of muxleak, and pyleak beside it.

Each affected release must be found by the entry that docs/field.md names, with its line; each fixed
release must pass all entries.

Installs pinned releases into environments of their own, which stay in a cache folder. Prints one
row per report; progress goes to standard error. Exit code: 0 as documented, 1 if a report is missed
or a fixed release is accused, 2 if a release could not be installed or an argument is wrong.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from commands import answer_of, are_known, last_line, parser, start, write_json
from environments import TOOLS, Environment, InstallError, environ, environment, wheel
from reports import REPORTS, Report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    Main = Callable[[Sequence[str]], int]

HERE = Path(__file__).parent
PROGRAMS = HERE / "programs"
ENTRIES = ("block", "decorator", "repeat", "strict", "fuzz")
"""In the order in which a user meets them."""
CHECKS = ("block", "decorator", "repeat", "strict")
"""The entries that a fixed release must pass. A search of it proves less than it costs."""
BESIDE = (*TOOLS, "pytest-asyncio==1.5.0", "pyleak==0.2.0")
PATIENCE = 60.0  # seconds for one entry
SEARCH = ("--time", "20")

SUITE = """\
import asyncio
from contextlib import nullcontext

import pytest
import pytest_asyncio

import {program} as program

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def service():
    ready, stop = asyncio.Event(), asyncio.Event()

    async def hold():  # entered and left by one task, as task groups want it
        async with getattr(program, "service", nullcontext)():
            ready.set()
            await stop.wait()

    task = asyncio.create_task(hold())
    await ready.wait()
    yield
    stop.set()
    await task


async def test_use():
    await program.use()
"""
TARGET = """\
from contextlib import nullcontext

import {program} as program


async def main():
    async with getattr(program, "service", nullcontext)():
        await program.use()
"""


@dataclass(frozen=True)
class Outcome:
    """The answer of one entry to one release.

    Attributes:
        found: it reported a leak.
        named: the report has the text of the right line.
        error: it could not be run: the reason.
        text: the report.
    """

    found: bool
    named: bool = False
    error: str | None = None
    text: str = ""


@dataclass
class Row:
    """The results of one bug report; outcomes by entry."""

    program: str
    releases: str
    source: str
    affected: dict[str, Outcome] = field(default_factory=dict)
    fixed: dict[str, Outcome] = field(default_factory=dict)

    @property
    def entry(self) -> str:
        """The first entry that found it and named the line, or "none"."""
        for name in ENTRIES:
            if name in self.affected and self.affected[name].found and self.affected[name].named:
                return name
        return "none"

    @property
    def accused(self) -> list[str]:
        """Entries that did not pass the fixed release."""
        return [
            name
            for name in CHECKS
            if name in self.fixed and (self.fixed[name].found or self.fixed[name].error)
        ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = parser(__doc__, "one report").parse_args(arguments)
    if not are_known(options.only, [each.program for each in REPORTS]):
        return 2
    chosen = [each for each in REPORTS if not options.only or each.program in options.only]
    rows = []
    try:
        with wheel() as path:
            for report in chosen:
                rows.append(run(report, options.cache, path))
                print(line(rows[-1], report), flush=True)
    except InstallError as error:
        print(f"a release could not be installed: {error}", file=sys.stderr)
        return 2
    write_json(options.json, [asdict(row) | {"entry": row.entry} for row in rows])
    print(summary(rows))
    return int(any(deviates(row, report) for row, report in zip(rows, chosen, strict=True)))


def deviates(row: Row, report: Report) -> bool:
    """True if the results are not those that the page documents."""
    return row.entry != report.entry or bool(row.accused)


def line(row: Row, report: Report) -> str:
    """Return a row of the table, as in docs/field.md; deviations from that page are marked."""
    fixed = "no release" if not report.fixed else ", ".join(row.accused) or "clean"
    beside = row.affected["pyleak"]
    other = row.fixed.get("pyleak")
    pyleak = "found" if beside.found else "missed"
    if other is not None and other.found:
        pyleak += ", fixed accused"
    mark = " <- not as documented" if deviates(row, report) else ""
    return f"| {row.releases} | {row.entry} | {report.place} | {fixed} | {pyleak} |{mark}"


def summary(rows: Iterable[Row]) -> str:
    """Return the sums over all rows."""
    rows = list(rows)
    first = sum(row.entry == ENTRIES[0] for row in rows)
    missed = sum(row.entry == "none" for row in rows)
    accused = sum(bool(row.accused) for row in rows)
    pyleak = sum(row.affected["pyleak"].found for row in rows)
    return (
        f"{len(rows)} reports: {first} found by {ENTRIES[0]}, {len(rows) - first - missed} by a "
        f"later entry, {missed} missed; {accused} fixed releases accused; pyleak finds {pyleak}"
    )


def run(report: Report, cache: Path, path: str) -> Row:
    """Run one report: the affected release until an entry finds it, the fixed one under all."""
    row = Row(report.program, report.releases, report.source)
    for releases, outcomes in ((report.affected, row.affected), (report.fixed, row.fixed)):
        if not releases:
            continue
        print(f"{report.program}: {releases[0]}", file=sys.stderr, flush=True)
        place = environment(cache, report.program, [*BESIDE, *report.beside, *releases])
        for entry in ENTRIES if outcomes is row.affected else CHECKS:
            outcomes[entry] = check(place, entry, report, path)
            if outcomes is row.affected and row.entry != "none":
                break
        outcomes["pyleak"] = check(place, "pyleak", report, path)
    return row


def check(place: Environment, entry: str, report: Report, path: str) -> Outcome:
    """Run a program once under one entry."""
    try:
        if entry == "strict":
            return _strict(place, report, path)
        if entry == "fuzz":
            return _fuzz(place, report, path)
        done = start(
            place, [str(HERE / "probe.py"), entry, report.program], HERE, environ(path), PATIENCE
        )
    except subprocess.TimeoutExpired:
        return Outcome(found=False, error=f"no end within {PATIENCE:.0f} s")
    answer = answer_of(done)
    if answer is None:
        return Outcome(found=False, error=last_line(done.stderr))
    error = f"{answer['error']}: {answer['text']}" if answer["error"] else None
    return Outcome(answer["found"], report.place in answer["text"], error, answer["text"])


def _strict(place: Environment, report: Report, path: str) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "test_use.py").write_text(SUITE.format(program=report.program))
        variables = environ(f"{path}:{PROGRAMS}")
        words = ["-m", "pytest", "-q", "--leaks=strict", "-p", "no:cacheprovider", "test_use.py"]
        if report.kept:
            words += ["-o", f"leaks_ignore={report.kept}"]
        done = start(place, words, Path(folder), variables, PATIENCE)
    found = done.returncode == 1 and "left behind" in done.stdout
    error = None if found or done.returncode == 0 else last_line(done.stdout + done.stderr)
    return Outcome(found, report.place in done.stdout, error, done.stdout)


def _fuzz(place: Environment, report: Report, path: str) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "target.py").write_text(TARGET.format(program=report.program))
        words = ["-m", "muxleak", "fuzz", "target:main", *SEARCH]
        done = start(place, words, Path(folder), environ(f"{path}:{PROGRAMS}"), PATIENCE)
    error = last_line(done.stderr) if done.returncode not in {0, 1} else None
    return Outcome(done.returncode == 1, report.place in done.stdout, error, done.stdout)


if __name__ == "__main__":
    sys.exit(main())
