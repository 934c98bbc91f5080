"""Reference programs: ten bugs, five that no other tool sees, and three without a bug.

Each program runs in a process of its own under `no_leaks`, and says itself, by comments of the form
``# leak: KIND``, what is to be found on which line; ``(growth)`` means under ``repeat=`` only.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent.parent / "microbugs"
ROOT = FOLDER.parent.parent
PROGRAMS = sorted(path.stem for path in FOLDER.glob("[bnx]*.py"))
PATIENCE = 10  # seconds for a process
# They wait for the budget, because a thread or a socket might still bring something.
WAITING = ("b05", "b08", "x4", "x5")
MARK = re.compile(r"# leak: (\w+)( \(growth\))?$")


def expected(name: str, mode: str) -> set[tuple[str, str]]:
    """Return the leaks that the program's comments announce: kind and "file:line"."""
    lines = (FOLDER / f"{name}.py").read_text().splitlines()
    found = ((number, MARK.search(line)) for number, line in enumerate(lines, 1))
    return {
        (match[1], f"tests/microbugs/{name}.py:{number}")
        for number, match in found
        if match is not None and (mode == "repeat" or match[2] is None)
    }


def run(name: str, mode: str, loop: str = "asyncio") -> dict[str, Any]:
    """Return the result of a check in a process of its own."""
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, str(FOLDER / "run.py"), name, mode, loop],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def check(name: str, mode: str, loop: str = "asyncio") -> None:
    """The leaks found are those announced, no more and no less."""
    found = run(name, mode, loop)

    groups = {(group["kind"], group["site"].split(" in ")[0]) for group in found["groups"]}
    assert groups == expected(name, mode)
    assert found["seconds"] < 3
    assert len(found["text"].splitlines()) <= 25
    if name.startswith("b07"):
        count = "6 x " if mode == "repeat" else ""
        (note,) = found["notes"]
        assert note.startswith(f"{count}poll swallowed its cancellation in poll (tests/microbugs/")
        assert note.endswith("; it was given up")


def test_microbugs_are_all_there() -> None:
    """Ten bugs, five extra ones, three programs without."""
    kinds = [name[0] for name in PROGRAMS]

    assert (kinds.count("b"), kinds.count("n"), kinds.count("x")) == (10, 3, 5)
    assert [bool(expected(name, "repeat")) for name in PROGRAMS] == [k != "n" for k in kinds]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name.startswith(WAITING) else [])
        for name in PROGRAMS
    ],
)
def test_microbug_repeated(name: str) -> None:
    """`no_leaks(repeat=6)` names kind and line of each leak, and nothing else."""
    check(name, "repeat")


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_microbug_once(name: str) -> None:
    """One run finds every kind that does not need growth."""
    check(name, "once")


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_microbug_on_uvloop(name: str) -> None:
    """The same table on uvloop."""
    check(name, "repeat", "uvloop")
