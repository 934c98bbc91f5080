"""One run of a program: in a fresh simulation, to its end, then until the loop is quiescent."""

# Every run has a loop, a network and a ledger of its own, so that runs cannot influence each other
# and a search can make thousands of them. A run passes through these stages:
#
#   1. the main task runs until it has ended; a deadlock or a livelock ends the run here
#   2. the loop runs on for `Settings.grace` virtual seconds: work that ends by itself is no leak;
#      timers are looked at earlier, as soon as nothing else is alive (see `leak_scan`)
#   3. the leak scan looks for everything that is still alive; a leak is the run's error
#   4. `Settings.check` is called a last time, and a close that took too long is an error
#   5. a call that was refused because it leaves the simulation is the error, also if the program
#      has caught it
#   6. the loop is disposed of: tasks are cancelled, coroutines closed, references cut
#
# Nothing is raised. `Run.error` holds whatever went wrong first, so that the search can compare
# errors, and the caller decides.

from __future__ import annotations

import math
import warnings
from asyncio import CancelledError, get_running_loop
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from muxleak.checks.report import LeakError, LeakReport
from muxleak.checks.teardown import close_coroutines
from muxleak.ledger import task_class
from muxleak.ledger.ledger import Ledger
from muxleak.sim.errors import SimulationError
from muxleak.sim.leak_scan import armed_timers, is_active, left_behind
from muxleak.sim.loop import ChoosingLoop, SimLoop
from muxleak.sim.settings import ledger_kinds
from muxleak.sim.time_limits import TimeLimits
from muxleak.sim.trace import Event, Trace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

    from muxleak.introspect.waiting import AnyTask
    from muxleak.ledger.counters import Scope
    from muxleak.sim.choices import Choices
    from muxleak.sim.settings import Settings

_T = TypeVar("_T")

# A gap has five lengths: two of them settle, three run 0, 1 or 2 iterations. Settling is the
# default and comes twice, because most steps of a program need the answer to the step before.
SETTLED = 2
_GAPS = SETTLED + 3


class Simulation:
    """The program's view of the simulation that it runs in; `current()` returns it.

    Attributes:
        choices: the decisions from which the program draws its own.
        ledger: counts the tasks.
        steps: the steps that the program has announced, and the faults and cancellations that were
            drawn, as findings print them.
        has_check: True if `Settings.check` runs after every close of a connection.
        limits: measures the closes of connections and the operations.
        adopting: the hook for tasks that are made by calling `asyncio.Task`.
    """

    def __init__(self, loop: SimLoop, ledger: Ledger, settings: Settings) -> None:
        self.choices = loop.choices
        self.ledger = ledger
        self.steps: list[str] = []
        self.has_check = settings.check is not None
        self._last = -1  # index of the program's last step
        self._loop = loop
        self._settings = settings
        self.limits = TimeLimits(loop, settings)
        self.adopting = partial(_adopt, loop)

    def step(self, text: str) -> None:
        """Announce the next step of the program; findings print the steps.

        Args:
            text: the step in a few words.
        """
        self._last = len(self.steps)
        self.steps.append(text)
        self._loop.note("step", text)

    async def settle(self, horizon: float = 0.0) -> None:
        """Wait until nothing is ready or under way, and no timer is due within the horizon.

        Args:
            horizon: virtual seconds; timers due within them fire first.
        """
        await self._loop.settle(horizon)

    async def gap(self) -> None:
        """Let everything run on, as is drawn: until it settles, or for 0, 1 or 2 iterations.

        Races need a program that has not settled, so the length of the gap is part of the search.
        """
        drawn = self.choices.below(_GAPS) if self._settings.gaps else 0
        if drawn < SETTLED:
            await self._loop.settle()
            return
        if self._last >= 0:
            self.steps[self._last] += f" !{drawn - SETTLED}"
        for _ in range(drawn - SETTLED):
            await _yield()

    @asynccontextmanager
    async def operation(self, name: str) -> AsyncIterator[Scope]:
        """Run a block that must leave nothing behind once it has ended and the loop has settled.

        Args:
            name: the name of the block's scope, for reports.

        Yields:
            The scope that is charged for everything the block makes.

        Raises:
            LeakError: something made in the block, or by tasks and connections made there, is
                alive; `Settings.kinds` names the kinds that count.
            TimeLimitError: it took longer than `Settings.operation_limit`.
        """
        scope = self.ledger.scope(name)
        span = self.limits.begin(scope)
        try:
            with scope:
                yield scope
            await self.settle()
        finally:
            self.limits.end(span)
        settings = self._settings
        left = left_behind(self._loop, settings.counted, scope, self._loop.time() + settings.budget)
        if left:
            raise LeakError(LeakReport.of(left))
        self.limits.check(span)
        self.closed()

    def drawn(self, text: str) -> None:
        """Report a fault or a cancellation that was drawn, as findings print it."""
        # Without it a finding would show the steps of a failure and not its cause. It is not in
        # the trace, which has the fault itself.
        self.steps.append(text)

    def closed(self) -> None:
        """Run the check that must hold after every close of a connection."""
        if self._settings.check is not None:
            self._settings.check(self)

    def fault(self, name: str, host: str, port: int, *, seconds: float | None = None) -> None:
        """Declare a fault of the server at an address.

        Args:
            name: "refuse" or "black hole" for connections to come, "" to accept them again;
                "reset", "stall" or "half-close" for the open ones, at the server's end. A black
                hole holds for both.
            host: the server's host.
            port: the server's port.
            seconds: virtual seconds that a stall lasts; None for a stall without end.
        """
        fabric = self._loop.fabric
        target = (fabric.names.resolve(host), port)
        if name in {"refuse", "black hole"}:
            fabric.declared[target] = name
        elif not name:
            fabric.declared.pop(target, None)
        if name in {"reset", "stall", "half-close", "black hole"}:
            for transport in list(fabric.open):
                address = transport.get_extra_info("sockname")[:2]
                if address == target and hasattr(transport, "fault"):
                    transport.fault(name, seconds)


