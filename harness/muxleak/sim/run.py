"""One run of a program: in a fresh simulation, to its end, and then to rest."""

from __future__ import annotations

from asyncio import CancelledError, get_running_loop
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from muxleak.checks.report import LeakError, LeakReport
from muxleak.checks.teardown import close_coroutines
from muxleak.ledger import task_class
from muxleak.ledger.ledger import Ledger
from muxleak.sim.errors import SimulationError
from muxleak.sim.leak_scan import left_behind
from muxleak.sim.loop import ChoosingLoop, SimLoop
from muxleak.sim.settings import ledger_kinds
from muxleak.sim.trace import Event, Trace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from muxleak.introspect.waiting import AnyTask
    from muxleak.ledger.counters import Scope
    from muxleak.sim.choices import Choices
    from muxleak.sim.settings import Settings

_T = TypeVar("_T")

SETTLED = 2  # of the ways a gap can go, those that settle
_GAPS = SETTLED + 3


class Simulation:
    """What a program sees of the simulation it runs in; `current()` gives it.

    Attributes:
        choices: for what the program itself draws.
        ledger: counts the tasks.
        steps: what the program said it does, as it is shown.
    """

    def __init__(self, loop: SimLoop, ledger: Ledger, settings: Settings) -> None:
        self.choices = loop.choices
        self.ledger = ledger
        self.steps: list[str] = []
        self._loop = loop
        self._settings = settings

    def step(self, text: str) -> None:
        """Say what the program does next; findings print it."""
        self.steps.append(text)
        self._loop.note("step", text)

    async def settle(self, horizon: float = 0.0) -> None:
        """Wait until all else is at rest; timers due within `horizon` virtual seconds fire."""
        await self._loop.settle(horizon)

    async def gap(self) -> None:
        """Let everything run on for as long as is drawn: to rest, or for 0 to 2 iterations.

        Races live in what is not at rest, so the length of the gap is part of the search.
        """
        drawn = self.choices.below(_GAPS) if self._settings.gaps else 0
        if drawn < SETTLED:
            await self._loop.settle()
            return
        if self.steps:
            self.steps[-1] += f" !{drawn - SETTLED}"
        for _ in range(drawn - SETTLED):
            await _yield()

    @asynccontextmanager
    async def operation(self, name: str) -> AsyncIterator[Scope]:
        """A block that must leave nothing behind: once it has ended and all is at rest.

        Raises:
            LeakError: something that was made in the block, or by what was made there, is alive;
                `Settings.kinds` says what counts.
        """
        scope = self.ledger.scope(name)
        with scope:
            yield scope
        await self.settle()
        settings = self._settings
        left = left_behind(self._loop, settings.counted, scope, self._loop.time() + settings.grace)
        if left:
            raise LeakError(LeakReport.of(left))
        self.closed()

    def closed(self) -> None:
        """Run the check that is to hold after every close."""
        if self._settings.check is not None:
            self._settings.check(self)

    def fault(self, name: str, host: str, port: int, *, seconds: float | None = None) -> None:
        """Declare a fault of the server at an address.

        Args:
            name: "refuse" or "black hole" for connections to come, and "" to make them again;
                "reset", "stall" or "half-close" for those that are open, at the server's end.
            host: of the server.
            port: of the server.
            seconds: of virtual time, for a stall; for ever if None.
        """
        fabric = self._loop.fabric
        target = (fabric.names.resolve(host), port)
        if name in {"refuse", "black hole"}:
            fabric.declared[target] = name
        elif not name:
            fabric.declared.pop(target, None)
        if name in {"reset", "stall", "half-close", "black hole"}:
            for transport in list(fabric.open):
                if transport.get_extra_info("sockname") == target and hasattr(transport, "fault"):
                    transport.fault(name, seconds)


@dataclass(slots=True)
class Run(Generic[_T]):
    """One run and all there is to know of it.

    Attributes:
        value: what the program returned, if it did.
        error: what it raised, or what was found wrong with what it left.
        choices: the decisions that were made.
        now: virtual seconds that had passed.
        steps: what the program said it did.
        errors: what reached the loop's exception handler; of it, exceptions never retrieved and
            destroyed tasks are leaks too.
        events: the last events of the trace.
        trace_hash: of the whole trace; empty if there was none.
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
    """The simulation in which the calling code runs.

    Raises:
        SimulationError: it runs in none.
    """
    found = getattr(get_running_loop(), "simulation", None)
    if not isinstance(found, Simulation):
        raise SimulationError("not inside a simulation; start the program with simulate()")
    return found


def run(
    program: Callable[[], Coroutine[Any, Any, _T]],
    choices: Choices,
    settings: Settings,
    *,
    traced: bool = True,
) -> Run[_T]:
    """Run a program once; whatever goes wrong is in `Run.error`, never raised."""
    trace = Trace() if traced else None
    kind = ChoosingLoop if settings.wakeups or settings.cancel else SimLoop
    loop = kind(choices, settings, trace)
    ledger = Ledger(ledger_kinds(settings.counted))
    ledger.install(loop)
    adopt = partial(_adopt, loop)
    task_class.install(loop, adopt)
    loop.simulation = simulation = Simulation(loop, ledger, settings)
    result: Run[_T] = Run(choices, steps=simulation.steps, errors=ledger.errors)
    try:
        result.value, result.error = _perform(program, loop, simulation, settings)
    finally:
        result.now = loop.time()
        if trace is not None:
            result.trace_hash, result.events = trace.hash, trace.tail
            loop.stop_tracing()
        close_coroutines(loop.dispose())
        task_class.remove(loop, adopt)
        ledger.uninstall()
        simulation.__dict__.clear()
    return result


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
        if main.cancelled():
            return None, CancelledError("the program was cancelled")
        if error := main.exception():
            return None, error
        return main.result(), _verdict(loop, simulation, settings)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as exc:  # noqa: BLE001 - whatever a check raises
        # The frames are this module's own, and would hold the error that holds them.
        return None, exc.with_traceback(None)


def _verdict(loop: SimLoop, simulation: Simulation, settings: Settings) -> BaseException | None:
    """Return the error of a program that has ended and left something behind, else None."""
    if settings.leaks:
        if loop.busy or simulation.ledger.count:
            loop.run_until_quiescent(settings.grace)
        left = left_behind(loop, settings.counted)
        if left:
            return LeakError(LeakReport.of(left))
    simulation.closed()
    return None


class _yield:  # noqa: N801 - an awaitable used like a function
    """Give way for one iteration, without the cost of a coroutine."""

    __slots__ = ()

    def __await__(self) -> Any:
        yield
