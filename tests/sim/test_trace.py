"""Traces: equal for equal runs, in every process, under every hash seed, on every Python."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from muxleak.sim.trace import Trace
from source_roots import PYTHONPATH

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(__file__).with_name("random_scripts.py")
FOUND = tuple(
    Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions").glob("3.*/bin/python3")
)


def runs(python: str) -> bool:
    """Whether it does: pyenv puts names on PATH with nothing behind them."""
    command = [python, "-c", ""]
    return not subprocess.run(command, capture_output=True, check=False).returncode  # noqa: S603 - found above


def pythons() -> list[str]:
    """The supported Pythons that are installed: one of each minor version."""
    found = {sys.version_info[:2]: sys.executable}
    for minor in (11, 12, 13):
        candidates = [str(path) for path in FOUND if f"/3.{minor}." in path.as_posix()]
        candidates.append(shutil.which(f"python3.{minor}") or "")
        for each in candidates:
            if each and runs(each):
                found.setdefault((3, minor), each)
    return [found[version] for version in sorted(found)]


def hashes(python: str, hash_seed: int, count: int) -> list[str]:
    """What a fresh interpreter says of the first `count` scripts."""
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": PYTHONPATH}
    done = subprocess.run(  # noqa: S603 - our own script
        [python, str(SCRIPTS), str(count)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert not done.returncode, done.stderr
    return done.stdout.split()


@pytest.mark.slow
def test_trace_is_the_same_in_fresh_processes() -> None:
    """Two processes with different hash seeds agree, and scripts differ from each other."""
    first = hashes(sys.executable, 1, 10)

    assert first == hashes(sys.executable, 2, 10)
    assert len(set(first)) == 10


@pytest.mark.slow
def test_trace_of_300_scripts_is_the_same_on_every_python() -> None:
    """All installed Pythons agree on all scripts, under three hash seeds."""
    if len(found := pythons()) < 2:
        pytest.skip("only one Python found: install 3.11, 3.12 and 3.13, on PATH or with pyenv")
    expected = hashes(sys.executable, 0, 300)

    assert len(set(expected)) > 290
    for number, python in enumerate(found):
        assert hashes(python, number + 1, 300) == expected, python
    assert hashes(found[0], 7, 300) == expected


def test_trace_keeps_the_last_events_and_the_hash_of_all() -> None:
    """However many events there were, the hash covers all, in order, and few are kept."""
    one, other = Trace(), Trace()
    for number in range(2_500):
        one.note(number / 4, "tick", str(number))
        other.note(number / 4, "tick", str(number))
        if number == 1_100:
            assert one.hash
    assert one.hash == other.hash
    assert one.count == 2_500
    assert str(one.tail[-1]) == "624.750000 tick 2499"
    assert len(one.tail) == 200

    one.note(1.0, "a", "b")
    other.note(1.0, "a", "c")
    assert one.hash != other.hash
