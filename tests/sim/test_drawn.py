"""Choices drawn by Hypothesis: a failing test shows the one line that runs its example again."""

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings

from muxleak import LeakError
from muxleak.search.strategies import any_choices
from muxleak.sim import Choices, current, find_program, replay, simulate
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