@dataclass(slots=True)
class Run(Generic[_T]):
    """The results of one run.

    Attributes:
        value: the program's return value, if it returned.
        error: the program's exception, or the `LeakError` of the things it left behind.
        choices: the decisions that were made.
        now: virtual seconds that passed.
        steps: the steps that the program announced, and the faults and cancellations drawn.
        errors: reports to the loop's exception handler. Exceptions never retrieved and destroyed
            tasks among them are leaks too.
        events: the last events of the trace.
        trace_hash: the hash of the whole trace; empty if the run was not traced.
    """

    choices: Choices
    value: Any = None
    error: BaseException | None = None
    now: float = 0.0
    steps: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    trace_hash: str = ""


def current() -> Simulation:
    """Return the simulation in which the calling code runs.

    Raises:
        SimulationError: the code runs in none.
    """
    found = getattr(get_running_loop(), "simulation", None)
    if not isinstance(found, Simulation):
        raise SimulationError("not inside a simulation; start the program with simulate()")
    return found


def check_connections(simulation: Simulation) -> None:
    """Check that each connection that is over has left nothing behind, whatever else is open.

    Use it as the setting ``check``: a task that lives until another client leaves, or until the
    server ends, is found by no check at the end of the program.

    Args:
        simulation: a quiescent simulation.

    Raises:
        LeakError: something that an accepted connection has made is alive although its server's
            end has closed; a task that sleeps counts too.
    """
    loop, settings = simulation._loop, simulation._settings  # noqa: SLF001 - of this module
    accepted, horizon = loop.fabric.accepted, loop.time() + settings.budget
    for each in list(accepted):
        transport, scope = each
        if transport.server is not None:
            continue  # still open
        if not left_behind(loop, settings.counted, scope):
            accepted.remove(each)  # nothing that it made is alive, so nothing can be made any more
            continue
        left = left_behind(loop, settings.counted, scope, horizon)
        if left := simulation.limits.counted(left):
            raise LeakError(LeakReport.of(left))


def run(
    program: Callable[[], Coroutine[Any, Any, _T]],
    choices: Choices,
    settings: Settings,
    *,
    traced: bool = True,
    earlier: bool = False,
) -> Run[_T]:
    """Run a program once; an error is in `Run.error` and is never raised.

    Args:
        program: an async function without arguments.
        choices: decide what is free.
        settings: the settings of the run.
        traced: True to record a trace; a run without is faster.
        earlier: True if connections end as in earlier versions, for replays from then.
    """
    trace = Trace() if traced else None
    # Not by `opened`: a context manager would cost two per cent of a short run.
    loop, simulation = _open(choices, settings, trace)
    loop.fabric.earlier = earlier
    result: Run[_T] = Run(choices, steps=simulation.steps, errors=simulation.ledger.errors)
    try:
        result.value, result.error = _perform(program, loop, simulation, settings)
        if loop.refused:
            result.error = refused(loop, result.error)
    finally:
        result.now = loop.time()
        if trace is not None:
            result.trace_hash, result.events = trace.hash, trace.tail
            loop.stop_tracing()
        _close(loop, simulation)
    return result


