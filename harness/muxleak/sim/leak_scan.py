"""Finds the leaks of a simulation: everything of the wanted kinds that is alive once it settles."""

# Nothing is recorded while the program runs, except by the ledger, which counts tasks and errors
# anyway. The other kinds are found at the end, in the lists that the loop and its network keep for
# their own work: timers in the heap, transports and servers in the network. Only asynchronous
# generators and futures are in no list, so `Seen` keeps weak references to them.
#
# The scope of a record is the scope variable of the context in which its callbacks run. So the scan
# can say what one operation left behind while others are still under way.
#
# Timers are judged by the rule of `no_leaks` (see `muxleak.checks.timer_rule`), in virtual time: a
# timer counts if it is armed once everything else has settled, is due later than the budget, and
# was not set by asyncio. After an operation or a close that is at once. At the end of the program
# tasks may still need the grace to end, and their timers with them; so `run` looks at the timers as
# soon as nothing else is alive, and not at the end of the grace, when they have fired.
#
# Three things look like leaks and are none:
#
# - the timer of a sleep or a timeout: the task that sleeps is alive and is reported already
# - an asynchronous generator that a leaked task is suspended in: it is the place where the task
#   waits (`without_owned`)
# - a connection that a fault alone keeps from closing (`SimTransport.cut_off`)

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
from muxleak.sim.interfaces import Carrier, SimulatedLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextvars import Context
    from types import AsyncGeneratorType

    from muxleak.ledger.ledger import Ledger

    Owner = Callable[[Context], Scope | None]

_SIDES = {
    "client": "connection",
    "server": "accepted connection",
    "datagrams": "datagram endpoint",
    "dropped": "connection",
    "forgotten": "socket of a cancelled create_connection(happy_eyeballs_delay=...)",
}
_MANY = 256  # references above which dead ones are dropped: amortised O(1) each
_OLDEST = 2
_OURS = ("asyncio.", "muxleak.")
_NOWHERE = Site(())
_collect = gc.collect  # bound here: a collection by the program has effects in the simulation


class CallbackRecord(Resource):
    """Records a callback that an operation has left on a future that outlives it."""

    __slots__ = ()
    kind = "callback"

    def open(self, thing: asyncio.Future[Any]) -> bool:
        """Return True until the future is done."""
        return not thing.done()

    def describe(self, thing: asyncio.Future[Any]) -> str:
        """Return "waits on a future" with the future's name."""
        return f"waits on a future ({name_of(thing)})"


class Seen:
    """Holds, by weak reference, the generators and futures that the loop keeps no list of."""

    __slots__ = ("futures", "generators")

    def __init__(self) -> None:
        self.generators: list[GeneratorRecord] = []
        self.futures: list[ref[asyncio.Future[Any]]] = []

    def generator(self, loop: ScannedLoop, generator: AsyncGeneratorType[Any, Any]) -> None:
        """Record an asynchronous generator that begins, with the current scope."""
        if len(self.generators) >= _MANY:
            self.generators = [each for each in self.generators if each.alive()]
        owner = _charged(CURRENT.get(), loop)
        if owner is not None:
            name = generator.__qualname__
            self.generators.append(GeneratorRecord(generator, name, trace(3), owner))

    def future(self, future: asyncio.Future[Any]) -> asyncio.Future[Any]:
        """Record a future, and return it."""
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
    *,
    generation: int = _OLDEST,
) -> list[Any]:
    """Return the records of everything alive, tasks first, then by kind and creation.

    Args:
        loop: a quiescent loop.
        kinds: the wanted kinds, see `Settings.kinds`.
        within: a scope; only records of it and of scopes inside it count. None for everything.
        horizon: virtual time; only timers due later count.
        generation: the oldest generation of objects among which failed tasks are collected; a
            caller that looks often gives 1, which takes a fraction of the time.
    """
    simulation = loop.simulation
    if simulation is None:
        return []
    ledger: Ledger = simulation.ledger
    scope, fabric, seen = within or ledger.root, loop.fabric, loop.seen
    counters = ledger.root.counters
    counters.sweep()
    # A failed task may be part of a cycle through its own traceback, and is silent until then.
    failed = counters.failed
    if failed and any(each.site.points and each.pending() for each in failed.values()):
        _collect(generation)
    found: list[Any] = []
    if not scope.clean:
        found = [each for each in scope.everything() if _counts(each, kinds)]
    if within is None and "task" in kinds and ledger.unseen:
        found += _uncounted(loop, found)
    things = fabric.open or fabric.dropped or fabric.servers
    if loop.pending_timers or things or seen.generators or seen.futures:
        found = without_owned([*found, *_things(loop, kinds, within, horizon)])
    return found


