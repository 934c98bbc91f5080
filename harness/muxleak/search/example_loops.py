"""The event loop of one example of a state machine: makes calls one by one, and finds leaks."""

# A state machine is driven from outside: Hypothesis calls a rule, draws, calls the next. So the
# loop of an example runs piece by piece, as long as a call takes. Between two calls it stands
# still, and nothing that the program has started goes on.
#
# All calls of an example are made by one task, the *worker*. A scope that one rule enters and
# another leaves (a task group, a timeout, an exit stack) asks for the same task, and context
# variables that a rule sets are seen by the next.
#
# A call can fail to end. Then its loop says where the worker waits: a simulated loop knows that
# nothing can wake it (`DeadlockError`); a real one has only a limit in seconds
# (`CallTimeoutError`). The call is cancelled, so that the worker can make the last call, that of
# the teardown. A call that survives the cancellation keeps its worker; the loop gets another.
#
# Leaks. After a call that closes something, every connection that a server on this loop has
# accepted, and whose transport is gone, must have left nothing. At the end of the example
# everything must be gone. Each example has a loop and a ledger of its own, so that nothing is
# counted twice, although Hypothesis keeps the locals of failed examples alive.
#
# Failures are told apart by their class and the line that raised them. All leaks, deadlocks and
# timeouts are raised at a few lines of this module, so a shrinker would slip from one to another.
# `distinct` gives an error a subclass that belongs to its own signature.

from __future__ import annotations

import asyncio
import inspect
import math
from abc import ABC, abstractmethod
from contextlib import ExitStack
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from muxleak.checks.report import LeakError, LeakReport
from muxleak.checks.scope_check import diagnosed, left_behind
from muxleak.checks.settle import settle
from muxleak.checks.teardown import release
from muxleak.introspect.waiting import AnyTask, waiting_of
from muxleak.ledger.counters import CURRENT, Scope
from muxleak.ledger.ledger import Ledger
from muxleak.sim.errors import DeadlockError, LivelockError
from muxleak.sim.guard import guarded
from muxleak.sim.run import check_connections, opened, refused, verdict
from muxleak.sim.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

    from muxleak.checks.ignores import Ignore
    from muxleak.introspect.sites import Points
    from muxleak.ledger.counters import Entry, Resource
    from muxleak.sim.choices import Choices
    from muxleak.sim.loop import SimLoop
    from muxleak.sim.settings import Settings

_TURNS = 100  # iterations in which a cancelled call of a simulation ends
_Error = TypeVar("_Error", bound=BaseException)


class CallTimeoutError(TimeoutError):
    """A rule, an invariant or a teardown did not end in time on a real loop.

    The message names the place where it waits.
    """

    __module__ = "muxleak"


def distinct(error: _Error, signature: Hashable) -> _Error:
    """Give an error the class of its signature, a subclass of its class with the same name.

    Args:
        error: of a class that is written in Python.
        signature: equal for two errors that are the same failure.

    Returns:
        The error.
    """
    kind: Any = type(error)
    error.__class__ = _class_of(kind, signature)  # type: ignore[assignment] # a subclass
    return error


@cache
def _class_of(kind: Any, signature: Hashable) -> type[BaseException]:
    del signature  # the cache has one class for each

    def reduce(error: BaseException) -> Any:
        # The subclass has no importable name; a pickled error is one of the class itself.
        state: Any = kind.__reduce__(error)
        return (kind, *state[1:])

    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (kind,), {**names, "__doc__": kind.__doc__, "__reduce__": reduce})


def leaked(report: LeakReport) -> NoReturn:
    """Raise the error of a report, as the failure of its largest group.

    One group and not all: if a second leak comes and goes with the steps, it is the same failure.
    And from one line, whichever check has found it.

    Raises:
        LeakError: in any case.
    """
    group = report.groups[0]
    raise distinct(LeakError(report), (group.kind, group.name, group.site))


class _Call:
    """One call that the worker makes.

    Attributes:
        done: done when the call has ended.
        result: the result, if it returned.
        error: the exception, if it raised one.
    """

    def __init__(self, function: Callable[[], Any], name: str, done: asyncio.Future[None]) -> None:
        self.function, self.name, self.done = function, name, done
        self.result: Any = None
        self.error: BaseException | None = None

    async def make(self) -> None:
        """Call the function, and await its coroutine if it returns one."""
        try:
            result = self.function()
            self.result = await result if inspect.iscoroutine(result) else result
        except BaseException as error:  # noqa: BLE001 - it is raised where the call was asked for
            self.error = error
        finally:
            if not self.done.done():
                self.done.set_result(None)


