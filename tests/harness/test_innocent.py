"""A sample of the commands that count false alarms and bugs found; at length they run by hand."""

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
# The usual figures are 10,000 checks and 20 runs on each Python, under two burners.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def command(*arguments: str) -> tuple[int, str]:
    """Return a command's exit code and last line."""
    done = subprocess.run(  # noqa: S603 - our own words
        [sys.executable, *arguments],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, done.stdout if done.returncode else done.stdout.splitlines()[-1]


def test_innocent_programs_are_not_accused() -> None:
    """Every program under every kind of check, once or twice, on a busy machine."""
    code, told = command("tests/innocent.py", "--checks", "400", "--burners", "1")

    assert code == 0, told
    assert told.startswith("400 checks, 0 false alarms, 0 failures; ")


def test_innocent_counts_a_program_that_leaks() -> None:
    """The count of false alarms rises with a program that does leak, under every kind of check."""
    code, told = command("tests/innocent.py", "--checks", "50", "--only", "nothing", "--plant")

    assert code == 1
    assert "50 checks, 50 false alarms, 0 failures; " in told


def test_microbugs_are_found_on_a_busy_machine() -> None:
    """Each bug and each program without one, once."""
    code, told = command("tests/microbugs/many.py", "--runs", "1", "--burners", "2")

    assert code == 0, told
    assert told.startswith("10 of 10 bugs found, 0 of 3 programs without one accused; ")
