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
import asyncio
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

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # Nothing need be installed to run it.

from scenarios.bench.schedules import OTHERS, PEERS, detangle, ours, toy  # noqa: E402 - see above

NEWER = sys.hexversion >= 0x030C0000  # as simloom and simloop need it
FITTING = PEERS if NEWER else {"detangle": PEERS["detangle"]}
PINNED = [f"{package}=={version}" for package, version in FITTING.items()]
LOADED = ["pytest>=8.3", "hypothesis>=6.131"]
ROUNDS = 7
SEEDS = range(20)

Program = Callable[[], Any]


async def pause(iterations: int) -> None:
    """Give way so many times."""
    for _ in range(iterations):
        await asyncio.sleep(0)


async def forever() -> None:
    """Watch for what never comes."""
    await asyncio.get_running_loop().create_future()


async def watcher() -> None:
    """A watcher that is forgotten if the close overtakes its start; no assertion."""
    watchers: list[asyncio.Task[None]] = []

    async def start() -> None:
        await asyncio.sleep(0)
        watchers.append(asyncio.create_task(forever()))

    async def close() -> None:
        await pause(2)
        for task in watchers:
            task.cancel()

    await asyncio.gather(start(), close())
    await pause(2)


async def deep_mux() -> None:
    """Three connections; the third leaks if its close comes before its start, the second late."""
    registered: set[int] = set()
    draining: set[int] = set()
    watchers: dict[int, asyncio.Task[None]] = {}
    ended: list[asyncio.Task[None]] = []

    async def start(number: int) -> None:
        await pause(1)
        if number in registered or (number == 3 and 2 in draining):
            watchers[number] = asyncio.create_task(forever())

    async def close(number: int) -> None:
        await pause(6)
        registered.discard(number)
        if number in watchers:
            watchers[number].cancel()
            ended.append(watchers[number])
        ended.append(asyncio.create_task(drain(number)))

    async def drain(number: int) -> None:
        draining.add(number)
        await pause(2)
        draining.discard(number)

    for number in (1, 2, 3):
        registered.add(number)
        await asyncio.gather(start(number), close(number))
    await asyncio.gather(*ended, return_exceptions=True)


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
    for name in ("watcher", "deep_mux"):
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
        "watcher": first(watcher),
        "deep_mux": first(deep_mux),
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
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
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