class ExampleLoop(ABC):
    """The loop of one example, and the task on it that makes all calls.

    Attributes:
        loop: the loop.
    """

    loop: asyncio.AbstractEventLoop

    def __init__(self) -> None:
        self._worker: AnyTask | None = None
        self._next: asyncio.Future[_Call | None] | None = None

    def running(self) -> bool:
        """Return True if the code that calls runs on this loop."""
        return asyncio._get_running_loop() is self.loop  # noqa: SLF001 - the public one raises

    def call(self, function: Callable[[], Any], name: str) -> Any:
        """Make a call on the loop.

        Args:
            function: without arguments; if it returns a coroutine, that is awaited.
            name: the name of the call in reports.

        Returns:
            The result.

        Raises:
            DeadlockError: the call cannot end, on a simulated loop.
            LivelockError: the loop does not settle, on a simulated loop.
            CallTimeoutError: the call has not ended in time, on a real loop.
            RuntimeError: the call was cancelled.
            BaseException: any exception of the call.
        """
        call = _Call(function, name, self.loop.create_future())
        worker = self._give(call)
        try:
            self._drive(call, worker)
        except BaseException:
            self._give_up(call, worker)
            raise
        error = self._verdict(call)
        if error is not None:
            raise error
        return call.result

    @abstractmethod
    def step(self, function: Callable[[], Any], name: str, *, gap: bool) -> Any:
        """Make a call, and run until the loop is quiescent.

        Args:
            function: as for `call`.
            name: as for `call`.
            gap: True to run for a drawn time only, if decisions are drawn.

        Returns:
            The result.

        Raises:
            BaseException: as `call`.
        """

    @abstractmethod
    def check_closed(self, *, diagnose: bool) -> None:
        """Check that the connections that are over have left nothing behind.

        Args:
            diagnose: True to say of each leak if anything can still end it, which is slow.

        Raises:
            LeakError: something is left.
        """

    @abstractmethod
    def check_end(self, *, diagnose: bool) -> None:
        """Check that nothing is left of the example; no call can be made afterwards.

        Args:
            diagnose: as in `check_closed`.

        Raises:
            LeakError: something is left.
        """

    @abstractmethod
    def close(self) -> None:
        """End everything that is left, and close the loop."""

    @abstractmethod
    def _drive(self, call: _Call, worker: AnyTask) -> None:
        """Run the loop until a call has ended."""

    @abstractmethod
    def _drive_briefly(self, call: _Call) -> None:
        """Run the loop until a cancelled call has ended, or will not end by itself."""

    def _verdict(self, call: _Call) -> BaseException | None:
        """Return the error of a call that has ended; None if it returned."""
        if not isinstance(call.error, asyncio.CancelledError):
            return call.error
        # As a BaseException it would end the whole search.
        error = RuntimeError(f"{call.name} was cancelled")
        error.__cause__ = error.__context__ = call.error
        return error

    def _give(self, call: _Call) -> AnyTask:
        """Give a call to the worker; make a worker if there is none."""
        if self._worker is None or self._next is None or self._next.done():
            self._next = self.loop.create_future()
            self._worker = self.loop.create_task(self._work(self._next))
        # Reports name a task by its coroutine: that of the worker bears the name of its call.
        coroutine: Any = self._worker.get_coro()
        coroutine.__qualname__ = call.name
        self._next.set_result(call)
        return self._worker

    async def _work(self, ahead: asyncio.Future[_Call | None]) -> None:
        while (call := await ahead) is not None:
            # Before the call ends, since the next one may be given as soon as it has.
            self._next = ahead = self.loop.create_future()
            await call.make()
            del call

    def _give_up(self, call: _Call, worker: AnyTask) -> None:
        """Cancel a call that does not end; leave it to its worker if that does not help."""
        if not (call.done.done() or worker.done()):
            worker.cancel()
            self._drive_briefly(call)
        if call.done.done() and not worker.done():
            worker.uncancel()
        else:
            self._worker = self._next = None

    def _dismiss(self) -> AnyTask | None:
        """Let the worker end; return it."""
        worker, self._worker = self._worker, None
        if worker is not None and self._next is not None and not self._next.done():
            self._next.set_result(None)
        self._next = None
        return worker


