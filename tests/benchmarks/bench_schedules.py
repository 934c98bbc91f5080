"""Schedules per second, and the first counterexample, beside detangle, simloom and simloop.

`python tests/benchmarks/bench_schedules.py` makes an environment of its own, installs the three at
pinned versions, and measures all in one process, in turns, by CPU time. All explore the order of
tasks; detangle checks for leaked tasks besides, and we for what is left of any kind. Quote ratios.

Measured twice, because simloom and simloop collect all garbage in the process after every run
(`simloom/_run.py`, `simloop/_loop.py`), so that what they cost is mostly the size of the process:
lean, where nothing but the four is loaded, and loaded, with pytest and Hypothesis, which is what a
test of a user's runs in. What one such collection takes is printed with each. On 3.11, which these
two do not support, detangle alone is compared.
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

PYTHONPATH = os.pathsep.join(
    str(Path(__file__).resolve().parents[2] / each) for each in ("harness", "vless", "scenarios")
)
ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]  # Nothing need be installed to run it.

from muxleak_scenarios.bench.schedules import OTHERS, PEERS, detangle, ours, toy  # noqa: E402 - see above
from racing import Program, deep_mux, watcher  # noqa: E402 - see above

NEWER = sys.hexversion >= 0x030C0000  # as simloom and simloop need it
FITTING = PEERS if NEWER else {"detangle": PEERS["detangle"]}
PINNED = [f"{package}=={version}" for package, version in FITTING.items()]
LOADED = ["pytest>=8.3", "hypothesis>=6.131"]
ROUNDS = 7
SEEDS = range(20)

BUGS = {name: each(fixed=False) for name, each in (("watcher", watcher), ("deep_mux", deep_mux))}

SPEED: dict[str, tuple[Callable[[int], object], int]] = {
    "ours, uniform": (lambda runs: ours(toy, runs, strategies=("uniform",)), 300),
    "ours, portfolio": (lambda runs: ours(toy, runs), 300),
    **{
        name: (partial(peer.search, toy), peer.runs)
        for name, peer in OTHERS.items()
        if peer.package in FITTING
    },
}
FIRST: dict[str, Callable[[Program, int], int | None]] = {
    "ours, portfolio": lambda program, seed: ours(program, 1000, seed),
    "ours, uniform": lambda program, seed: ours(program, 1000, seed, strategies=("uniform",)),
    "detangle, pct:3": lambda program, seed: detangle(program, 1000, seed, "pct:3"),
    "detangle, random": lambda program, seed: detangle(program, 1000, seed),
}


def speed() -> dict[str, float]:
    """Schedules of the toy per second of CPU time, the median of the rounds."""
    rates: dict[str, list[float]] = {name: [] for name in SPEED}
    for _ in range(ROUNDS):
        for name, (search, runs) in SPEED.items():
            start = time.process_time()
            search(runs)
            rates[name].append(runs / (time.process_time() - start))
    return {name: median(each) for name, each in rates.items()}


def first(program: Program) -> dict[str, tuple[int, float, float]]:
    """Seeds on which the bug was found, the median number of runs, the median milliseconds."""
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
    """Milliseconds that collecting all garbage takes, where there is none."""
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        gc.collect()
        times.append((time.process_time() - start) * 1000)
    return median(times)


def report(title: str, figures: dict[str, Any]) -> str:
    """The figures of one process as a table."""
    rates = figures["speed"]
    best = rates["ours, uniform"]
    lines = [f"{title}: one collection of all garbage takes {figures['collection']:.1f} ms"]
    lines.append(f"{title}: schedules of the toy per second, and ours, uniform over each")
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
    """Make an environment with the peers; its Python."""
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
