"""Standard output that cannot be written: one line at most, and never the exit code of a leak."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

import pytest

from muxleak_scenarios.cli import run, stdout
from source_roots import PYTHONPATH

ROOT = Path(__file__).parents[3]
FULL = Path("/dev/full")
PRINTS = [["list"], ["list", "--json"], ["replay", "REF a:open a:close"], ["--help"], ["--version"]]
prints = pytest.mark.parametrize("words", PRINTS, ids=" ".join)
needs_full = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")


@contextmanager
def printing_to(file: TextIO) -> Iterator[None]:
    """Let that be standard output; closing it, as Python does when it exits, must not fail."""
    # Not in a fixture, after which pytest sets its own.
    with file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", file)
        yield


def unread() -> TextIO:
    """Open a pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w", encoding="utf-8")  # noqa: PTH123 - a descriptor


@needs_full
@prints
def test_full_output_is_told_in_one_line(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 74; what is left in the buffer does not fail once more when Python exits."""
    with printing_to(FULL.open("w", encoding="utf-8")):
        assert run(words) == 74

    error = capsys.readouterr().err
    assert error == "cannot write to standard output: No space left on device\n"


@prints
def test_output_that_nobody_reads_ends_the_program_quietly(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """As `| head` does: the exit code of SIGPIPE, and nothing else."""
    with printing_to(unread()):
        assert run(words) == 141

    assert capsys.readouterr().err == ""


def test_closed_output_is_told_before_anything_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Python starts with ``>&-``."""
    monkeypatch.setattr(sys, "stdout", None)

    assert stdout.guarded(lambda: pytest.fail("run")) == 74
    assert capsys.readouterr().err == "cannot write to standard output: it is closed\n"


def test_failure_counts_though_the_program_swallowed_it() -> None:
    """A program under test that prints may catch everything."""

    def swallow() -> int:
        with suppress(Exception):
            print("x", flush=True)  # noqa: T201 - what is under test
        return 1

    with printing_to(unread()):
        assert stdout.guarded(swallow) == 141


def test_output_is_as_it_was_afterwards(capsys: pytest.CaptureFixture[str]) -> None:
    """What is printed arrives in order; errors that are not of the output are left alone."""
    before = sys.stdout

    def fail() -> int:
        print("first")  # noqa: T201 - what is under test
        raise OSError("other")

    with pytest.raises(OSError, match="other"):
        stdout.guarded(fail)
    print("second")  # noqa: T201 - what is under test

    assert sys.stdout is before
    assert capsys.readouterr().out == "first\nsecond\n"


def test_bad_usage_keeps_its_exit_code_where_stderr_cannot_be_written() -> None:
    """What cannot be said is not said."""
    file = unread()
    with suppress(BrokenPipeError), file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", file)
        assert run(["frobnicate"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "code", "says"),
    [
        (">&-", 74, "cannot write to standard output: it is closed\n"),
        ("1</dev/null", 74, "cannot write to standard output: Bad file descriptor\n"),
        pytest.param(
            ">/dev/full",
            74,
            "cannot write to standard output: No space left on device\n",
            marks=needs_full,
        ),
        ("| true", 141, ""),
    ],
)
def test_program_says_nothing_more_when_it_exits(
    where: str, code: int, says: str, tmp_path: Path
) -> None:
    """For real: neither a traceback nor an exception that Python ignored."""
    # The status is told in a file, for it is not that of the last of a pipe.
    line = f'{{ "$0" -m muxleak list; echo $? >"$1"; }} {where}'
    done = subprocess.run(  # noqa: S603 - our own program
        ["/bin/sh", "-c", line, sys.executable, str(tmp_path / "code")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ((tmp_path / "code").read_text(), done.stderr) == (f"{code}\n", says)
