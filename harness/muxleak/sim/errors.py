"""The errors of a simulation: a call that leaves it, a livelock, a deadlock."""

# A program may catch the refusal of a call, like any other exception, and go on without it. Such a
# run is not a run of the program: what it would have done is not known. So the loop remembers the
# first refusal, and `run` makes it the verdict.
#
# A deadlock is reported as a leak is: groups of tasks with the line that made them, the line where
# they wait, and the answer to the question who could still wake them. No code of the program runs
# any more, so an answer such as "could still be woken by app.EVENTS" names the object by which some
# code would have had to do it. The answer walks the heap, so a search asks for it only once, in the
# run that it reports.

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from muxleak.checks.report import LeakReport
from muxleak.checks.scope_check import diagnoses
from muxleak.introspect.sites import caller, intern
from muxleak.introspect.waiting import AnyTask, called_by
from muxleak.ledger.counters import TaskRecord

STEP_ADVICE = "; raise step_limit if the program needs more"
"""The end of the message of a `LivelockError`, for programs, which have that setting."""
_SHOWN = 10


class SimulationError(RuntimeError):
    """A call would leave the simulation: a thread, a socket, a signal, a process."""


def refusal(message: str, loop: Any = None) -> SimulationError:
    """Return the error of a call that is refused, and note the first one on the loop.

    Args:
        message: the line that says which call, and why.
        loop: the simulated loop; None for the running one.
    """
    loop = loop or asyncio._get_running_loop()  # noqa: SLF001 - the public one raises when there is none
    if loop is not None and not getattr(loop, "refused", ""):
        loop.refused = f"{message}; refused in {caller(3)}"
    return SimulationError(message)


class LivelockError(RuntimeError):
    """The loop did not settle within its step limit; the message names the ready callbacks."""

    def __init__(self, iterations: int, now: float, ready: Iterable[asyncio.Handle]) -> None:
        counts = Counter(called_by(handle) for handle in ready).most_common(_SHOWN)
        names = ", ".join(f"{name} (x{count})" if count > 1 else name for name, count in counts)
        super().__init__(
            f"not quiescent after {iterations} iterations at {now:g} s, ready: {names}{STEP_ADVICE}"
        )


class DeadlockError(RuntimeError):
    """The program cannot end: nothing is ready and no timer is set.

    The message is a report on the blocked tasks, in groups as those of a `LeakError`.

    Args:
        tasks: the blocked tasks.
        records: the records of the blocked tasks, with their creation sites; made of `tasks` if
            none are given.
        diagnose: True to say of each group if anything outside the blocked tasks could wake it,
            which walks the heap.

    Attributes:
        tasks: the blocked tasks.
        report: the report.
    """

    def __init__(
        self,
        tasks: list[AnyTask],
        records: Sequence[TaskRecord] = (),
        *,
        diagnose: bool = True,
    ) -> None:
        self.tasks = tasks
        found = records or [TaskRecord(task, intern([]), None, at) for at, task in enumerate(tasks)]
        report = LeakReport.of(found, diagnose=diagnoses if diagnose else None)
        headline = f"nothing is ready and no timer is set, blocked tasks: {len(tasks)}"
        self.report = replace(report, headline=headline)
        super().__init__(str(self.report))
