"""Calls in other processes: order, progress, failures, and the end of the processes."""

import math
import os
import signal
import subprocess
import sys
from functools import partial
from typing import Any

import pytest

from muxleak_scenarios import find_pair, worker_processes
from muxleak_scenarios.cli.verify import _verify
from muxleak_scenarios.pairs.verify import Verdict
from muxleak_scenarios.worker_processes import Job, in_order
from source_roots import PYTHONPATH

JOBS = [Job(partial(math.factorial, number), f"of {number}") for number in range(8)]
EXPECTED = [math.factorial(number) for number in range(8)]


@pytest.mark.parametrize("processes", [1, 2, 20])
def test_results_come_in_the_order_of_the_calls(processes: int) -> None:
    """However many processes there are; the text of each call is said once."""
    said: list[str] = []

    assert list(in_order(JOBS, processes, said.append)) == EXPECTED
    assert sorted(said) == [f"of {number}" for number in range(8)]


def test_no_call_needs_no_process() -> None:
    """Nothing is started, and nothing comes."""
    assert list(in_order([], 4, print)) == []


def test_calls_are_made_in_this_process_one_at_a_time_as_their_results_are_wanted() -> None:
    """A reader sees each result before the next call is made."""
    said: list[str] = []
    results = in_order(JOBS, 1, said.append)

    assert (next(results), said) == (1, ["of 0"])


def test_other_processes_make_the_calls() -> None:
    """None of the calls runs here."""
    assert os.getpid() not in set(in_order([Job(os.getpid, "")] * 4, 2, str))


def test_answer_that_nobody_reads_ends_the_process_without_a_traceback() -> None:
    """The parent may end between a call and its answer; its terminal stays as it was."""
    command = [sys.executable, "-m", "muxleak_scenarios.worker_processes"]
    with subprocess.Popen(  # noqa: S603 - our own module
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
    ) as child:
        assert child.stdin
        assert child.stdout
        assert child.stderr
        child.stdout.close()
        child.stdin.write(worker_processes._line(JOBS[0]))
        child.stdin.flush()

        assert child.stderr.read() == b""
    assert child.returncode == 1


@pytest.mark.slow
def test_progress_of_a_call_crosses_the_processes() -> None:
    """With a result that holds a finding, its error and its report."""
    pair = find_pair("live_id_reused")
    said: list[str] = []
    results = list(in_order([Job(partial(_verify, pair, 0, 2))] * 2, 2, said.append))

    assert [each.to_json() for each in results] == [_verify(pair, 0, 2, str).to_json()] * 2
    assert isinstance(results[0], Verdict)
    assert said.count("live_id_reused: searches the buggy variant") == 2


def test_failed_call_is_an_error_with_its_traceback_on_stderr(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The results before it come all the same."""
    results = in_order([*JOBS[:2], Job(partial(int, "x"), "")], 2, str)

    assert [next(results), next(results)] == EXPECTED[:2]
    with pytest.raises(RuntimeError, match="a call failed in another process"):
        next(results)
    assert "ValueError: invalid literal for int()" in capfd.readouterr().err


def test_where_no_process_can_be_started_the_calls_are_made_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also if the first could be started, which is ended."""
    started: list[Any] = []
    popen = subprocess.Popen

    def one_only(*args: Any, **settings: Any) -> Any:
        if started:
            raise BlockingIOError("no process is left")
        started.append(popen(*args, **settings))
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", one_only)

    assert list(in_order(JOBS, 2, str)) == EXPECTED
    assert started[0].returncode is not None


def test_closing_the_results_ends_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that stops in the middle leaves none behind, also one that is at work."""
    started: list[Any] = []
    start = worker_processes._start

    def noted(number: int) -> list[Any]:
        started.extend(start(number))
        return started

    monkeypatch.setattr(worker_processes, "_start", noted)
    results = in_order([JOBS[3], *[Job(signal.pause, "")] * 3], 2, str)

    assert next(results) == 6
    results.close()
    assert [each._process.returncode for each in started] == [-signal.SIGKILL] * 2


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_processes_end_with_their_parent(ending: signal.Signals) -> None:
    """However it ends: its stderr, which they share, is closed, and nothing is written there."""
    code = (
        "import signal, sys; from muxleak_scenarios.cli import interrupt;"
        "from muxleak_scenarios.worker_processes import Job, in_order; interrupt.install();"
        "say = lambda text: print(text, flush=True);"
        "list(in_order([Job(signal.pause, 'a call is made')] * 3, 2, say))"
    )
    with subprocess.Popen(  # noqa: S603 - our own code
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        assert [parent.stdout.readline() for _ in range(2)] == ["a call is made\n"] * 2
        parent.send_signal(ending)
        _, stderr = parent.communicate(timeout=60)

    assert stderr == ("interrupted\n" if ending == signal.SIGINT else "")
