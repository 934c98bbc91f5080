"""Measures a row of the table in a process of its own.

The child process runs this module as a program, with the arguments ``ROW PLAN``.
"""

# Protocol on the child's standard output: an empty line for each tick, then one line of JSON with
# the comparisons. The plan crosses as JSON too, without its callback.
#
# The child must not outlive its parent. Its standard input is a pipe that the parent holds and
# never writes to, so a read of it returns when the parent is gone, however it ended; a thread waits
# for that. The child is in a session of its own, because Ctrl-C would otherwise reach it as well
# and it would end with a traceback in the middle of the parent's output.
#
# Both ends of the child are `os._exit`: an orderly end would first cancel, await and free hundreds
# of thousands of tasks that were leaked on purpose.

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

from muxleak_scenarios import child_process
from muxleak_scenarios.bench import measure
from muxleak_scenarios.bench.measure import BenchPlan, Beside, Comparison

if TYPE_CHECKING:
    from collections.abc import Sequence


def measure_apart(name: str, plan: BenchPlan) -> list[Comparison]:
    """Measure a row in a new process; pass its ticks on to the plan.

    Args:
        name: a key of `ROWS`.
        plan: the extent of the measurement.

    Raises:
        RuntimeError: the process failed; its traceback is on stderr.
    """
    program = child_process.module("muxleak_scenarios.bench.row_process")
    command = [*program, name, json.dumps(plan[:3])]
    with subprocess.Popen(  # noqa: S603 - our own module
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as child:
        last = ""
        for line in child.stdout or ():
            last = line
            if not line.strip():
                plan.tick()
    if child.returncode:
        raise RuntimeError(f"measuring {name!r} failed: exit code {child.returncode}")
    return [_comparison(*values) for values in json.loads(last)]


def main(arguments: Sequence[str]) -> None:
    """Run as the child process.

    Args:
        arguments: the row's name, and the plan as JSON.
    """
    name, plan = arguments
    # The thread waits in a system call, so it takes no CPU time from the measurement.
    threading.Thread(target=_follow_parent, daemon=True).start()
    try:
        rounds, quick, leaks = json.loads(plan)
        found = measure(name, BenchPlan(rounds, quick, leaks, _tick))
        print(json.dumps(found), flush=True)  # noqa: T201 - the protocol with the parent
    except BrokenPipeError:
        os._exit(1)
    os._exit(0)


def _follow_parent() -> None:
    # Not `sys.stdin.read`, which holds a lock that an interpreter needs when it ends.
    os.read(0, 1)
    os._exit(1)


def _tick() -> None:
    print(flush=True)  # noqa: T201 - the protocol with the parent


def _comparison(what: str, ours: Any, beside: Any, *rest: Any) -> Comparison:
    baselines = tuple(Beside(name, tuple(rounds), *more) for name, rounds, *more in beside)
    return Comparison(what, tuple(ours), baselines, *rest)


if __name__ == "__main__":
    main(sys.argv[1:])
