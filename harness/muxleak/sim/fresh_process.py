"""Runs a replay in fresh processes, and names the reason why a program does not repeat a run.

Interface:

- `run_fresh(name, replay)` returns the run in one new process: its trace and its error.
- `difference(name, replay, error)` returns None if a new process repeats a run, else the cause.
- `why_it_differs(name, replay)` returns the likely cause if a run cannot be repeated.
"""

# A run is determined by its decisions, unless the program depends on something else. Within one
# process that cannot be told from luck: strings keep their hashes there, objects often get the
# addresses of earlier ones, and modules keep what earlier runs have left in them. So the program is
# imported and run again in processes that differ in one thing at a time, until two runs differ:
#
#   cause        two runs differ although only this was changed
#   ----------   --------------------------------------------------------------------------------
#   "identity"   the memory layout; the hash seed was the same. A set of objects is ordered by
#                their addresses. The clock and `random` differ between such runs, too
#   "hash"       the hash seed (`PYTHONHASHSEED`), which orders sets of strings
#   "state"      nothing: all fresh processes agree with the recorded run, or, if none is recorded,
#                with each other. So runs in one process influence each other
#   "changed"    nothing: all fresh processes agree, and differ from the recorded run
#   "unknown"    no fresh process could run the program
#
# Memory layouts are made to differ by objects of every small size that a process allocates before
# it imports the program, and again before the run. Randomised address spaces alone do not move an
# object inside its pool, and the low bits of its address are what orders a small set. Agreement
# proves little: a set of two objects has the same order in every second layout.
#
# The parent sends a job of JSON to the standard input of the child, and reads one line of JSON. The
# settings are pickled, since they may hold functions; both ends are this module, so no foreign
# pickle is ever read. The import path is the parent's, and no folder is added to it.

from __future__ import annotations

import base64
import json
import os
import pickle
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any

from muxleak.sim.programs import ProgramError, find_program
from muxleak.sim.replay import Replay
from muxleak.sim.simulate import rerun

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import TextIO

SEEDS = (0, 1, 2, 3)
LAYOUTS = (0, 1, 2, 3)
TIMEOUT = 60.0  # seconds
_CONFIRMED = 3  # fresh processes that must repeat a run

_BOOT = (
    "import sys, json; job = json.load(sys.stdin); sys.path[:] = job['path']; "
    "from muxleak.sim import fresh_process; fresh_process.answer(job)"
)
_SIZES = range(16, 513, 16)  # bytes: the small blocks of Python's allocator
_MOST = 40  # objects of each size
_HEADER = sys.getsizeof(b"")


@dataclass(frozen=True, slots=True)
class FreshRun:
    """One run in a new process.

    Attributes:
        seed: the hash seed of the process.
        layout: the number of its memory layout.
        trace: the hash of all events; "" if there was no run.
        error: the class of the run's error; "" if it had none.
        verdict: the first line of the error.
        problem: the reason why there was no run; "" if there was one.
    """

    seed: int
    layout: int = 0
    trace: str = ""
    error: str = ""
    verdict: str = ""
    problem: str = ""

    @property
    def result(self) -> tuple[str, str]:
        """The trace and the class of the error: equal for runs that took the same course."""
        return self.trace, self.error


@dataclass(frozen=True, slots=True)
class Difference:
    """The likely cause why a program does not repeat a run.

    Attributes:
        cause: "identity", "hash", "state", "changed" or "unknown"; see the top of this module.
        text: a clause for messages that begins with a verb, with "the program" as its subject.
        runs: the runs that were made.
    """

    cause: str
    text: str
    runs: tuple[FreshRun, ...]

    def __str__(self) -> str:
        return f"the program {self.text}"


