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
from harness.scheduling import complain
from harness.sim.calls import NetworkCalls
from harness.sim.choices import Choices
from harness.sim.network import Fabric
from harness.sim.settings import Settings
from harness.sim.trace import Trace
from harness.waiting import name_of


class SimLoop(NetworkCalls, VirtualLoop):  # type: ignore[misc] # as much of asyncio's signatures as programs use
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
        self._ended = False  # the main task has
        self._settling: list[tuple[float, asyncio.Future[None]]] = []
        self._made = 0
        self._permute = False
        # Tasks that may still be cancelled, and whether that falls together with the next wake-up.
        self._spared: dict[AnyTask, bool] = {}
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
        fabric = self.fabric
        return bool(
            self._ready or self._scheduled or fabric.pending or fabric.held or fabric.closed
        )

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
        main.add_done_callback(self._end)
        iterations = self._drive(math.inf, self.step_limit)
        if main.done():
            self._ended = False
            return
        if iterations == self.step_limit:
            raise LivelockError(iterations, self._now, self._ready)
        raise DeadlockError(self.live_tasks())

    def _end(self, _main: AnyTask) -> None:
        self._ended = self.fabric.busy = True

    async def settle(self, horizon: float = 0.0) -> None:
        """Wait until all else is at rest: nothing ready, nothing under way, no timer that near."""
        rest: asyncio.Future[None] = self.create_future()
        self._settling.append((self._now + horizon, rest))
        self.fabric.busy = True
        await rest

    def dispose(self, rounds: int = 8) -> list[AnyTask]:
        """End what is left and close; nothing to end is the usual case, and quick."""
        if self._ready or self._asyncgens or self.simulation is None:
            return super().dispose(rounds)
        if self.simulation.ledger.count:
            return super().dispose(rounds)
        self.close()
        return []

    def close(self) -> None:
        """Close the loop and cut what refers back to it."""
        super().close()
        self.fabric.close()
        self.simulation = None
        self._settling.clear()
        self._spared.clear()

    # Longer than a function should be: every call in it is paid for each callback that runs.
    def _iterate(self, until: float, limit: int) -> int:  # noqa: C901, PLR0912
        ready, timers, fabric = self._ready, self._scheduled, self.fabric
        permute, spared, iterations = self._permute, self._spared, 0
        try:
            while iterations < limit:
                # `_next` in short, for the usual case that there is nothing to it.
                if fabric.busy:
                    if self._ended or not self._next(until):
                        break
                elif (timers or not ready) and not self._wake(until):
                    break
                iterations += 1
                for _ in range(len(ready)):
                    handle: Any = ready.popleft()
                    if handle._cancelled:  # noqa: SLF001 - what asyncio's own loop does
                        continue
                    if ready and permute:
                        handle = self._choose(handle)
                    # What its `_run` does, in one call less, and quicker for the usual arguments.
                    args = handle._args  # noqa: SLF001
                    try:
                        if spared:
                            self._run_sparing(handle)
                        elif len(args) == 1:
                            handle._context.run(handle._callback, args[0])  # noqa: SLF001
                        elif args:
                            handle._context.run(handle._callback, *args)  # noqa: SLF001
                        else:
                            handle._context.run(handle._callback)  # noqa: SLF001
                    except (SystemExit, KeyboardInterrupt):
                        raise
                    except BaseException as exc:  # noqa: BLE001 - as asyncio does
                        complain(handle, exc)
        finally:
            # Else a cancelled task's traceback holds this frame, and the frame holds the task.
            handle = args = None
        return iterations

    def _choose(self, first: Any) -> Any:
        """The handle to run in place of `first`."""
        return first

    def _run_sparing(self, handle: Any) -> None:
        """Run a handle while there are tasks that may be cancelled."""
        handle._run()  # noqa: SLF001 - what asyncio's own loop does

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
        fabric.busy = fabric.closed or bool(self._settling)
        if fabric.closed and not fabric.in_flight > self._now:
            fabric.closed = False
            if self.simulation is not None:
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
    error = task._exception  # noqa: SLF001
    return "returned" if error is None else f"raised {type(error).__name__}"