def armed_timers(loop: ScannedLoop, horizon: float) -> list[TimerRecord]:
    """Return the records of the timers that are due later than a virtual time and not asyncio's."""
    return list(_things(loop, frozenset({"timer"}), None, horizon))


def alive_in(loop: ScannedLoop, kinds: frozenset[str], scope: Scope) -> list[Any]:
    """Return the records of everything alive in a scope; unlike `left_behind` it collects nothing.

    Args:
        loop: a quiescent loop.
        kinds: the wanted kinds.
        scope: the scope.
    """
    found = [each for each in scope.everything() if each.kind in kinds]
    return without_owned([*found, *_things(loop, kinds, scope, loop.time())])


def owners_of_things(loop: ScannedLoop, kinds: frozenset[str]) -> set[int]:
    """Return the ids of the scopes in which a thing is alive that is no task."""
    found: set[int] = set()
    for record in _things(loop, kinds, None, loop.time()):
        scope = record.owner
        while scope is not None and id(scope) not in found:
            found.add(id(scope))
            scope = scope.parent
    return found


def is_active(loop: ScannedLoop) -> bool:
    """Return True if a task, an open connection or a server is there, whatever counts as a leak.

    A connection that only a fault keeps open is not counted.
    """
    simulation, fabric = loop.simulation, loop.fabric
    if simulation is None or simulation.ledger.count or fabric.servers:
        return simulation is not None
    if any(not each.cut_off for each in fabric.open):
        return True
    return bool(simulation.ledger.unseen and asyncio.all_tasks(_asyncio(loop)))


def task_records(loop: ScannedLoop) -> list[TaskRecord]:
    """Return the records of all live tasks, those of the program's own task factories too."""
    simulation = loop.simulation
    if simulation is None:
        return []
    found = simulation.ledger.live()
    return [*found, *_uncounted(loop, found)] if simulation.ledger.unseen else found


def is_owned(callback: Any) -> bool:
    """Return True if a timer's callback belongs to asyncio or the network: a sleep, a timeout.

    Their callbacks have private names; a program can only name public ones.
    """
    function = getattr(callback, "__func__", callback)
    module = getattr(function, "__module__", None) or ""
    return module.startswith(_OURS) and getattr(function, "__name__", "").startswith(("_", "<"))


def _charged(scope: Scope | None, loop: ScannedLoop) -> Any:
    """Return the scope of this ledger that is charged for `scope`; None once the loop is closed."""
    if loop.simulation is None:
        return None
    root: Scope = loop.simulation.ledger.root
    return charged(scope, root.counters) or root


def _counts(record: Any, kinds: frozenset[str]) -> bool:
    # A failed handler of `start_server` has no creation site in the program. From 3.12 on asyncio
    # itself reports it to the exception handler; on every Python it is therefore no leak.
    handler = (
        isinstance(record, ErrorRecord) and record.text.startswith("Task exc") and not record.points
    )
    return record.kind in kinds and not handler


def _things(
    loop: ScannedLoop, kinds: frozenset[str], within: Scope | None, horizon: float
) -> Iterator[Any]:
    def owner(context: Context) -> Scope | None:
        """Return the scope charged for callbacks in a context, or None if it is not wanted."""
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


def _uncounted(loop: ScannedLoop, found: Sequence[Any]) -> Iterator[TaskRecord]:
    """Yield the tasks made by a factory that the program has installed over the ledger's."""
    known = {record.task for record in found if isinstance(record, TaskRecord)}
    others = [task for task in asyncio.all_tasks(_asyncio(loop)) if task not in known]
    # `all_tasks` is a set; sorted by name, a report is the same in every process.
    for number, task in enumerate(sorted(others, key=name_of)):
        yield TaskRecord(task, _NOWHERE, None, number)


def _timers(loop: ScannedLoop, owner: Owner, horizon: float) -> Iterator[TimerRecord]:
    found: list[Any] = [each for each in loop.set_timers() if each.when() > horizon]
    for handle in sorted(found, key=asyncio.TimerHandle.when):
        # A handle has no public access to its context and callback.
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
    fabric = loop.fabric
    for transport, side in (*fabric.open.items(), *((each, "dropped") for each in fabric.dropped)):
        scope = owner(transport.context)
        if scope is not None and not transport.cut_off:
            record = TransportRecord(transport, _SIDES[side], transport.points, scope)
            record.dropped = side == "dropped"
            yield record


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
    """Return the place of a callback's function: a future does not know who added a callback."""
    function = getattr(callback, "func", callback)
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return [code, 0] if code is not None else []


def _pending(future: asyncio.Future[Any] | None) -> asyncio.Future[Any] | None:
    return None if future is None or future.done() else future
