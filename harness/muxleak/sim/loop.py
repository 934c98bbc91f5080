"""The loop of a simulation: virtual time, a network in memory, and choices where the world has any.

What is free: which arrivals are seen in which iteration and in which order, how bytes are cut, the
order of timers due at one instant, when a declared cancellation falls. The ready queue stays first
in, first out; `ChoosingLoop` alone, when asked to, lets task wake-ups change places.
"""

import asyncio
import math
from functools import partial
from types import BuiltinMethodType
from typing import Any

from muxleak.introspect import sites
from muxleak.introspect.waiting import AnyTask, name_of
from muxleak.ledger.task_class import TASK
from muxleak.sim.calls import NetworkCalls
from muxleak.sim.choices import Choices
from muxleak.sim.errors import DeadlockError, LivelockError
from muxleak.sim.interfaces import RunningSimulation
from muxleak.sim.leak_scan import Seen
from muxleak.sim.network import Fabric
from muxleak.sim.settings import Settings
from muxleak.sim.trace import Trace
from muxleak.sim.virtual_loop import VirtualLoop

sites.end_at(__file__)


class _State:
    """What a loop keeps apart: an object of 30 attributes is slower in all of them.

    Attributes:
        choices: decide what is free.
        trace: what happened, or None where nobody asks.
        settings: how the run goes.
        simulation: what the program sees.
        ended: whether the main task has.
        made: how many tasks were, where that is noted.
        seen: what nobody else has a list of.
        settling: the horizons and the futures of those who wait for rest.
        spared: tasks that may still be cancelled, and whether that falls together with the next
            wake-up.
    """

    __slots__ = (
        *("choices", "ended", "made", "seen", "settings"),
        *("settling", "simulation", "spared", "trace"),
    )

    def __init__(self, choices: Choices, settings: Settings, trace: Trace | None) -> None:
        self.choices, self.settings, self.trace = choices, settings, trace
        self.simulation: RunningSimulation | None = None
        self.ended = False
        self.made = 0
        self.seen = Seen()
        self.settling: list[tuple[float, asyncio.Future[None]]] = []
        self.spared: dict[AnyTask, bool] = {}


class SimLoop(NetworkCalls, VirtualLoop):  # type: ignore[misc] # as much of asyncio's signatures as programs use
    """A deterministic loop with a network in memory.

    Attributes:
        fabric: the network.
    """

    _notes_timers = True

    def __init__(self, choices: Choices, settings: Settings, trace: Trace | None = None) -> None:
        super().__init__(step_limit=settings.step_limit)
        self.fabric = Fabric(self, settings.network)
        self._state = _State(choices, settings, trace)
        if trace is not None:
            self._task_factory = make_task
        if "callback" in settings.counted:
            self.create_future = partial(_seen_future, self)  # type: ignore[method-assign]

    @property
    def choices(self) -> Choices:
        """Decide what is free."""
        return self._state.choices

    @property
    def seen(self) -> Seen:
        """What was made that nobody else has a list of."""
        return self._state.seen

    @property
    def simulation(self) -> RunningSimulation | None:
        """What the program sees, see `muxleak.sim.current`."""
        return self._state.simulation

    @simulation.setter
    def simulation(self, simulation: RunningSimulation | None) -> None:
        self._state.simulation = simulation

    @property
    def _allow(self) -> tuple[str, ...]:
        return self._state.settings.allow

    def adopt(self, task: AnyTask) -> None:
        """Take note of a task that was made."""
        self._state.made = number = self._state.made + 1
        if self._state.trace is not None:
            self.note("task", f"{number} {name_of(task)}")
            task.add_done_callback(partial(_ended, self._state.trace, self, number))

    @property
    def busy(self) -> bool:
        """Whether anything is ready, set or under way."""
        fabric = self.fabric
        return bool(
            self._ready or self._scheduled or fabric.pending or fabric.held or fabric.closed
        )

    def note(self, kind: str, text: str) -> None:
        """Add an event to the trace."""
        trace = self._state.trace
        if trace is not None:
            trace.note(self._now, kind, text)

    def stop_tracing(self) -> None:
        """Note no more."""
        self._state.trace = None

    def run_main(self, main: AnyTask) -> None:
        """Run until `main` has ended.

        Raises:
            DeadlockError: it cannot end.
            LivelockError: it has not after `step_limit` iterations.
        """
        main.add_done_callback(self._end)
        iterations = self._drive(math.inf, self.step_limit)
        if main.done():
            self._state.ended = False
            return
        if iterations == self.step_limit:
            raise LivelockError(iterations, self._now, self._ready)
        raise DeadlockError(self.live_tasks())

    def _end(self, _main: AnyTask) -> None:
        self._state.ended = self.must_check = True

    async def settle(self, horizon: float = 0.0) -> None:
        """Wait until all else is at rest: nothing ready, nothing under way, no timer that near."""
        rest: asyncio.Future[None] = self.create_future()
        self._state.settling.append((self._now + horizon, rest))
        self.must_check = True
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
        if "callback" in self._state.settings.counted:
            vars(self).pop("create_future", None)
        self.fabric.close()
        self.simulation = None
        self._state.settling.clear()
        self._state.spared.clear()

    def _asyncgen_firstiter_hook(self, generator: Any) -> None:
        self._state.seen.generator(self, generator)
        super()._asyncgen_firstiter_hook(generator)

    def _next(self, until: float) -> bool:
        """See what has arrived; at rest, tell those who settle before any time passes."""
        if self._state.ended:
            return False
        fabric, ready = self.fabric, self._ready
        if fabric.pending or fabric.held:
            fabric.poll()
        if ready:
            return self._wake(self._now)
        if fabric.held:
            self._wake(self._now)
            return True
        self.must_check = fabric.closed or bool(self._state.settling)
        if fabric.closed and not fabric.in_flight > self._now:
            fabric.closed = False
            if self.simulation is not None:
                self.simulation.closed()
        if self._state.settling:
            horizon, rest = self._state.settling[0]
            if not self._wake(min(until, max(horizon, fabric.in_flight))):
                del self._state.settling[0]
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
    # What `asyncio.Task` makes is adopted by itself.
    task: AnyTask = TASK(coro, loop=loop, **settings)
    loop.adopt(task)
    return task


