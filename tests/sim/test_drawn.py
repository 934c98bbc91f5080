"""Choices drawn by Hypothesis: a failing test shows the one line that runs its example again."""

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import seed as seeded

from drivers import DRIVERS, announced
from muxleak import LeakError
from muxleak.search.strategies import any_choices
from muxleak.sim import Choices, Replay, current, find_program, replay, rerun, simulate
from source_roots import PYTHONPATH
from tasks import forever

ROOT = Path(__file__).parents[2]
TEST = '''
import asyncio

from hypothesis import given, settings

from muxleak.sim import current, simulate
from muxleak.search.strategies import any_choices

async def forever():
    await asyncio.get_running_loop().create_future()

async def program():
    """Leaks the third connection."""
    opened = 0
    while current().choices.below(3):
        opened += 1
        current().step(f"open {opened}")
        if opened == 3:
            _ = asyncio.get_running_loop().create_task(forever())
        await current().gap()

@settings(database=None, derandomize=True)
@given(any_choices())
def test_program(choices):
    try:
        simulate(program, choices=choices)
    except AssertionError as error:
        print("trace of", error.__notes__[0], "is", end=" ")
        from muxleak.sim import Replay, rerun
        line = error.__notes__[0].split()[-2]
        print(rerun(Replay.parse(line), program).trace_hash)
        raise
'''


async def leaks_the_second() -> None:
    """Leak once two are open."""
    opened = 0
    while current().choices.below(3):
        opened += 1
        current().step(f"open {opened}")
        if opened == 2:
            _ = asyncio.get_running_loop().create_task(forever())


@settings(database=None, derandomize=True, max_examples=50, phases=[Phase.generate, Phase.shrink])
@given(any_choices(64))
def hold(choices: Choices) -> None:
    """A property that does not hold."""
    simulate(leaks_the_second, choices=choices)


def test_drawn_failure_has_its_line() -> None:
    """The line is that of the shrunk example, and the command finds the program."""
    with pytest.raises(LeakError) as caught:
        hold()

    lines = [note for note in caught.value.__notes__ if note.startswith("replay with: ")]
    assert len(lines) == 1
    *_, line, name = lines[0].split()
    assert lines[0] == f"replay with: muxleak replay {line} {name}"
    assert find_program(name) is leaks_the_second
    again = replay(line, leaks_the_second)
    assert isinstance(again.error, LeakError)
    assert again.steps == ["open 1", "open 2"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["prepend", "importlib"])
def test_drawn_failure_is_replayed_from_what_pytest_prints(tmp_path: Path, mode: str) -> None:
    """The command that is printed gives the same trace in new processes, whatever the hash seed."""

    def run(*words: str, seed: str) -> str:
        environment = {**os.environ, "PYTHONPATH": PYTHONPATH, "PYTHONHASHSEED": seed}
        environment.pop("COLUMNS", None)
        done = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 1, done.stderr
        return done.stdout

    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text(TEST)
    pytest_run = ("-m", "pytest", "-p", "no:cacheprovider", f"--import-mode={mode}")
    printed = run(*pytest_run, seed="1")
    found = re.findall(r"^E +replay with: muxleak replay (\S+) (\S+)$", printed, re.MULTILINE)
    assert len(found) == 1
    line, name = found[0]
    assert name == "tests.test_it:program"
    trace = re.findall(rf"replay {line} \S+ is (\w+)$", printed, re.MULTILINE)[-1]
    code = "import sys; del sys.path[0]; from muxleak_scenarios.cli import main; main()"
    for seed in "23":
        data = json.loads(run("-c", code, "replay", line, name, "--json", seed=seed))
        assert data["runs"][0]["trace"] == trace
        assert data["runs"][0]["steps"] == ["open 1", "open 2", "open 3"]


def shrunk(name: str, number: int) -> int:
    """The steps of the example that Hypothesis shrinks to with a seed."""
    program = DRIVERS[name].program

    @seeded(number)
    @settings(
        max_examples=2_000,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
    )
    @given(any_choices())
    def property_that_fails(choices: Choices) -> None:
        simulate(program, choices=choices)

    with pytest.raises(LeakError) as caught:
        property_that_fails()
    line = caught.value.__notes__[0].split()[-2]
    again = rerun(Replay.parse(line), program)
    assert isinstance(again.error, LeakError)
    return announced(again.steps)


@pytest.mark.parametrize("name", ["third", "leases", "transfers"])
def test_drawn_failure_shrinks_to_the_fewest_steps(name: str) -> None:
    """Events that do not matter are deleted, whatever stands between those that do."""
    assert shrunk(name, 0) == DRIVERS[name].shortest


@pytest.mark.slow
@pytest.mark.parametrize("name", DRIVERS)
def test_drawn_failures_shrink_to_the_fewest_steps(name: str) -> None:
    """On nine seeds of ten at most one step is left that does not matter."""
    above = [shrunk(name, number) - DRIVERS[name].shortest for number in range(10)]

    assert sum(each <= 1 for each in above) >= 9, above


raised: list[BaseException] = []


async def opens_twice() -> None:
    """Fail if two are open, and note exceptions of draws."""
    opened = 0
    while True:
        try:
            drawn = current().choices.below(4)
        except BaseException as error:
            raised.append(error)
            raise
        if not drawn:
            break
        opened += drawn == 3
        current().step("open" if drawn == 3 else "other")
        await asyncio.sleep(0)
    assert opened < 2


def test_drawn_end_of_an_example_does_not_reach_the_program() -> None:
    """Shrinking asks for less than the program draws: it runs on in the plain course."""

    @settings(database=None, derandomize=True, max_examples=300)
    @given(any_choices())
    def property_that_fails(choices: Choices) -> None:
        simulate(opens_twice, choices=choices)

    raised.clear()
    with pytest.raises(AssertionError) as caught:
        property_that_fails()
    line = caught.value.__notes__[0].split()[-2]
    assert replay(line, opens_twice).steps == ["open", "open"]
    assert raised == []


def test_drawn_choices_are_plain_beyond_their_size() -> None:
    """Only so many decisions are drawn, so that an endless program draws no endless example."""
    used = []

    async def draws_many() -> None:
        used.append([current().choices.below(7) for _ in range(40)])

    @settings(database=None, derandomize=True, max_examples=20)
    @given(any_choices(16))
    def property_that_holds(choices: Choices) -> None:
        simulate(draws_many, choices=choices)

    property_that_holds()
    assert any(any(each) for each in used)
    assert not any(any(each[8:]) for each in used)


def test_drawn_choices_show_themselves_once_they_are_used() -> None:
    """Hypothesis prints its examples before they run, when nothing is drawn yet."""
    shown = []

    @settings(database=None, derandomize=True, max_examples=20)
    @given(any_choices())
    def property_that_holds(choices: Choices) -> None:
        before = repr(choices)
        outcome = simulate(draws_seven, choices=choices)
        shown.append((before, repr(choices), outcome.value))

    property_that_holds()
    assert {before for before, _, _ in shown} == {"<choices that are drawn as the program runs>"}
    assert all(after == f"Choices({bytes([value])!r}, b'')" for _, after, value in shown if value)


async def draws_seven() -> int:
    """Draw a number."""
    return current().choices.below(7)
