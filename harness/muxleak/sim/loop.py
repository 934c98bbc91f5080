"""The loop of a simulation: virtual time, a network in memory, and decisions about its freedoms."""

# A run is legal by default: it is one that a stock asyncio loop could show. Free is only what is
# free in the world as well:
#
#   - the iteration in which an arrival is seen, and the order among arrivals that wait together
#   - the cutting of bytes
#   - the order of timers that are due at the same instant
#   - the moment of a declared cancellation, which on a stock loop comes from a callback too
#
# The ready queue stays first in, first out, as asyncio documents. `ChoosingLoop` alone lets task
# wake-ups change places, only if `Settings.wakeups` asks for it, and its findings are labelled.
# Even there a task has at most one pending wake-up, so its own steps keep their order, and so does
# every callback that is no wake-up.
#
# `_next` is the heart. It is called when an iteration has to look beyond the ready queue
# (`must_check`), and does in this order what a real loop does around its selector:
#
#   1. the main task has ended: stop
#   2. poll the network: make ready what has arrived
#   3. with something ready: take the timers that are due now, and run
#   4. quiescent, a connection closed since the last time, and nothing under way: run the check
#   5. quiescent, a task settles: let timers within the horizon pass, else wake the first waiter
#   6. quiescent, after the end of the program: let `run_down`'s caller look before time passes
#   7. else jump to the next timer
#
# So `settle` returns before virtual time passes its horizon, and a check never runs while bytes are
# under way. Its price is one attribute look-up per iteration.

import asyncio
import math
from collections.abc import Callable
from functools import partial
from types import BuiltinMethodType
from typing import Any

from muxleak.introspect import sites
from muxleak.introspect.waiting import AnyFuture, AnyTask, name_of, waiting_of
from muxleak.ledger.task_class import TASK
from muxleak.sim.calls import NetworkCalls
from muxleak.sim.choices import Choices
from muxleak.sim.errors import DeadlockError, LivelockError
from muxleak.sim.interfaces import RunningSimulation
from muxleak.sim.leak_scan import Seen, task_records
from muxleak.sim.network import Fabric
from muxleak.sim.settings import Settings
from muxleak.sim.trace import Trace
from muxleak.sim.virtual_loop import VirtualLoop

sites.end_at(__file__)

_SITED = frozenset({"transport", "server"})  # kinds whose creation sites the network notes


class _State:
    """The rarely used state of a loop, kept apart: with 30 attributes every look-up is slower.

    Attributes:
        choices: decide what is free.
        trace: the events of the run, or None if it is not traced.
        settings: the settings of the run.
        simulation: the program's view of the simulation.
        ended: True if the main task has ended.
        made: number of tasks made, counted only in a traced run.
        seen: generators and futures, which no other list holds.
        settling: horizon and future of each call of `settle` that waits.
        spared: tasks that may still be cancelled; True if that falls together with the next
            wake-up.
        watch: called whenever the loop is quiescent, before time passes; None for nothing.
    """

    __slots__ = (
        *("choices", "ended", "made", "seen", "settings"),
        *("settling", "simulation", "spared", "trace", "watch"),
    )

    def __init__(self, choices: Choices, settings: Settings, trace: Trace | None) -> None:
        self.choices, self.settings, self.trace = choices, settings, trace
        self.simulation: RunningSimulation | None = None
        self.ended = False
        self.made = 0
        self.seen = Seen()
        self.settling: list[tuple[float, asyncio.Future[None]]] = []
        self.spared: dict[AnyTask, bool] = {}
        self.watch: Callable[[], object] | None = None


