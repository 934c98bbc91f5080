"""A row measured in a process of its own: this module, as a program, with ``ROW PLAN``.

The child writes a line for each tick and, last, what it has measured. It dies with its parent: its
input ends then.
"""

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
    """Measure a row in a new process; its ticks are passed on.

    Raises:
        RuntimeError: the process failed; it has said why on stderr.
    """
    command = [*child_process.module("muxleak_scenarios.bench.apart"), name, json.dumps(plan[:3])]
    # In a session of its own, Ctrl-C does not reach it: it would end with a traceback.
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
    """Be the child."""
    name, plan = arguments
    # It waits all the time, and so takes none from what is measured.
    threading.Thread(target=_follow_parent, daemon=True).start()
    try:
        rounds, quick, leaks = json.loads(plan)
        found = measure(name, BenchPlan(rounds, quick, leaks, _tick))
        print(json.dumps(found), flush=True)  # noqa: T201 - how it answers
    except BrokenPipeError:
        os._exit(1)  # As below: there is nobody to tell.
    # What was leaked on purpose is not worth an orderly end.
    os._exit(0)


def _follow_parent() -> None:
    # Not through `sys.stdin`, whose lock an ending interpreter wants to have.
    os.read(0, 1)
    os._exit(1)


def _tick() -> None:
    print(flush=True)  # noqa: T201 - how it says that it lives


def _comparison(what: str, ours: Any, beside: Any, *rest: Any) -> Comparison:
    baselines = tuple(Beside(name, tuple(rounds), *more) for name, rounds, *more in beside)
    return Comparison(what, tuple(ours), baselines, *rest)


if __name__ == "__main__":
    main(sys.argv[1:])
