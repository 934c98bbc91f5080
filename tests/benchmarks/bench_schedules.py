"""Runs per second, and the first counterexample, beside detangle, simloom and simloop.

`python tests/benchmarks/bench_schedules.py` makes an environment of its own, installs the three at
pinned versions, and measures all in one process, in turns, by CPU time. All explore the order of
tasks; detangle also checks for leaked tasks, and ours for leaked resources of any kind. Quote
ratios only.

simloom and simloop collect all garbage in the process after every run (`simloom/_run.py`,
`simloop/_loop.py`), so most of their price is the size of the process. Everything is therefore
measured twice: lean, with nothing but the four loaded, and loaded, with pytest and Hypothesis, as
in a user's test. The time of one such collection is printed with each. On 3.11, which these two do
not support, detangle alone is compared.
"""

import argparse
import gc
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PATHS = [str(ROOT / each) for each in ("harness", "vless", "scenarios")]
PYTHONPATH = os.pathsep.join(PATHS)
# The script runs from a checkout where the distribution is not installed.
sys.path[:0] = [*PATHS, str(ROOT / "tests" / "support")]

from muxleak_scenarios.bench.search_runs import (  # noqa: E402 - see above
    RIVAL_SEARCHES,
    RIVALS,
    detangle,
    ours,
    toy,
)
from racing import Program, deep_mux, watcher  # noqa: E402 - see above

NEWER = sys.hexversion >= 0x030C0000  # simloom and simloop need 3.12
FITTING = RIVALS if NEWER else {"detangle": RIVALS["detangle"]}
PINNED = [f"{package}=={version}" for package, version in FITTING.items()]
LOADED = ["pytest>=8.3", "hypothesis>=6.131"]
ROUNDS = 7
SEEDS = range(20)

BUGS = {name: each(fixed=False) for name, each in (("watcher", watcher), ("deep_mux", deep_mux))}

SPEED: dict[str, tuple[Callable[[int], object], int]] = {
    "ours, uniform": (lambda runs: ours(toy, runs, schedulers=("uniform",)), 300),
    "ours, portfolio": (lambda runs: ours(toy, runs), 300),
    **{
        name: (partial(rival.search, toy), rival.runs)
        for name, rival in RIVAL_SEARCHES.items()
        if rival.package in FITTING
    },
}
FIRST: dict[str, Callable[[Program, int], int | None]] = {
    "ours, portfolio": lambda program, seed: ours(program, 1000, seed),
    "ours, uniform": lambda program, seed: ours(program, 1000, seed, schedulers=("uniform",)),
    "detangle, pct:3": lambda program, seed: detangle(program, 1000, seed, "pct:3"),
    "detangle, random": lambda program, seed: detangle(program, 1000, seed),
}


def speed() -> dict[str, float]:
    """Return the runs of the toy per second of CPU time, the median of the rounds."""
    rates: dict[str, list[float]] = {name: [] for name in SPEED}
    for _ in range(ROUNDS):
        for name, (search, runs) in SPEED.items():
            start = time.process_time()
            search(runs)
            rates[name].append(runs / (time.process_time() - start))
    return {name: median(each) for name, each in rates.items()}


def first(program: Program) -> dict[str, tuple[int, float, float]]:
    """Search a program for its bug with each seed.

    Returns:
        For each tool: the number of seeds that found the bug, the median number of runs, and the
        median of the milliseconds.
    """
    results = {}
    for name, search in FIRST.items():
        examples, times = [], []
        for seed in SEEDS:
            start = time.process_time()
            number = search(program, seed)
            times.append((time.process_time() - start) * 1000)
            examples.append(number if number is not None else 1000)
        found = sum(each < 1000 for each in examples)
        results[name] = (found, median(examples), median(times))
    return results


def collection() -> float:
    """Return the milliseconds that a full collection takes in a process without garbage."""
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        gc.collect()
        times.append((time.process_time() - start) * 1000)
    return median(times)


def report(title: str, figures: dict[str, Any]) -> str:
    """Return the figures of one process as a table."""
    rates = figures["speed"]
    best = rates["ours, uniform"]
    lines = [f"{title}: one collection of all garbage takes {figures['collection']:.1f} ms"]
    lines.append(f"{title}: runs of the toy per second, and ours, uniform over each")
    lines += [f"  {name:18} {rate:8,.0f}  {best / rate:6.2f}x" for name, rate in rates.items()]
    for name in BUGS:
        lines.append(f"{title}: first counterexample, {name}: found of {len(SEEDS)}, runs, ms")
        for tool, (found, runs, spent) in figures[name].items():
            lines.append(f"  {tool:18} {found:3} {runs:8.1f} {spent:8.2f}")
    return "\n".join(lines)


def measure(*, loaded: bool) -> None:
    """Measure in this process and print the figures as JSON."""
    if loaded:
        for name in ("pytest", "_pytest.python", "hypothesis.strategies"):
            importlib.import_module(name)
    figures = {
        "speed": speed(),
        "collection": collection(),
        **{name: first(program) for name, program in BUGS.items()},
    }
    sys.stdout.write(json.dumps(figures) + "\n")


def install(folder: Path) -> str:
    """Make an environment with the rivals; return the path of its Python."""
    venv.create(folder, with_pip=True, clear=True)
    python = str(folder / ("Scripts" if os.name == "nt" else "bin") / "python")
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, *PINNED, *LOADED], check=True)  # noqa: S603 - pip, with pins
    return python


def main() -> None:
    """Install, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--measure", choices=["lean", "loaded"], help="in this process, as JSON")
    settings = parser.parse_args()
    if settings.measure:
        measure(loaded=settings.measure == "loaded")
        return
    with tempfile.TemporaryDirectory() as folder:
        python = install(Path(folder))
        environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
        for title in ("lean", "loaded"):
            done = subprocess.run(  # noqa: S603 - this file
                [python, __file__, "--measure", title],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            )
            sys.stdout.write(report(title, json.loads(done.stdout)) + "\n")


if __name__ == "__main__":
    main()