def run_fresh(
    name: str,
    replay: Replay,
    *,
    seed: int = 0,
    layout: int = 0,
    options: Mapping[str, Any] | None = None,
    timeout: float = TIMEOUT,
) -> FreshRun:
    """Run a replay in a new process, which imports the program afresh. It raises nothing.

    Args:
        name: the program, as "module:callable"; the import path is that of this process.
        replay: the decisions.
        seed: the hash seed of the process.
        layout: the number of a memory layout; processes with different ones order sets of objects
            differently.
        options: the settings that the program does not carry itself, as `rerun` takes them.
        timeout: seconds.

    Returns:
        The run. Its `problem` says if there was none: the program cannot be imported, the settings
        cannot be sent to another process, or the time was up.
    """
    try:
        settings = base64.b64encode(pickle.dumps(dict(options or {}))).decode()
    except Exception as exc:  # noqa: BLE001 - pickle raises anything, and runs the objects' code
        return FreshRun(seed, layout, problem=f"the settings cannot be sent to a process: {exc}")
    job = {
        "path": sys.path,
        "program": name,
        "line": replay.line,
        "trace": replay.trace,
        "layout": layout,
        "settings": settings,
    }
    try:
        done = subprocess.run(  # noqa: S603 - this interpreter, and code of this module
            [sys.executable, "-P", "-c", _BOOT],
            input=json.dumps(job),
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        return FreshRun(seed, layout, problem=f"it had not ended after {timeout:g} s")
    except OSError as exc:
        return FreshRun(seed, layout, problem=f"no process could be started: {exc}")
    try:
        return FreshRun(seed, layout, **json.loads(done.stdout))
    except (ValueError, TypeError):
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return FreshRun(seed, layout, problem=f"its process ended: {last}")


def difference(
    name: str,
    replay: Replay,
    error: BaseException | None,
    *,
    options: Mapping[str, Any] | None = None,
    timeout: float = TIMEOUT,
) -> Difference | None:
    """Return the likely cause if fresh processes do not repeat a run; None if all three do.

    They differ in the hash seed and in the memory layout: one alone agrees too often by chance.

    Args:
        name: the program, as "module:callable".
        replay: the run, with its trace.
        error: the error of the run.
        options: the settings that the program does not carry itself.
        timeout: seconds for each process.
    """
    expected = replay.trace, "" if error is None else type(error).__name__
    for seed, layout in zip(SEEDS[:_CONFIRMED], LAYOUTS, strict=False):
        fresh = run_fresh(name, replay, seed=seed, layout=layout, options=options, timeout=timeout)
        if fresh.result != expected:
            return why_it_differs(name, replay, options=options, timeout=timeout)
    return None


def why_it_differs(
    name: str,
    replay: Replay,
    *,
    options: Mapping[str, Any] | None = None,
    timeout: float = TIMEOUT,
) -> Difference:
    """Return the likely cause why a program does not repeat a run; call it if one does not.

    It starts 2 to 7 processes, one after the other, and ends at the first difference.

    Args:
        name: the program, as "module:callable".
        replay: the decisions; its `trace` is the hash that the run should have, or "".
        options: the settings that the program does not carry itself.
        timeout: seconds for each process.
    """
    runs: list[FreshRun] = []
    for seed, layout in [(SEEDS[0], each) for each in LAYOUTS] + [(each, 0) for each in SEEDS[1:]]:
        run = run_fresh(name, replay, seed=seed, layout=layout, options=options, timeout=timeout)
        runs.append(run)
        if run.problem:
            text = f"could not be run in a fresh process: {run.problem}"
            return Difference("unknown", text, tuple(runs))
        if run.result != runs[0].result:
            break
    return Difference(*_cause(runs, replay.trace), tuple(runs))


def _cause(runs: list[FreshRun], trace: str) -> tuple[str, str]:
    first, last = runs[0], runs[-1]
    if last.result == first.result:
        if trace and first.trace != trace:
            return "changed", "or its settings have changed"
        return "state", (
            "keeps state between the runs of one process, such as a variable of a module: "
            f"{len(runs)} fresh processes did the same"
        )
    if last.seed == first.seed:
        return "identity", (
            "depends on object identity, such as a set of objects that is iterated, or on the "
            f"clock or chance: it differs within hash seed {first.seed}"
        )
    return "hash", (
        "depends on hash order, such as a set of strings that is iterated: hash seeds "
        f"{first.seed} and {last.seed} differ"
    )


def answer(job: Mapping[str, Any]) -> None:
    """Do the job of a child process: run once, and write the result to standard output.

    Args:
        job: as `run_fresh` sends it.
    """
    with _output_apart() as output:
        ballast = [_allocate(job["layout"])]
        result: dict[str, str] = {}
        try:
            program = find_program(job["program"])
            options = pickle.loads(base64.b64decode(job["settings"]))  # noqa: S301 - our parent's
            ballast.append(_allocate(job["layout"] + 1))
            replay = replace(Replay.parse(job["line"]), trace=job["trace"])
            run = rerun(replay, program, **options)
            result["trace"] = run.trace_hash
            if run.error is not None:
                result["error"] = type(run.error).__name__
                result["verdict"] = (str(run.error).splitlines() or [""])[0]
        except ProgramError as exc:
            result["problem"] = str(exc)
        except SystemExit as exc:
            result["problem"] = f"the program calls sys.exit({exc.code!r})"
        output.write(json.dumps(result))


def _allocate(layout: int) -> list[bytes]:
    """Return new objects of every small size, a number of each that depends on the layout."""
    chance = Random(layout)  # noqa: S311 - no secret
    return [
        bytes(max(0, size - _HEADER)) for size in _SIZES for _ in range(chance.randrange(_MOST))
    ]


@contextmanager
def _output_apart() -> Iterator[TextIO]:
    """Yield the standard output; whatever the program prints goes nowhere, also from C."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as output:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)
        yield output