class SimulatedExample(ExampleLoop):
    """The loop of an example on virtual time and a network in memory.

    Args:
        choices: decide what is free.
        settings: the settings of the simulation.
        ignores: leaves out what it covers.
        diagnose: True to say of a blocked task if anything could wake it.

    Attributes:
        simulation: the program's view of the simulation.
    """

    loop: SimLoop

    def __init__(
        self,
        choices: Choices,
        settings: Settings,
        *,
        ignores: tuple[Ignore, ...],
        diagnose: bool,
    ) -> None:
        super().__init__()
        self._stack, self._settings = ExitStack(), settings
        self._stack.enter_context(guarded())
        opening = opened(choices, settings, Trace() if diagnose else None)
        self.loop, self.simulation = self._stack.enter_context(opening)
        # Without a check of the settings the network would forget the connections that are over.
        self.simulation.has_check = True
        self.simulation.limits.ignores = ignores

    def step(self, function: Callable[[], Any], name: str, *, gap: bool) -> Any:
        """Make a call, and run until the loop is quiescent, or for a drawn time."""
        # In one call: another one would let an iteration more pass before the next step.
        after = self.simulation.gap if gap else self.simulation.settle
        return self.call(partial(_followed, function, after), name)

    def check_closed(self, *, diagnose: bool) -> None:
        """Check the connections that are over; the report has no diagnosis in a simulation."""
        del diagnose
        if not self._settings.leaks:
            return
        self.call(self.simulation.settle, "the wait for a quiescent loop")
        try:
            check_connections(self.simulation)
        except LeakError as error:
            report = error.report
        else:
            return
        leaked(report)

    def check_end(self, *, diagnose: bool) -> None:
        """Check that nothing is left; the report has no diagnosis in a simulation."""
        del diagnose
        worker = self._dismiss()
        if worker is not None and not worker.done():
            self.loop.run_main(worker)
        self.simulation.limits.program_ended()
        error = verdict(self.loop, self.simulation, self._settings)
        error = refused(self.loop, error)
        if isinstance(error, LeakError):
            leaked(error.report)
        if error is not None:
            raise error

    def close(self) -> None:
        """Dispose of the loop."""
        self._dismiss()
        self._stack.close()

    def _drive(self, call: _Call, worker: AnyTask) -> None:
        try:
            self.loop.run_main(call.done)
        except DeadlockError as error:
            raise distinct(error, (call.name, waiting_of(worker).chain)) from None
        except LivelockError as error:
            raise distinct(error, call.name) from None

    def _drive_briefly(self, call: _Call) -> None:
        del call
        self.loop.turn(_TURNS)

    def _verdict(self, call: _Call) -> BaseException | None:
        return refused(self.loop, super()._verdict(call))


async def _followed(function: Callable[[], Any], after: Callable[[], Awaitable[None]]) -> Any:
    result = function()
    if inspect.iscoroutine(result):
        result = await result
    await after()
    return result


