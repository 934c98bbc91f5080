"""What is left behind in a simulation, of every kind that there can be: at rest, it is a leak.

Nothing is asked of the program while it runs: tasks and errors are the ledger's, the other kinds
are found where the loop and its network keep them. Each tells its scope by the context it runs in.
"""

from __future__ import annotations

import asyncio
import gc
import math
from typing import TYPE_CHECKING, Any, Protocol, cast
from weakref import ref

from muxleak.checks.scope_check import without_owned
from muxleak.introspect.sites import Site, trace
from muxleak.introspect.waiting import callable_name, name_of
from muxleak.ledger.counters import CURRENT, Resource, Scope, TaskRecord, charged
from muxleak.ledger.kinds import (
    ErrorRecord,
    GeneratorRecord,
    ServerRecord,
    TimerRecord,
    TransportRecord,
)
from muxleak.ledger.loop_errors import describe
from muxleak.sim.interfaces import Carrier, SimulatedLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextvars import Context
    from types import AsyncGeneratorType

    from muxleak.introspect.waiting import AnyTask
    from muxleak.ledger.counters import Counters
    from muxleak.ledger.ledger import Ledger

    Owner = Callable[[Context], Scope | None]

_MANY = 256  # references kept before those that lead nowhere are dropped
_OURS = ("asyncio.", "muxleak.")
_NOWHERE = Site(())


class CallbackRecord(Resource):
    """A callback that an operation has left on a future which outlives it."""

    __slots__ = ()
    kind = "callback"

    def open(self, thing: asyncio.Future[Any]) -> bool:
        """Until the future is done."""
        return not thing.done()

    def describe(self, thing: asyncio.Future[Any]) -> str:
        """What it waits for."""
        return f"waits on a future ({name_of(thing)})"


class Seen:
    """What the loop itself keeps no list of, seen where it is made and by weak reference."""

    __slots__ = ("futures", "generators")

    def __init__(self) -> None:
        self.generators: list[GeneratorRecord] = []
        self.futures: list[ref[asyncio.Future[Any]]] = []

    def generator(self, loop: ScannedLoop, generator: AsyncGeneratorType[Any, Any]) -> None:
        """Take note of one that begins, and of who began it."""
        if len(self.generators) >= _MANY:
            self.generators = [each for each in self.generators if each.alive()]
        owner = _charged(CURRENT.get(), loop)
        if owner is not None:
            name = generator.__qualname__
            self.generators.append(GeneratorRecord(generator, name, trace(3), owner))

    def future(self, future: asyncio.Future[Any]) -> asyncio.Future[Any]:
        """Take note of one; it is given back."""
        if len(self.futures) >= _MANY:
            self.futures = [each for each in self.futures if _pending(each()) is not None]
        self.futures.append(ref(future))
        return future


class ScannedLoop(SimulatedLoop, Protocol):
    """The part of the simulated loop that the scan reads."""

    @property
    def fabric(self) -> Carrier:
        """The network, which knows the open transports and the servers."""

    @property
    def seen(self) -> Seen:
        """The generators and futures, of which the loop itself keeps no list."""


def left_behind(
    loop: ScannedLoop,
    kinds: frozenset[str],
    within: Scope | None = None,
    horizon: float = -math.inf,
) -> list[Any]:
    """The records of what is alive, tasks first, then in order of kind and creation.

    Args:
        loop: at rest.
        kinds: of `KINDS` and `OPTIONAL`.
        within: only what this scope, or one inside it, caused; else everything.
        horizon: timers due later than that, in virtual seconds, are left behind.
    """
    simulation = loop.simulation
    if simulation is None:
        return []
    ledger: Ledger = simulation.ledger
    scope, fabric, seen = within or ledger.root, loop.fabric, loop.seen
    counters = ledger.root.counters
    counters.sweep()
    if counters.failed:
        _tell_of_cycles(counters)
    found: list[Any] = []
    if not scope.clean:
        found = [each for each in scope.everything() if _counts(each, kinds)]
    if within is None and "task" in kinds and ledger.unseen:
        found += _uncounted(loop, found)
    if loop.pending_timers or fabric.open or fabric.servers or seen.generators or seen.futures:
        found = without_owned([*found, *_things(loop, kinds, within, horizon)])
    return found


def is_owned(callback: Any) -> bool:
    """Whether a timer's callback is asyncio's or the network's own: a sleep, a timeout, a delay.

    What they call is private; whoever sets a timer can only call what is public.
    """
    function = getattr(callback, "__func__", callback)
    module = getattr(function, "__module__", None) or ""
    return module.startswith(_OURS) and getattr(function, "__name__", "").startswith(("_", "<"))


def _charged(scope: Scope | None, loop: ScannedLoop) -> Any:
    """Who is charged for what was made in that scope; None outside every simulation."""
    if loop.simulation is None:
        return None
    root: Scope = loop.simulation.ledger.root
    return charged(scope, root.counters) or root