def _seen_future(loop: SimLoop) -> asyncio.Future[Any]:
    return loop.seen.future(asyncio.Future(loop=loop))


def _ended(trace: Trace, loop: SimLoop, number: int, task: AnyTask) -> None:
    trace.note(loop.time(), "end", f"{number} {_ending(task)}")


def _ending(task: AnyTask) -> str:
    if task.cancelled():
        return "cancelled"
    # Taken without asking the task, which would count as having looked at its exception.
    error = task._exception  # noqa: SLF001
    return "returned" if error is None else f"raised {type(error).__name__}"


_WINDOW = 16  # wake-ups looked at when one is chosen, so that a long queue stays cheap
_CANCELS = 5  # never; this iteration; the next; the one after; together with the next wake-up
_WITH_WAKEUP = _CANCELS - 1
# A test pins both names on every supported Python; asyncio has no public ones.
_RUNS_TASK = {"TaskStepMethWrapper", "task_wakeup"}


class ChoosingLoop(SimLoop):
    """A simulated loop for `Settings.wakeups` and `Settings.cancel`."""

    def __init__(self, choices: Choices, settings: Settings, trace: Trace | None = None) -> None:
        super().__init__(choices, settings, trace)
        if settings.cancel:
            self._task_factory = make_task

    @property
    def _permute(self) -> bool:  # type: ignore[override]
        return self._state.settings.wakeups

    @property
    def _spared(self) -> dict[AnyTask, bool]:  # type: ignore[override]
        return self._state.spared

    def adopt(self, task: AnyTask) -> None:
        """Take note of a task that was made, and of whether it is cancellable."""
        super().adopt(task)
        names = self._state.settings.cancel
        if names and name_of(task).endswith(names):
            self._spared[task] = False

    def _choose(self, first: Any) -> Any:
        """One of the woken tasks; the one whose turn it was takes its place in the queue."""
        task = _task_of(first)
        if task is None:
            return first
        ready: Any = self._ready
        found, tasks, places = [first], [task], [-1]
        for index, each in enumerate(ready):
            task = None if each._cancelled else _task_of(each)  # noqa: SLF001 - as above
            if task is not None:
                found.append(each)
                tasks.append(task)
                places.append(index)
                if len(found) == _WINDOW:
                    break
        if len(found) == 1:
            return first
        chosen = self.choices.wake(tasks)
        if chosen:
            ready[places[chosen]] = first
        return found[chosen]

    def _run_sparing(self, handle: Any) -> None:
        """Run a handle; if it is a step of a cancellable task, consider cancelling that."""
        task = _task_of(handle)
        if task not in self._spared:
            handle._run()  # noqa: SLF001 - what asyncio's own loop does
            return
        if self._spared[task]:
            del self._spared[task]
            task.cancel()
            handle._run()  # noqa: SLF001 - the same
        else:
            handle._run()  # noqa: SLF001 - the same
            self._consider(task)

    def _consider(self, task: AnyTask) -> None:
        """Decide whether a cancellable task is cancelled at the await it has come to."""
        if task.done():
            del self._spared[task]
            return
        chosen = self.choices.decide("cancel", _CANCELS)
        if chosen == _WITH_WAKEUP:
            self._spared[task] = True
        elif chosen:
            del self._spared[task]
            _cancel_later(self, task, chosen)


def _task_of(handle: Any) -> Any:
    """The task whose next step a handle runs, if it does."""
    # What kind of callable runs a task, asyncio tells nobody but by name.
    callback = handle._callback  # noqa: SLF001 - a handle tells it no other way
    kind = type(callback)
    name = callback.__name__ if kind is BuiltinMethodType else kind.__name__
    return callback.__self__ if name in _RUNS_TASK else None


def _cancel_later(loop: SimLoop, task: AnyTask, iterations: int) -> None:
    if iterations:
        loop.call_soon(_cancel_later, loop, task, iterations - 1)
    else:
        task.cancel()
