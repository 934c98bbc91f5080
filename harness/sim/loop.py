"""The loop of a simulation: virtual time, a network in memory, and choices where the world has any.

What is free: which arrivals are seen in which iteration and in which order, how bytes are cut, the
order of timers due at one instant, when a declared cancellation falls. The ready queue stays first
in, first out; `ChoosingLoop` alone, when asked to, lets task wake-ups change places.
"""

import asyncio
import math
from functools import partial
from typing import Any

from harness.fence import AnyTask, DeadlockError, LivelockError
from harness.loop import VirtualLoop
from harness.sim.calls import NetworkCalls
from harness.sim.choices import Choices
from harness.sim.network import Fabric
from harness.sim.settings import Settings
from harness.sim.trace import Trace
from harness.waiting import name_of


class SimLoop(NetworkCalls, VirtualLoop):
    """A deterministic loop with a network in memory.

    Attributes:
        choices: decides what is free.
        fabric: the network.
        trace: what happened, or None where nobody asks.
        simulation: what the program sees, see `harness.sim.current`.
    """

    def __init__(self, choices: Choices, settings: Settings, trace: Trace | None = None) -> None:
        super().__init__(step_limit=settings.step_limit)
        self.choices = choices
        self.trace = trace
        self.simulation: Any = None
        self.fabric = Fabric(self, settings.network)
        self._allow = settings.allow
        self._main: AnyTask | None = None
        self._settling: list[tuple[float, asyncio.Future[None]]] = []
        self._made = 0
        if trace is not None:
            self._task_factory = make_task

    def adopt(self, task: AnyTask) -> None:
        """Take note of a task that was made."""
        self._made = number = self._made + 1
        if self.trace is not None:
            self.note("task", f"{number} {name_of(task)}")
            task.add_done_callback(partial(_ended, self.trace, self, number))

    @property
    def busy(self) -> bool:
        """Whether anything is ready, set or under way."""
        return bool(self._ready or self._scheduled or self.fabric.busy)

    def note(self, kind: str, text: str) -> None:
        """Add an event to the trace."""
        if self.trace is not None:
            self.trace.note(self._now, kind, text)

    def run_main(self, main: AnyTask) -> None:
        """Run until `main` has ended.

        Raises:
            DeadlockError: it cannot end.
            LivelockError: it has not after `step_limit` iterations.
        """
        self._main = main
        iterations = self._drive(math.inf, self.step_limit)
        self._main = None
        if main.done():
            return
        if iterations == self.step_limit:
            raise LivelockError(iterations, self._now, self._ready)
        raise DeadlockError(self.live_tasks())

    async def settle(self, horizon: float = 0.0) -> None:
        """Wait until all else is at rest: nothing ready, nothing under way, no timer that near."""
        rest: asyncio.Future[None] = self.create_future()
        self._settling.append((self._now + horizon, rest))
        await rest

    def close(self) -> None:
        """Close the loop and cut what refers back to it."""
        super().close()
        self.fabric.close()
        self.simulation = self._main = None
        self._settling.clear()

    def _iterate(self, until: float, limit: int) -> int:
        ready, timers, fabric = self._ready, self._scheduled, self.fabric
        main, settling, iterations = self._main, self._settling, 0
        while iterations < limit and (main is None or not main.done()):
            # `_next` in short, for the usual case that there is nothing to it.
            if fabric.busy or (settling and not ready):
                more = self._next(until)
            else:
                more = self._wake(until) if timers else bool(ready)
            if not more:
                break
            self._run_ready()
            iterations += 1
        return iterations

    def _next(self, until: float) -> bool:
        """See what has arrived; at rest, tell those who settle before any time passes."""
        fabric, ready = self.fabric, self._ready
        if fabric.pending or fabric.held:
            fabric.poll()
        if ready:
            return self._wake(self._now)
        if fabric.held:
            self._wake(self._now)
            return True
        fabric.busy = fabric.closed
        if fabric.closed and not fabric.in_flight > self._now:
            fabric.closed = fabric.busy = False
            self.simulation.closed()
        if self._settling:
            horizon, rest = self._settling[0]
            if not self._wake(min(until, max(horizon, fabric.in_flight))):
                del self._settling[0]
                if not rest.done():
                    rest.set_result(None)
            return True
        return self._wake(until)

    def _arrange(self, due: int) -> None:
        """Choose among those due at one instant."""
        ready: Any = self._ready
        for index in range(len(ready) - due, len(ready) - 1):
            when, last = ready[index].when(), index + 1
            while last < len(ready) and ready[last].when() == when:
                last += 1
            chosen = self.choices.decide("tie", last - index) if last - index > 1 else 0
            if chosen:
                handle = ready[index + chosen]
                del ready[index + chosen]
                ready.insert(index, handle)


def make_task(loop: SimLoop, coro: Any, **settings: Any) -> AnyTask:
    """A task factory that numbers tasks and notes their ends."""
    task: AnyTask = asyncio.Task(coro, loop=loop, **settings)
    loop.adopt(task)
    return task


def _ended(trace: Trace, loop: SimLoop, number: int, task: AnyTask) -> None:
    trace.note(loop.time(), "end", f"{number} {_ending(task)}")


def _ending(task: AnyTask) -> str:
    if task.cancelled():
        return "cancelled"
    # Taken without asking the task, which would count as having looked at its exception.
    error = task._exception  # type: ignore[attr-defined]  # noqa: SLF001
    return "returned" if error is None else f"raised {type(error).__name__}"