def _counts(record: Any, kinds: frozenset[str]) -> bool:
    # A handler that `start_server` started: of its failure asyncio itself tells, from 3.12 on.
    told = (
        isinstance(record, ErrorRecord) and record.text.startswith("Task exc") and not record.points
    )
    return record.kind in kinds and not told


def _tell_of_cycles(counters: Counters) -> None:
    """Collect garbage where a task that failed may be part of it, by way of its own traceback.

    The collector takes away the references by which the ledger knows a task before the task tells
    of its exception, so what is to be said of it is put down first.
    """
    suspects = [
        (ref(task), ErrorRecord(_complaint(task), name_of(task), site, scope))
        for task, (site, scope) in counters.failed.items()
        if task._log_traceback and site.points  # noqa: SLF001 - told nowhere else
    ]
    if suspects:
        gc.collect()
    for suspect, failure in suspects:
        if suspect() is None:
            failure.owner.keep(failure)


def _complaint(task: AnyTask) -> str:
    # Taken without asking the task, which would count as having looked at its exception.
    error = task._exception  # noqa: SLF001
    message = "Task exception was never retrieved"
    return describe({"message": message, "task": task, "exception": error})


def _things(
    loop: ScannedLoop, kinds: frozenset[str], within: Scope | None, horizon: float
) -> Iterator[Any]:
    def owner(context: Context) -> Scope | None:
        """Who is charged for what runs there, if that is looked at."""
        scope: Scope = _charged(context.get(CURRENT), loop)
        return scope if within is None or scope.is_inside(within) else None

    if "timer" in kinds:
        yield from _timers(loop, owner, horizon)
    if "transport" in kinds:
        yield from _transports(loop, owner)
    if "server" in kinds:
        yield from _servers(loop, owner)
    if "generator" in kinds:
        for each in loop.seen.generators:
            if each.alive() and (within is None or each.owner.is_inside(within)):
                yield each
    if "callback" in kinds and within is not None:
        yield from _callbacks(loop, owner)


def _uncounted(loop: ScannedLoop, found: list[Any]) -> Iterator[TaskRecord]:
    """Tasks made by a factory that the program has installed over the ledger's."""
    known = {record.task for record in found if isinstance(record, TaskRecord)}
    others = [task for task in asyncio.all_tasks(_asyncio(loop)) if task not in known]
    # The set has no order of its own.
    for number, task in enumerate(sorted(others, key=name_of)):
        yield TaskRecord(task, _NOWHERE, None, number)


def _timers(loop: ScannedLoop, owner: Owner, horizon: float) -> Iterator[TimerRecord]:
    found: list[Any] = [each for each in loop.set_timers() if each.when() > horizon]
    for handle in sorted(found, key=asyncio.TimerHandle.when):
        # A handle tells neither its context nor what it calls in any other way.
        scope, callback = owner(handle._context), handle._callback  # noqa: SLF001
        if scope is not None and not is_owned(callback):
            points = getattr(handle, "points", None) or []
            yield TimerRecord(
                handle,
                callable_name(callback),
                points,
                scope,
                cast("asyncio.AbstractEventLoop", loop),
            )


def _transports(loop: ScannedLoop, owner: Owner) -> Iterator[TransportRecord]:
    names = {"client": "connection", "server": "accepted connection"}
    for transport, side in loop.fabric.open.items():
        scope = owner(transport.context)
        if scope is not None and not transport.cut_off:
            name = names.get(side, "datagram endpoint")
            yield TransportRecord(transport, name, transport.points, scope)


def _servers(loop: ScannedLoop, owner: Owner) -> Iterator[ServerRecord]:
    for server in dict.fromkeys(loop.fabric.servers.values()):
        scope = owner(server.context())
        if scope is not None:
            yield ServerRecord(server, "server", server.points, scope)


def _callbacks(loop: ScannedLoop, owner: Owner) -> Iterator[CallbackRecord]:
    futures: list[Any] = [each() for each in loop.seen.futures]
    for future in [*futures, *loop.live_tasks()]:
        for callback, context in getattr(_pending(future), "_callbacks", None) or ():
            scope = owner(context)
            if scope is not None and not isinstance(
                getattr(callback, "__self__", None), asyncio.Task
            ):
                yield CallbackRecord(future, callable_name(callback), _defined(callback), scope)


def _asyncio(loop: ScannedLoop) -> asyncio.AbstractEventLoop:
    return cast("asyncio.AbstractEventLoop", loop)


def _defined(callback: Any) -> list[Any]:
    """Where a callback's function is: where it was added, no future tells."""
    function = getattr(callback, "func", callback)
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return [code, 0] if code is not None else []


def _pending(future: asyncio.Future[Any] | None) -> asyncio.Future[Any] | None:
    return None if future is None or future.done() else future
