"""The errors of a simulation: a call that leaves it, a livelock, a deadlock."""

# A program may catch the refusal of a call, like any other exception, and go on without it. Such a
# run is not a run of the program: what it would have done is not known. So the loop remembers the
# first refusal, and `run` makes it the verdict.

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import Any

from muxleak.introspect.sites import caller
from muxleak.introspect.waiting import AnyTask, called_by, name_of, waiting_of

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
            f"not quiescent after {iterations} iterations at {now:g} s, ready: {names}; "
            "raise step_limit if the program needs more"
        )


class DeadlockError(RuntimeError):
    """The program cannot end: nothing is ready and no timer is set.

    Attributes:
        tasks: the blocked tasks.
    """

    def __init__(self, tasks: list[AnyTask]) -> None:
        self.tasks = tasks
        lines = [f"{name_of(task)} {waiting_of(task)}" for task in tasks[:_SHOWN]]
        if len(tasks) > _SHOWN:
            lines.append(f"and {len(tasks) - _SHOWN} more")
        head = f"nothing is ready and no timer is set, blocked tasks: {len(tasks)}"
        super().__init__("\n  ".join([head, *lines]))
