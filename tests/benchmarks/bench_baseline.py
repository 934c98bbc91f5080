"""This checkout beside an earlier build: CPU time in turns, and counts of instructions.

``python tests/benchmarks/bench_baseline.py [REVISION]`` installs the build of a revision (f18c479
if none is given) and this checkout, each into an environment of its own. For every row both run in
turns, in processes of their own; the figure is the median, over the rounds, of the ratio of their
CPU times. With valgrind on the PATH, the instructions of one unit are counted too: a busy machine
does not change them. Needs git, and a registry for the dependencies.
"""

# ruff: noqa: S603 - it runs nothing but its own commands

import argparse
import importlib
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
REVISION = "f18c479"
ROUNDS = 9
FEW, MANY = 20, 120
"""Units of the two runs whose instructions are subtracted, so that the start does not count."""

# Each row: the units of one batch, and the goal for the ratio, if there is one.
WORK: dict[str, tuple[int, float | None]] = {
    "sequence": (100, 2.0),  # 10 steps, 3 streams, checked
    "toy": (100, None),  # a run of the program of `muxleak bench schedules`
    "empty": (500, None),  # a run of a program that does nothing
}
START: dict[str, tuple[str, float | None]] = {
    "muxleak --version": ("--version", None),
    "muxleak --help": ("--help", None),
}


def module(new: str, old: str) -> Any:
    """Return a module of either build: their packages have other names."""
    try:
        return importlib.import_module(new)
    except ModuleNotFoundError:
        return importlib.import_module(old)


def unit(row: str) -> Callable[[int], object]:
    """Return a function that performs so many units of a row, with the build that is installed."""
    if row == "sequence":
        checked = module("muxleak_scenarios.bench.sequence", "scenarios.bench.sequence").checked
        return lambda number: [checked() for _ in range(number)]
    runs = module("muxleak_scenarios.bench.search_runs", "scenarios.bench.schedules")
    program = runs.toy if row == "toy" else nothing
    return lambda number: runs.ours(program, number)


async def nothing() -> None:
    """Return at once."""


def serve(row: str) -> None:
    """Perform a batch for each number that is read, and answer with its seconds of CPU."""
    import gc  # noqa: PLC0415 - not needed by the command itself
    import time  # noqa: PLC0415 - as above

    perform = unit(row)
    for line in sys.stdin:
        gc.collect()
        began = time.process_time()
        perform(int(line))
        sys.stdout.write(f"{time.process_time() - began}\n")
        sys.stdout.flush()


class Build:
    """A build, installed in an environment of its own.

    Args:
        folder: the place of the environment.
        source: a checkout.
    """

    def __init__(self, folder: Path, source: Path) -> None:
        venv.create(folder, with_pip=True)
        self._programs = folder / ("Scripts" if os.name == "nt" else "bin")
        self.python = str(self._programs / "python")
        command = [self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*command, str(source), "hypothesis"], check=True)
        self._environment = {**os.environ, "PYTHONHASHSEED": "0"}
        self._environment.pop("PYTHONPATH", None)

    def worker(self, row: str) -> "subprocess.Popen[str]":
        """Start a process that performs batches of a row."""
        return subprocess.Popen(
            [self.python, __file__, "--serve", row],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def started(self, option: str) -> float:
        """Return the seconds of CPU that the command takes with an option."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [str(self._programs / "muxleak"), option]
        subprocess.run(command, env=self._environment, stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def instructions(self, row: str) -> int:
        """Return the instructions of one unit of a row."""
        few, many = (self._counted(row, number) for number in (FEW, MANY))
        return (many - few) // (MANY - FEW)

    def _counted(self, row: str, number: int) -> int:
        valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={os.devnull}"]
        done = subprocess.run(
            [*valgrind, self.python, __file__, "--serve", row],
            env=self._environment,
            input=f"{number}\n",
            capture_output=True,
            text=True,
            check=True,
        )
        found = re.search(r"Collected : (\d+)", done.stderr)
        if found is None:
            raise RuntimeError(f"expected a count of instructions, got {done.stderr[-500:]!r}")
        return int(found[1])


def asked(worker: "subprocess.Popen[str]", number: int) -> float:
    """Return the seconds of CPU of one batch in a worker."""
    if worker.stdin is None or worker.stdout is None:
        raise AssertionError("expected pipes")
    worker.stdin.write(f"{number}\n")
    worker.stdin.flush()
    return float(worker.stdout.readline())


def in_turns(one: Callable[[], float], other: Callable[[], float], rounds: int) -> float:
    """Return the median of the ratios one / other; the first round, which warms up, is dropped."""
    return median([one() / other() for _ in range(rounds + 1)][1:])


def ratio(row: str, before: Build, now: Build, rounds: int) -> float:
    """Return how many times faster this checkout performs a row."""
    number, _ = WORK[row]
    with before.worker(row) as old, now.worker(row) as new:
        found = in_turns(lambda: asked(old, number), lambda: asked(new, number), rounds)
        for worker in (old, new):
            if worker.stdin is not None:
                worker.stdin.close()
    return found


def shown(row: str, value: float, goal: float | None, counts: tuple[int, int] | None = None) -> str:
    """Return the line of a row."""
    judged = "" if goal is None else f"goal {goal:.1f}x {'met' if value >= goal else 'missed'}"
    counted = "" if counts is None else f"{counts[0]:>10,} -> {counts[1]:>10,} instructions"
    by_count = "" if counts is None else f"{counts[0] / counts[1]:5.2f}x"
    return f"{row:18} {value:5.2f}x by CPU time  {by_count} {counted}  {judged}".rstrip()


def main() -> None:
    """Install both builds, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("revision", nargs="?", default=REVISION, help="the earlier build")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--serve", choices=list(WORK), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archive = ["git", "-C", str(ROOT), "archive", "--format=zip", "-o", str(folder / "old.zip")]
        subprocess.run([*archive, options.revision], check=True)
        shutil.unpack_archive(folder / "old.zip", folder / "source")
        before, now = Build(folder / "before", folder / "source"), Build(folder / "now", ROOT)
        for row, (_, goal) in WORK.items():
            value, counts = ratio(row, before, now, options.rounds), None
            if shutil.which("valgrind"):
                counts = before.instructions(row), now.instructions(row)
            sys.stdout.write(shown(row, value, goal, counts) + "\n")
            sys.stdout.flush()
        for row, (option, goal) in START.items():
            found = in_turns(
                lambda option=option: before.started(option),  # type: ignore[misc]
                lambda option=option: now.started(option),  # type: ignore[misc]
                options.rounds,
            )
            sys.stdout.write(shown(row, found, goal) + "\n")


if __name__ == "__main__":
    main()
