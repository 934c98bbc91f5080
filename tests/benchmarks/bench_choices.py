"""Measures how far Hypothesis shrinks drawn choices, and the examples per second.

`python tests/benchmarks/bench_choices.py` searches each program of `drivers` and of
`tests/sim/test_races.py` with ten seeds. It prints, for each seed, the steps of the shrunk example
above those of the shortest failing run, and the failures for which no example was found as "-".
"""

import argparse
import importlib.util
import sys
import time
from contextlib import suppress
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
# The script runs from a checkout where the distribution is not installed.
sys.path[:0] = [str(ROOT / "harness"), str(ROOT / "tests" / "support")]

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings  # noqa: E402 - see above

from drivers import DRIVERS, Driver, Program, announced  # noqa: E402 - see above
from muxleak.search.strategies import any_choices  # noqa: E402 - see above
from muxleak.sim import Choices, Replay, rerun, simulate  # noqa: E402 - see above

SEEDS = range(10)
MOST = 6_000  # examples of one search
SPEED_EXAMPLES = 500
ROUNDS = 5


def races() -> dict[str, Driver]:
    """Return the programs of the tests of races."""
    path = ROOT / "tests" / "sim" / "test_races.py"
    specification = importlib.util.spec_from_file_location("test_races", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return {
        model.__name__.lower(): Driver(module.program(model, fixed=False), len(steps))
        for model, steps in module.MINIMAL.items()
    }


def searched(program: Program, number: int, most: int) -> int | None:
    """Return the steps of the example that Hypothesis shrinks to; None if it finds none."""

    @seed(number)
    @settings(
        max_examples=most,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
    )
    @given(any_choices())
    def hold(choices: Choices) -> None:
        simulate(program, choices=choices)

    try:
        hold()
    except AssertionError as error:
        note = next(each for each in error.__notes__ if each.startswith("replay with: "))
        line = next(word for word in note.split() if word.startswith("sim1:"))
        again = rerun(Replay.parse(line), program)
        assert again.error is not None, line
        return announced(again.steps)
    return None


def rate(program: Program) -> float:
    """Return the examples per second of CPU time."""
    rates = []
    for number in range(ROUNDS):
        passed: list[int] = []

        @seed(number)
        @settings(
            max_examples=SPEED_EXAMPLES,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(any_choices())
        def hold(choices: Choices) -> None:
            with suppress(AssertionError):
                simulate(program, choices=choices, leaks=False)
            passed.append(1)  # noqa: B023 - of this round

        start = time.process_time()
        hold()
        rates.append(len(passed) / (time.process_time() - start))
    return median(rates)


def main() -> None:
    """Search, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("names", nargs="*", help="the programs; all by default")
    parser.add_argument("--speed", action="store_true", help="measure the examples per second")
    options = parser.parse_args()
    drivers = {**DRIVERS, **races()}
    write = sys.stdout.write
    for name in options.names or drivers:
        program, shortest = drivers[name]
        if options.speed:
            write(f"{name:10} {rate(program):8,.0f} examples per second\n")
            continue
        start = time.process_time()
        found = [searched(program, number, MOST) for number in SEEDS]
        spent = time.process_time() - start
        above = ["-" if each is None else str(each - shortest) for each in found]
        near = sum(each is not None and each <= shortest + 1 for each in found)
        write(
            f"{name:10} shortest {shortest}, above it: {' '.join(f'{each:>2}' for each in above)}"
            f"   at most 1: {near:2} of {len(found)}   {spent:6.1f} s\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
