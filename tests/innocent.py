"""Counts false alarms: runs programs that leave nothing behind under each kind of check.

Usage: python tests/innocent.py [--checks N] [--burners N] [--only NAME] [--plant]

Each check runs one program of `support/innocent_programs.py` on asyncio or uvloop, in turn, as a
block, an async function, a repeated function, a plain function that runs a loop, or a test under
``--leaks=strict``. Prints a row for each program, the first reports, and the sum. Exits with 1 if a
program was accused, or failed by itself. Tells on standard error how many checks are done.

``--burners`` starts so many processes that only burn CPU time: on a busy machine, a check that
depends on time goes wrong. ``--plant`` adds a program that does leak, to see the count rise.
"""

import argparse
import asyncio
import contextlib
import io
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

SUPPORT = Path(__file__).parent / "support"
sys.path.insert(0, str(SUPPORT))

import innocent_programs  # noqa: E402 - its folder is no package
from innocent_programs import Program  # noqa: E402
from muxleak import no_leaks  # noqa: E402
from processes import burning  # noqa: E402

SHOWN = 5  # reports that are printed
TOLD = 500  # checks between two lines of progress
REPEAT = 4
TESTS = """
import asyncio, pytest
from innocent_programs import plant, programs
from innocent import factory

PROGRAMS = programs()[0] | {"plant": plant}

@pytest.mark.parametrize(("number", "name", "loop"), CASES)
def test_innocent(number, name, loop):
    with asyncio.Runner(loop_factory=factory(loop)) as runner:
        runner.run(PROGRAMS[name]())
"""


class Tally:
    """The outcomes of the checks.

    Attributes:
        checks: number of checks, by program.
        alarms: number of false alarms, by program.
        failures: number of programs that failed without an alarm, by program.
        reports: the first reports and errors.
    """

    def __init__(self) -> None:
        self.checks: Counter[str] = Counter()
        self.alarms: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.reports: list[str] = []
        # A duplicate, since pytest captures standard error during its tests.
        self._progress = os.fdopen(os.dup(sys.stderr.fileno()), "w", buffering=1)

    def note(self, name: str, entry: str, loop: str, error: BaseException | str | None) -> None:
        """Count one check, with the error that it raised or the text of a failed test."""
        self.checks[name] += 1
        if not self.checks.total() % TOLD:
            alarms, failures = self.alarms.total(), self.failures.total()
            done = f"{self.checks.total()} checks, {alarms} alarms, {failures} failures"
            print(done, file=self._progress)
        if error is None:
            return
        text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        accused = text.startswith("LeakError") or " left behind\n" in text
        (self.alarms if accused else self.failures)[name] += 1
        if len(self.reports) < SHOWN:
            self.reports.append(f"{name} as {entry} on {loop}: {text}")


def factory(loop: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return the loop factory of a name."""
    if loop == "uvloop":
        return __import__("uvloop").new_event_loop  # type: ignore[no-any-return]
    return asyncio.SelectorEventLoop


async def _block(program: Program) -> None:
    async with no_leaks():
        await program()


async def _decorated(program: Program) -> None:
    await no_leaks(_called(program))()


async def _repeated(program: Program) -> None:
    await no_leaks(repeat=REPEAT)(_called(program))()


def _called(program: Program) -> Any:
    async def call() -> None:
        await program()

    return call


ENTRIES: dict[str, Any] = {"block": _block, "function": _decorated, "repeat": _repeated}


def in_loops(tally: Tally, programs: dict[str, Program], loops: list[str], checks: int) -> None:
    """Run so many checks of async code, and of plain functions that run a loop."""
    entries = [*ENTRIES, "plain"]
    cases = (
        (name, entry, loop)
        for _ in iter(int, 1)
        for name in programs
        for entry in entries
        for loop in loops
    )
    for _, (name, entry, loop) in zip(range(checks), cases, strict=False):
        program, error = programs[name], None
        try:
            if entry == "plain":
                no_leaks(lambda: _run(loop, program()))()  # noqa: B023 - called at once
            else:
                _run(loop, ENTRIES[entry](program))
        except (Exception, asyncio.CancelledError) as caught:  # noqa: BLE001 - counted
            error = caught
        tally.note(name, entry, loop, error)
        del error


def _run(loop: str, main: Any) -> None:
    with asyncio.Runner(loop_factory=factory(loop)) as runner:
        runner.run(main)


class _Results:
    """A pytest plugin that notes the outcome of each test."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._failed: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test at the end of its teardown, where the plugin gives its verdict."""
        if report.failed:
            self._failed[report.nodeid] = report.longreprtext
        if report.when == "teardown":
            _, name, loop = report.nodeid.rpartition("[")[2].rstrip("]").split("-", 2)
            self._tally.note(name, "test", loop, self._failed.pop(report.nodeid, None))


def in_tests(tally: Tally, programs: dict[str, Program], loops: list[str], checks: int) -> None:
    """Run so many tests under the pytest plugin, in one session."""
    pairs = [(name, loop) for name in programs for loop in loops]
    cases = [(number, *pairs[number % len(pairs)]) for number in range(checks)]
    if not cases:
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "test_innocent.py"
        file.write_text(f"CASES = {cases!r}\n{TESTS}")
        options = "--leaks=strict -q --tb=short -c /dev/null -p no:cacheprovider -p no:asyncio"
        plugins, told = [_Results(tally)], io.StringIO()
        with contextlib.redirect_stdout(told):
            code = pytest.main([*options.split(), f"--rootdir={folder}", str(file)], plugins)
        if code not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
            raise SystemExit(f"pytest ended with {code}:\n{told.getvalue()}")


def main() -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(description="counts false alarms")
    parser.add_argument("--checks", type=int, default=2_000)
    parser.add_argument("--burners", type=int, default=0)
    parser.add_argument("--only", help="part of the names of the programs to run", default="")
    parser.add_argument("--plant", action="store_true", help="add a program that leaks")
    options = parser.parse_args()
    programs, missing = innocent_programs.programs()
    programs = {name: each for name, each in programs.items() if options.only in name}
    if options.plant:
        programs["plant"] = innocent_programs.plant
    loops = ["asyncio"]
    if find_spec("uvloop") is None:
        missing.append("uvloop is not installed")
    else:
        loops.append("uvloop")
    tally, began = Tally(), time.monotonic()
    with burning(options.burners):
        # First, since the tests leave a heap that makes each collection of a check slow.
        in_loops(tally, programs, loops, options.checks - options.checks // 5)
        in_tests(tally, programs, loops, options.checks // 5)
    for name, checks in tally.checks.items():
        print(f"{name:28} {checks:6} checks {tally.alarms[name]:4} alarms", end="")
        print(f" {tally.failures[name]:4} failures" if tally.failures[name] else "")
    for text in (*tally.reports, *(f"left out: {each}" for each in missing)):
        print(text)
    python = ".".join(map(str, sys.version_info[:3]))
    print(
        f"{tally.checks.total()} checks, {tally.alarms.total()} false alarms, "
        f"{tally.failures.total()} failures; CPython {python}, {' and '.join(loops)}, "
        f"{options.burners} burners, {time.monotonic() - began:.0f} s"
    )
    return 1 if tally.alarms or tally.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