@contextmanager
def opened(
    choices: Choices, settings: Settings, trace: Trace | None = None
) -> Iterator[tuple[SimLoop, Simulation]]:
    """Make the loop of one run, and dispose of it at the end of the block.

    Args:
        choices: decide what is free.
        settings: the settings of the run.
        trace: is given the events; None for a run without.

    Yields:
        The loop, and the simulation that code on it sees.
    """
    loop, simulation = _open(choices, settings, trace)
    try:
        yield loop, simulation
    finally:
        _close(loop, simulation)


def _open(choices: Choices, settings: Settings, trace: Trace | None) -> tuple[SimLoop, Simulation]:
    kind = ChoosingLoop if settings.wakeups or settings.cancel else SimLoop
    loop = kind(choices, settings, trace)
    ledger = Ledger(ledger_kinds(settings.counted))
    ledger.install(loop)
    simulation = Simulation(loop, ledger, settings)
    if loop.adopts:
        task_class.install(loop, simulation.adopting)
    loop.simulation = simulation
    return loop, simulation


def _close(loop: SimLoop, simulation: Simulation) -> None:
    if simulation.ledger.count:
        # Tasks that are cancelled now may drop open connections. A warning about that would name
        # no line of the program, and the run has failed already.
        with warnings.catch_warnings(action="ignore", category=ResourceWarning):
            close_coroutines(loop.dispose())
    else:
        close_coroutines(loop.dispose())
    if loop.adopts:
        task_class.remove(loop, simulation.adopting)
    simulation.ledger.uninstall()
    simulation.__dict__.clear()


def refused(loop: SimLoop, error: BaseException | None) -> BaseException | None:
    """Return the error of a run: that of a refused call if there was one, else `error`."""
    if not loop.refused or isinstance(error, SimulationError):
        return error
    # Another error may only follow from it.
    swallowed = SimulationError(f"{loop.refused}, and the program went on without it")
    swallowed.__cause__ = error
    return swallowed


def _adopt(loop: SimLoop, task: AnyTask, _context: object, _points: object) -> None:
    loop.adopt(task)


def _perform(
    program: Callable[[], Coroutine[Any, Any, _T]],
    loop: SimLoop,
    simulation: Simulation,
    settings: Settings,
) -> tuple[_T | None, BaseException | None]:
    main = loop.create_task(program())
    try:
        loop.run_main(main)
        simulation.limits.program_ended()
        if main.cancelled():
            return None, CancelledError("the program was cancelled")
        if error := main.exception():
            return None, error
        return main.result(), verdict(loop, simulation, settings)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as exc:  # noqa: BLE001 - a check may raise anything
        # The frames of the traceback are this module's own; they would hold the error in a cycle.
        return None, exc.with_traceback(None)


def verdict(loop: SimLoop, simulation: Simulation, settings: Settings) -> BaseException | None:
    """Return the error of a program that has ended and left something behind, else None."""
    if settings.leaks:
        timers = None
        if loop.busy or simulation.ledger.count:
            timers = _Timers(loop, settings.budget, simulation.limits.counted)
            loop.run_down(settings.grace, timers if "timer" in settings.counted else None)
        until = -math.inf if timers is None else timers.until
        left = simulation.limits.counted(left_behind(loop, settings.counted, None, until))
        if left:
            return LeakError(LeakReport.of(left))
        if timers is not None and timers.report:
            return LeakError(timers.report)
    simulation.closed()
    # A close that never ends is a leak, so where leaks are no error a long one is none either.
    return simulation.limits.verdict() if settings.leaks else None


class _Timers:
    """Looks at the timers of a program that has ended, as soon as nothing else is alive.

    The loop goes on to the end of the grace in any case: what the timers do then may be noted in
    the trace, and replays from before this rule follow the same trace.

    Attributes:
        report: the timers that are leaks; falsy if there are none.
        until: virtual time; timers that are due by then are none. -inf while other things live.
    """

    def __init__(
        self, loop: SimLoop, budget: float, counted: Callable[[list[Any]], list[Any]]
    ) -> None:
        self.report = LeakReport((), 0)
        self._loop, self._budget, self._counted = loop, budget, counted
        self.until = -math.inf

    def __call__(self) -> None:
        loop = self._loop
        if self.report or is_active(loop):
            return
        if self.until == -math.inf:
            self.until = loop.time() + self._budget
        # At once: their records say in how many seconds they are due.
        self.report = LeakReport.of(self._counted(armed_timers(loop, self.until)))


class _yield:  # noqa: N801 - an awaitable used like a function
    """Yields for one iteration, without the cost of a coroutine."""

    __slots__ = ()

    def __await__(self) -> Any:
        yield
