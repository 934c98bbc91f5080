"""Runs test suites of other projects with muxleak's plugin: without it, off, warn and strict.

The outcomes of off and warn must be those without the plugin. Strict may fail more tests, but only
by leaks that docs/field.md judges. The cost is CPU time beside the run without the plugin, the
median of some rounds, in which the modes take turns.

Unpacks pinned source distributions, and installs their requirements into environments of their own,
which stay in a cache folder. Prints one row per suite; progress goes to standard error. Exit code:
0 as documented, 1 if an outcome differs or a leak has no judgement, 2 if a suite could not be
installed or an argument is wrong. The cost decides nothing: it depends on the load of the machine.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from commands import are_known, parser, write_json
from environments import TOOLS, Environment, InstallError, download, environ, environment, wheel
from projects import SUITES, Suite

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Mapping, Sequence

MODES = ("bare", "off", "warn", "strict")
PATIENCE = 900.0  # seconds for one run of a suite


@dataclass(frozen=True)
class Run:
    """One run of a suite.

    Attributes:
        outcomes: by test: passed, failed, error or skipped; the worst of them where a test has two.
        reports: the failure texts, by test.
        seconds: CPU time, of children too.
        code: the exit code of pytest.
    """

    outcomes: dict[str, str]
    reports: dict[str, str]
    seconds: float
    code: int


@dataclass
class Row:
    """The results of one suite.

    Attributes:
        tests: the number of tests with one outcome in all runs without the plugin.
        unstable: tests left out, since they differ from run to run without the plugin.
        changed: tests with another outcome, by mode off and warn.
        leaks: tests that fail under strict only, with the place that judges them, or "".
        cost: CPU time beside the run without the plugin, by mode.
    """

    project: str
    tests: int = 0
    unstable: list[str] = field(default_factory=list)
    changed: dict[str, list[str]] = field(default_factory=dict)
    leaks: dict[str, str] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    reports: dict[str, str] = field(default_factory=dict)

    @property
    def deviates(self) -> bool:
        """True if the results are not those that the page documents."""
        return any(self.changed.values()) or not all(self.leaks.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parser().parse_args(arguments)
    if not are_known(options.only, [each.name for each in SUITES]):
        return 2
    rows = []
    try:
        with wheel() as path:
            for suite in SUITES:
                if not options.only or suite.name in options.only:
                    rows.append(measure(suite, options.cache, path, options.rounds))
                    print(line(rows[-1]), flush=True)
                    # At once: the next suite may take minutes.
                    write_json(options.json, [asdict(row) for row in rows])
    except InstallError as error:
        print(f"a suite could not be installed: {error}", file=sys.stderr)
        return 2
    print(summary(rows))
    return int(any(row.deviates for row in rows))


def line(row: Row) -> str:
    """Return a row of the table, as in docs/field.md; deviations are listed below it."""
    changed = [len(row.changed[mode]) for mode in ("off", "warn")]
    text = (
        f"| {row.project} | {row.tests} | {changed[0]} | {changed[1]} | {len(row.leaks)} | "
        f"{row.cost['off']:.2f} | {row.cost['strict']:.2f} |"
    )
    for mode, names in row.changed.items():
        text += "".join(f"\n    {mode} changes {name}" for name in names)
    unjudged = [name for name, place in row.leaks.items() if not place]
    return text + "".join(f"\n    strict fails, not judged: {name}" for name in unjudged)


def summary(rows: Iterable[Row]) -> str:
    """Return the sums over all rows."""
    rows = list(rows)
    changed = sum(len(names) for row in rows for names in row.changed.values())
    leaks = sum(len(row.leaks) for row in rows)
    return (
        f"{len(rows)} suites, {sum(row.tests for row in rows)} tests: {changed} outcomes changed "
        f"by off or warn, {leaks} tests fail by leaks under strict; median cost: "
        + ", ".join(
            f"{mode} {statistics.median([row.cost[mode] for row in rows]):.2f}x"
            for mode in MODES[1:]
            if rows
        )
    )


def measure(suite: Suite, cache: Path, path: str, rounds: int) -> Row:
    """Run a suite in all modes, the given number of times each, in turns."""
    source = download(cache, suite.release)
    place = environment(cache, suite.name, [*TOOLS, *suite.requirements, suite.release])
    runs: dict[str, list[Run]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="muxleak-suite-") as folder:
        root = unpack(source, Path(folder), suite)
        for number in range(rounds):
            for mode in MODES:
                print(f"{suite.name}: {mode}, round {number + 1}", file=sys.stderr, flush=True)
                runs[mode].append(run(suite, place, root, mode, path))
    return compare(suite, runs)


def unpack(source: Path, folder: Path, suite: Suite) -> Path:
    """Unpack the tests of a source distribution, and nothing that hides the installed package."""
    with tarfile.open(source) as archive:
        archive.extractall(folder, filter="data")
    (root,) = folder.iterdir()
    for name in suite.hidden:
        shutil.rmtree(root / name)
    return root


def run(suite: Suite, place: Environment, root: Path, mode: str, path: str) -> Run:
    """Run a suite once."""
    report = root / "muxleak-report.xml"
    report.unlink(missing_ok=True)
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={report}"]
    words += [*suite.options, *suite.tests]
    if mode != "bare":
        words.append(f"--leaks={mode}")
    variables = environ("" if mode == "bare" else path, **suite.variables)
    log = root / f"muxleak-{mode}.log"
    with log.open("w") as output:
        seconds, code = timed([str(place.python), *words], root, variables, output.fileno())
    if not report.exists():
        tail = log.read_text(errors="replace").strip()[-600:]
        raise InstallError(f"{suite.name}, {mode}: pytest wrote no report: {tail}")
    outcomes, reports = read(report)
    return Run(outcomes, reports, seconds, code)


def timed(
    command: list[str], folder: Path, variables: Mapping[str, str], output: int
) -> tuple[float, int]:
    """Run a command; returns its CPU time, that of its children included, and its exit code."""
    process = subprocess.Popen(  # noqa: S603 - our own words
        command,
        cwd=folder,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime, process.returncode


def read(report: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return the outcomes and the failure texts of a JUnit file, by test."""
    outcomes: dict[str, str] = {}
    reports: dict[str, str] = {}
    order = ("passed", "skipped", "failed", "error")
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 - pytest wrote it
        name = f"{case.get('classname')}::{case.get('name')}"
        outcome = "passed"
        for kind in ("skipped", "failure", "error"):
            for each in case.findall(kind):
                outcome = max(outcome, {"failure": "failed"}.get(kind, kind), key=order.index)
                if kind != "skipped":
                    reports[name] = reports.get(name, "") + (each.text or "")
        outcomes[name] = max(outcomes.get(name, "passed"), outcome, key=order.index)
    return outcomes, reports