class RealExample(ExampleLoop):
    """The loop of an example on real time and real sockets.

    Args:
        factory: makes the loop.
        kinds: the kinds of leak that count.
        ignores: leaves out what it covers.
        budget: seconds in which leftovers may still end.
        timeout: seconds that a call may take.
    """

    def __init__(
        self,
        factory: Callable[[], asyncio.AbstractEventLoop],
        *,
        kinds: frozenset[str],
        ignores: tuple[Ignore, ...],
        budget: float,
        timeout: float,
    ) -> None:
        super().__init__()
        self._kinds, self._ignores = kinds, ignores
        self._budget, self._timeout = budget, timeout
        self._runner = asyncio.Runner(loop_factory=factory)
        self.loop = self._runner.get_loop()
        # Tasks are held, as on a simulated loop: else the collector, whose moment no draw decides,
        # would destroy a leaked task that nothing refers to, and failures would be flaky.
        self._ledger = Ledger(kinds | {"task", "transport"}, hold=True)
        self._connections = _Accepted(self._ledger.root)
        self._ledger.root.counters.observer = self._connections
        self._ledger.install(self.loop)

    def step(self, function: Callable[[], Any], name: str, *, gap: bool) -> Any:
        """Make a call, and run until the loop is quiescent."""
        del gap
        result = self.call(function, name)
        self._runner.run(settle(limit=self._timeout, horizon=0.0))
        return result

    def check_closed(self, *, diagnose: bool) -> None:
        """Check the connections that are over."""
        for scope in self._connections.over():
            self._check(scope, diagnose=diagnose)
            self._connections.forget(scope)

    def check_end(self, *, diagnose: bool) -> None:
        """Check that nothing is left."""
        worker = self._dismiss()
        if worker is not None:
            self._runner.run(_ended(worker, math.inf))
        self._check(self._ledger.root, diagnose=diagnose)

    def _check(self, scope: Scope, *, diagnose: bool) -> None:
        report = self._runner.run(self._examine(scope, diagnose=diagnose))
        if report:
            leaked(report)

    async def _examine(self, scope: Scope, *, diagnose: bool) -> LeakReport:
        # First all that can go on now, however slow the machine is: the budget is for the rest.
        await settle(limit=self._timeout, horizon=0.0)
        found = await left_behind(scope, self._kinds, self._ignores, self._budget)
        report = diagnosed(found, scope) if diagnose else LeakReport.of(found, within=scope)
        return report.noting(*self._ledger.unseen) if found else report

    def close(self) -> None:
        """End what is left, within the budget, and close the loop."""
        try:
            self._dismiss()
            self._runner.run(self._release())
        finally:
            self._ledger.root.counters.observer = None
            self._ledger.uninstall()
            self._runner.close()

    async def _release(self) -> None:
        # The worker ends first, if it waits for a call.
        await asyncio.sleep(0)
        await release(self._ledger.everything(), self._budget)
        await settle(limit=self._budget, horizon=0.0)

    def _drive(self, call: _Call, worker: AnyTask) -> None:
        if self._runner.run(_ended(call.done, self._timeout)):
            return
        waiting = waiting_of(worker)
        error = CallTimeoutError(
            f"expected {call.name} to end within {self._timeout:g} s, but it waits in "
            f"{waiting.place} on {waiting.on}; raise `timeout` if it needs longer"
        )
        raise distinct(error, (call.name, waiting.chain))

    def _drive_briefly(self, call: _Call) -> None:
        self._runner.run(_ended(call.done, self._budget))


async def _ended(future: asyncio.Future[Any], seconds: float) -> bool:
    await asyncio.wait([future], timeout=None if math.isinf(seconds) else seconds)
    return future.done()


class _Accepted:
    """Gives each accepted connection a scope, and knows those that are over.

    It is the observer of a ledger (`muxleak.ledger.counters.Observer`).

    Args:
        root: the root of the ledger.
    """

    def __init__(self, root: Scope) -> None:
        self._root = root
        self._begun = 0
        self._transports: dict[Scope, Resource] = {}

    def begin(self, outer: Scope | None) -> None:
        """Make a scope for a connection that is being accepted, and enter it."""
        self._begun += 1
        current, counters = CURRENT.get(), self._root.counters
        # A scope of another ledger, such as the plugin's, goes around the new one. One of this
        # ledger is that of the connection before, where a loop has one context for all.
        if current is not None and current.counters is not counters:
            outer = current
        Scope(f"connection {self._begun}", counters, self._root, outer).enter()

    def connected(self, scope: Scope, transport: Resource) -> None:
        """Remember an accepted connection, by its scope."""
        self._transports[scope] = transport

    def over(self) -> list[Scope]:
        """Return the scopes of the connections that have ended and are not forgotten."""
        return [scope for scope, each in self._transports.items() if not each.alive()]

    def forget(self, scope: Scope) -> None:
        """Forget a connection that has left nothing."""
        del self._transports[scope]

    def made(self, points: Points, scope: Scope) -> bool:
        """Count every task."""
        del points, scope
        return True

    def held(self, entry: Entry) -> None:
        """Do nothing."""

    def gone(self, entry: Entry) -> None:
        """Do nothing."""

    def destroyed(self, points: Points) -> None:
        """Do nothing."""

    def noted(self, record: Resource) -> None:
        """Do nothing."""

    def kept(self, resource: Resource) -> None:
        """Do nothing."""
