"""Runs in fresh processes: the same run, and the cause if a program does not repeat one."""

import sys
from pathlib import Path

import pytest

from muxleak.sim import Replay, rerun
from muxleak.sim.fresh_process import run_fresh, why_it_differs
from muxleak.sim.programs import find_program

FIRST = b"\1"  # the decisions with which the programs take the first course
PROGRAMS = '''
import asyncio
import random
import sys

from muxleak.sim import current


class Session:
    """Has the default hash: its address."""

    def __init__(self, name):
        self.name = name


async def a():
    pass


async def b():
    pass


async def c():
    pass


NAMES = {"a": a, "b": b, "c": c}
runs = 0


async def sound():
    print("does not reach the result")
    sys.__stdout__.flush()
    for name in sorted(NAMES):
        await asyncio.create_task(NAMES[name]())
    assert not current().choices.below(2), "drawn"


async def set_of_strings():
    for name in set(NAMES):
        await asyncio.create_task(NAMES[name]())


async def set_of_objects():
    for session in {Session("a"), Session("b"), Session("c")}:
        await asyncio.create_task(NAMES[session.name]())


async def dice():
    await asyncio.create_task(random.choice([a, b, c])())
    await asyncio.create_task(random.choice([a, b, c])())


async def leaves():
    sys.exit(3)


async def hangs():
    while True:
        pass


async def strict():
    loop = asyncio.get_running_loop()
    loop.call_later(60, print)
'''


@pytest.fixture(autouse=True)
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of programs on the import path."""
    path = tmp_path / "repeated.py"
    path.write_text(PROGRAMS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "repeated", raising=False)
    return path


def test_run_in_a_fresh_process_is_the_same_run() -> None:
    """The same trace and the same error; the output of the program is no part of the answer."""
    here = rerun(Replay(FIRST), find_program("repeated:sound"))
    fresh = run_fresh("repeated:sound", Replay(FIRST))

    assert fresh.trace == here.trace_hash
    assert (fresh.error, fresh.verdict, fresh.problem) == ("AssertionError", "drawn", "")


@pytest.mark.slow
def test_run_in_a_fresh_process_takes_the_settings() -> None:
    """Settings that the program does not carry are sent along."""
    found = run_fresh("repeated:strict", Replay())
    spared = run_fresh("repeated:strict", Replay(), options={"budget": 90.0})

    assert (found.error, spared.error) == ("LeakError", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("repeated:nothing", "no 'nothing' in module 'repeated'"),
        ("repeated:leaves", "the program calls sys.exit(3)"),
        ("repeated:hangs", "it had not ended after 2 s"),
        ("missing_module:main", "no module 'missing_module'"),
    ],
)
def test_run_that_cannot_be_made_has_its_reason(name: str, problem: str) -> None:
    """A missing program, one that exits and one that never returns."""
    fresh = run_fresh(name, Replay(), timeout=2)

    assert problem in fresh.problem
    assert not fresh.trace


def test_settings_that_cannot_be_sent_are_a_problem() -> None:
    """A function without an importable name, for instance."""
    fresh = run_fresh("repeated:sound", Replay(), options={"check": lambda _: None})

    assert fresh.problem.startswith("the settings cannot be sent to a process: ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "cause", "text"),
    [
        ("set_of_strings", "hash", "depends on hash order, such as a set of strings"),
        ("set_of_objects", "identity", "depends on object identity, such as a set of objects"),
        ("dice", "identity", "or on the clock or chance: it differs within hash seed 0"),
        ("sound", "changed", "or its settings have changed"),
        ("nothing", "unknown", "could not be run in a fresh process: "),
    ],
)
def test_cause_of_a_difference_is_named(name: str, cause: str, text: str) -> None:
    """Sets of strings, sets of objects, chance, and an edit since the recorded run."""
    found = why_it_differs(f"repeated:{name}", Replay(FIRST, trace="0" * 24))

    assert found.cause == cause
    assert text in str(found)


@pytest.mark.slow
def test_state_between_runs_is_the_cause_if_fresh_processes_agree(programs: Path) -> None:
    """A program that counts its runs in a module does the same in every fresh process."""
    programs.write_text(PROGRAMS.replace("    for name in sorted(", COUNTS))
    program = find_program("repeated:sound")
    first, second = (rerun(Replay(), program).trace_hash for _ in range(2))

    assert first != second
    for trace in (first, ""):
        assert why_it_differs("repeated:sound", Replay(trace=trace)).cause == "state"


COUNTS = """    global runs
    runs += 1
    await asyncio.create_task([a, b, c][runs % 3]())
    for name in sorted("""