class SimLoop(NetworkCalls, VirtualLoop):  # type: ignore[misc] # as much of asyncio's signatures as programs use
    """A deterministic loop with a network in memory.

    Attributes:
        fabric: the network.
        adopts: True if new tasks must pass through `adopt`.
    """

    adopts = False
    judges_itself = True  # for the plugin: objects that a run leaves are the run's own result

    def __init__(self, choices: Choices, settings: Settings, trace: Trace | None = None) -> None:
        super().__init__(step_limit=settings.step_limit)
        self._state = _State(choices, settings, trace)
        self.fabric = Fabric(self, settings.network)
        kinds = settings.counted
        self._notes_timers = "timer" in kinds
        if kinds.isdisjoint(_SITED):
            self.fabric.notes_sites = False
        if trace is not None:
            self.fabric.traced = self.adopts = True
            self._task_factory = make_task
        if "callback" in kinds:
            self.create_future = partial(_seen_future, self)  # type: ignore[method-assign]

    @property
    def choices(self) -> Choices:
        """Decide what is free."""
        return self._state.choices

    @property
    def seen(self) -> Seen:
        """The generators and futures, which no other list holds."""
        return self._state.seen

    @property
    def simulation(self) -> RunningSimulation | None:
        """The program's view of the simulation, see `muxleak.sim.current`; None once closed."""
        return self._state.simulation

    @simulation.setter
    def simulation(self, simulation: RunningSimulation | None) -> None:
        self._state.simulation = simulation

    @property
    def _allow(self) -> tuple[str, ...]:
        return self._state.settings.allow

    def adopt(self, task: AnyTask) -> None:
        """Number a new task and note it in the trace."""
        self._state.made = number = self._state.made + 1
        if self._state.trace is not None:
            self.note("task", f"{number} {name_of(task)}")
            task.add_done_callback(partial(_ended, self._state.trace, self, number))

    @property
    def busy(self) -> bool:
        """True if a callback is ready, a timer is set, or something is under way."""
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
        """Note no further events."""
        self._state.trace = None

    def run_main(self, main: AnyFuture) -> None:
        """Run until `main`, a task or another future, has ended.

        Raises:
            DeadlockError: it cannot end.
            TimeLimitError: it takes longer than `Settings.time_limit`.
            LivelockError: it has not ended after `step_limit` iterations.
        """
        main.add_done_callback(self._end)
        try:
            iterations = self._drive(math.inf, self.step_limit)
        finally:
            # It may end later, while something else is waited for, or in `dispose`.
            main.remove_done_callback(self._end)
            self._state.ended = False
        if main.done():
            return
        if iterations == self.step_limit:
            raise LivelockError(iterations, self._now, self._ready)
        tasks, records = self.live_tasks(), task_records(self)
        raise DeadlockError(tasks, records, diagnose=self._state.trace is not None)

    def run_down(self, seconds: float, watch: Callable[[], object] | None) -> None:
        """Run until nothing is due within some virtual seconds from now.

        Args:
            seconds: virtual seconds.
            watch: called at each instant at which nothing is ready or under way, before time
                passes; it must not change anything.

        Raises:
            LivelockError: the loop does not settle.
        """
        self._state.watch, self.must_check = watch, True
        try:
            self.run_until_quiescent(seconds)
        finally:
            self._state.watch = None

    def _end(self, _main: AnyFuture) -> None:
        self._state.ended = self.must_check = True

    async def settle(self, horizon: float = 0.0) -> None:
        """Wait until nothing is ready or under way and no timer is due within the horizon.

        Args:
            horizon: virtual seconds.
        """
        rest: asyncio.Future[None] = self.create_future()
        self._state.settling.append((self._now + horizon, rest))
        self.must_check = True
        await rest

    def dispose(self, rounds: int = 8) -> list[AnyTask]:
        """End the tasks that are alive and close; quick if there are none, the usual case."""
        if self._ready or self._asyncgens or self.simulation is None:
            return super().dispose(rounds)
        if self.simulation.ledger.count:
            return super().dispose(rounds)
        self.close()
        return []

    def close(self) -> None:
        """Close the loop and cut the references back to it."""
        super().close()
        self.limit = math.inf
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
        """Make arrivals and due timers ready; wake tasks that settle before any time passes."""
        if self._state.ended:
            return False
        fabric, ready = self.fabric, self._ready
        if fabric.pending or fabric.held:
            fabric.poll()
        watch = self._state.watch
        self.must_check = bool(
            fabric.held or fabric.closed or self._state.settling or watch is not None
        )
        if ready or fabric.held:
            timers: Any = self._scheduled
            if timers and timers[0]._when <= self._now:  # noqa: SLF001 - as in `VirtualLoop`
                self._wake(self._now)
            return True
        if fabric.closed and not fabric.in_flight > self._now:
            fabric.closed = False
            if self.simulation is not None:
                self.simulation.closed()
        if self._state.settling:
            self._settle(until)
            return True
        if watch is not None and not fabric.in_flight > self._now:
            watch()
        return self._wake(until)

    def _settle(self, until: float) -> None:
        """Let timers within the horizon of the first `settle` pass; without any, it returns."""
        horizon, rest = self._state.settling[0]
        if not self._wake(min(until, max(horizon, self.fabric.in_flight))):
            del self._state.settling[0]
            if not rest.done():
                rest.set_result(None)

    def _pass_limit(self, when: float) -> None:
        if self.simulation is not None:
            self.simulation.limits.pass_limit(when)

    def _arrange(self, due: int) -> None:
        """Order the timers that are due at the same instant."""
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
    """Make a task, as a task factory that numbers tasks and notes their ends."""
    # A call of `asyncio.Task` passes no factory; the hook of `task_class` adopts those.
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
    # Read directly: `task.exception()` would mark the exception as retrieved.
    error = task._exception  # noqa: SLF001
    return "returned" if error is None else f"raised {type(error).__name__}"