def compare(suite: Suite, runs: Mapping[str, Sequence[Run]]) -> Row:
    """Compare the outcomes and the costs of the modes."""
    row = Row(suite.release.replace("==", " "))
    first = runs["bare"][0].outcomes
    row.unstable = sorted(
        name for name in first if any(run.outcomes.get(name) != first[name] for run in runs["bare"])
    )
    stable = {name: first[name] for name in first if name not in row.unstable}
    row.tests = len(stable)
    for mode in ("off", "warn"):
        # Each time: an outcome that differs in one run of several is the chance of the test.
        row.changed[mode] = sorted(
            name
            for name, outcome in stable.items()
            if all(run.outcomes.get(name) != outcome for run in runs[mode])
        )
    strict = runs["strict"][0]
    for name, outcome in stable.items():
        if all(run.outcomes.get(name) != outcome for run in runs["strict"]):
            text = strict.reports.get(name, "")
            row.leaks[name] = next((each.place for each in suite.judged if each.place in text), "")
            row.reports[name] = text
    base = statistics.median(run.seconds for run in runs["bare"])
    for mode in MODES[1:]:
        row.cost[mode] = statistics.median(run.seconds for run in runs[mode]) / base
    return row


def _parser() -> argparse.ArgumentParser:
    made = parser(__doc__, "one suite")
    made.add_argument(
        "--rounds",
        type=int,
        default=3,
        choices=range(1, 100),
        metavar="N",
        help="runs of each mode",
    )
    return made


if __name__ == "__main__":
    sys.exit(main())