_WINDOW = 16  # wake-ups among which one is chosen, so that a long queue stays cheap
_CANCELS = 5  # never; this iteration; the next; the one after; together with the next wake-up
_WITH_WAKEUP = _CANCELS - 1
# A test pins both names on every supported Python; asyncio has no public ones.
_RUNS_TASK = {"TaskStepMethWrapper", "task_wakeup"}


class ChoosingLoop(SimLoop):
    """A simulated loop for `Settings.wakeups` and `Settings.cancel`."""

    def __init__(self, choices: Choices, settings: Settings, trace: Trace | None = None) -> None:
        super().__init__(choices, settings, trace)
        if settings.cancel:
            self.adopts = True
            self._task_factory = make_task

    @property
    def _permute(self) -> bool:  # type: ignore[override]
        return self._state.settings.wakeups

    @property
    def _spared(self) -> dict[AnyTask, bool]:  # type: ignore[override]
        return self._state.spared

    def adopt(self, task: AnyTask) -> None:
        """Number a new task, and spare it if it is cancellable."""
        super().adopt(task)
        names = self._state.settings.cancel
        if names and name_of(task).endswith(names):
            self._spared[task] = False

    def _choose(self, first: Any) -> Any:
        """Return the handle of a woken task; the first handle takes its place in the queue."""
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
        """Run a handle; if it is a step of a cancellable task, decide on its cancellation."""
        task = _task_of(handle)
        if task not in self._spared:
            handle._run()  # noqa: SLF001 - what asyncio's own loop does
            return
        if self._spared[task]:
            del self._spared[task]
            _cancel(self, task, ", in the iteration in which it is woken")
            handle._run()  # noqa: SLF001 - the same
        else:
            handle._run()  # noqa: SLF001 - the same
            self._consider(task)

    def _consider(self, task: AnyTask) -> None:
        """Decide if and when a cancellable task is cancelled at the await it has reached."""
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
    """Return the task whose next step a handle runs, or None."""
    # asyncio's C code has no public types for these callables; their names are pinned by a test.
    callback = handle._callback  # noqa: SLF001 - a handle has no public access to it
    kind = type(callback)
    name = callback.__name__ if kind is BuiltinMethodType else kind.__name__
    return callback.__self__ if name in _RUNS_TASK else None


def _cancel_later(loop: SimLoop, task: AnyTask, iterations: int) -> None:
    if iterations:
        loop.call_soon(_cancel_later, loop, task, iterations - 1)
    else:
        _cancel(loop, task)


def _cancel(loop: SimLoop, task: AnyTask, when: str = "") -> None:
    if loop.simulation is not None and not task.done():
        where = f" while it waits in {waiting_of(task).place}{when}"
        loop.simulation.drawn(f"task {name_of(task)} is cancelled{where}")
    task.cancel()
