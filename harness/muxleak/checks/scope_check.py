"""`check_scope`: give the tasks and resources of a scope time to end, and report the others."""

# The examination of one scope, which `no_leaks`, the plugin and `check_scope` share, is a series of
# filters, cheapest first:
#
# 1. A few iterations of the loop: done callbacks and cancelled tasks need them. If the scope is
#    clean then, that was all; `Scope.clean` is O(1), so a check costs the same beside 100,000 leaks
#    of others.
#    Callbacks that schedule themselves by `call_soon` show now (`endless_callbacks`).
# 2. The budget. A task that ends by itself within it is no leak. `settle` returns early when
#    nothing is alive any more, or when the loop is quiescent and nothing can arrive, since more
#    waiting cannot change the result then.
# 3. Garbage, which is collected if something is alive still, or if a task failed and is silent
#    because it may be garbage (`garbage`). It is collected after the first 20 ms of the budget, so
#    that a task that ends soon costs no collection, and again after the rest, if the program can
#    have run meanwhile. The budget does not count the time of a collection.
# 4. Options: kinds and `ignore` values. The task that examines is left out, too.
# 5. Generators that a leaked task iterates over: they are where the task waits, not a second leak.
# 6. Services. A program may keep a client, server or worker for as long as the process runs, and
#    makes it when it is first needed, which may be inside the scope. Such an object is held by a
#    variable of a module, or by attributes of one, which can hold only one at a time, so it cannot
#    accumulate (`held_by_slots`). Only kinds that a service consists of are excused; and no more
#    than a few that were made at one place, as each search walks the heap and many objects are not
#    held in one slot each.
#
# 6. Idle workers of thread pools that somebody will end (`workers`).
#
# Left out at the start are resources that an inner check has reported and could not end, such as a
# thread: one leak is counted once.
#
# The remaining records are leaks. The diagnosis asks who can still wake a task; it is made for the
# groups that a report shows.

import asyncio
import gc
from collections import Counter
from collections.abc import Iterable, Sequence
from time import monotonic
from typing import Any

from muxleak.checks.endless_callbacks import CallbackWatch
from muxleak.checks.failure import failed
from muxleak.checks.garbage import ITERATIONS, collect_garbage
from muxleak.checks.ignores import Ignore, remaining, valid_ignores
from muxleak.checks.report import LeakReport, Record
from muxleak.checks.settle import may_go_on, settle
from muxleak.checks.teardown import given_up
from muxleak.checks.workers import ended_by_tasks, keeper
from muxleak.introspect.referrers import held_by_slots, wakers
from muxleak.introspect.waiting import links
from muxleak.ledger.counters import Scope, TaskRecord
from muxleak.ledger.kinds import GROWTH_KINDS, KINDS, LASTING, valid_kinds

BUDGET = 0.5  # seconds
CHECKED = KINDS - GROWTH_KINDS

_SOON = 0.02  # seconds of the budget before garbage is collected
_FEW = 3  # objects made at one place that may each be a service
# A service keeps these for as long as the process runs; it does not keep a timer or a job so.
_SERVICE_KINDS = frozenset({"task", "transport", "server", "thread"})


async def check_scope(
    scope: Scope,
    *,
    kinds: Iterable[str] = CHECKED,
    budget: float = BUDGET,
    ignore: Ignore | Iterable[Ignore] = (),
) -> LeakReport:
    """Report the tasks and resources of a scope that are still alive, after time to end.

    If nothing is alive it returns after a few iterations of the loop. Else it waits until all have
    ended, and at most until the loop is quiescent and nothing can arrive, or until `budget` is
    spent. An object that a module holds in a variable, or in an attribute, is taken for a service
    that is meant to stay, and is no leak.

    Args:
        scope: from `Ledger.scope`, or `Ledger.root`.
        kinds: of `kinds.KINDS`; those that only growth can judge are ignored here.
        budget: seconds. Tasks and resources that end by themselves within it are no leak.
        ignore: values of `muxleak.checks.ignores`.

    Returns:
        The report; falsy if nothing leaked.

    Raises:
        ValueError: an unknown kind.
        TypeError: `ignore` holds something else.
    """
    wanted, ignores = valid_kinds(kinds) - GROWTH_KINDS, valid_ignores(ignore)
    found = await left_behind(scope, wanted, ignores, budget)
    return diagnosed(found, scope)


async def left_behind(
    scope: Scope, kinds: frozenset[str], ignores: Sequence[Ignore], budget: float
) -> list[Any]:
    """Return records of the leaks of a scope, after time to end; see `check_scope`.

    Args:
        scope: the scope to examine.
        kinds: of `kinds.KINDS`.
        ignores: values of `muxleak.checks.ignores`.
        budget: seconds.
    """
    examination = _Examination(scope, kinds, ignores)
    with CallbackWatch(scope) as callbacks:
        for _ in range(ITERATIONS - 1):
            await asyncio.sleep(0)
        callbacks.begin()
        await asyncio.sleep(0)
        if "timer" in kinds and callbacks.suspected():
            # The rest of the budget is for the others, which had this time as well.
            began = monotonic()
            await callbacks.wait(budget)
            budget = max(budget - (monotonic() - began), 0)
        if examination.suspicious():
            await examination.wait_and_collect(budget)
        found = [*examination.alive(), *remaining(callbacks.records(), kinds, ignores)]
    return _without_services(_without_idle_workers(without_owned(found))) if found else []


class _Examination:
    """One examination of a scope, for `left_behind`."""

    def __init__(self, scope: Scope, kinds: frozenset[str], ignores: Sequence[Ignore]) -> None:
        self.scope, self.kinds, self.ignores = scope, kinds, ignores
        self.own = asyncio.current_task()

    def alive(self) -> list[Any]:
        """Return the records that count."""
        if self.scope.clean:
            return []
        found = remaining(self.scope.everything(), self.kinds, self.ignores)
        return [each for each in found if each.thing() is not self.own and not given_up(each)]

    def ended(self) -> bool:
        """Return True if nothing is alive that has an end to wait for."""
        return all(each.kind in LASTING or each.thing() is None for each in self.alive())

    def suspicious(self) -> bool:
        """Return True if something is alive, or a failed task may be garbage."""
        if self.alive():  # this sweeps, so that failed tasks are known
            return True
        counters = self.scope.counters
        return bool(counters.failed) and "error" in self.kinds and counters.unretrieved(self.scope)

    async def wait_and_collect(self, budget: float) -> None:
        """Give everything time to end, and garbage its turn."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        await self._wait(min(_SOON, budget))
        rest = max(began + budget - loop.time(), 0)
        ran = self.suspicious() and await self._collect()
        if not self.ended() and (ran or may_go_on(loop, rest)):
            await self._wait(rest)
            if not self.ended():
                await self._collect()

    async def _wait(self, limit: float) -> None:
        await settle(limit=limit, horizon=limit, until=self.ended, patient=False)

    async def _collect(self) -> bool:
        return await collect_garbage(lambda: len(self.alive()), self.scope)


def diagnosed(found: Sequence[Record], scope: Scope | None) -> LeakReport:
    """Make the report on leaks, with the reason why each can, or cannot, end by itself.

    Args:
        found: records of `left_behind`.
        scope: the scope that was examined.
    """
    return LeakReport.of(found, within=scope, diagnose=diagnoses)


def diagnoses(records: Sequence[Record]) -> list[list[str]]:
    """Say of each task in a line if anything can still wake it, or where it was destroyed."""
    tasks = [each.task for each in records if isinstance(each, TaskRecord)]
    try:
        lines = iter(wakers(tasks))
    except Exception as error:  # noqa: BLE001 - the leak must be reported all the same
        failed("who could wake a task", error)
        lines = iter(["who could wake it is not known"] * len(tasks))
    return [[next(lines)] if isinstance(each, TaskRecord) else _destroyed(each) for each in records]


def _destroyed(record: Record) -> list[str]:
    """Say where a destroyed task waited; say nothing of other kinds."""
    if record.kind != "destroyed" or not (waiting := record.waiting_on()).chain:
        return []
    return [f"it waited in {waiting.place} on {waiting.on}, and nothing held it"]


def without_owned(found: list[Any]) -> list[Any]:
    """Return the records without generators that a leaked task iterates over."""
    owned = {
        id(part)
        for record in found
        if isinstance(record, TaskRecord)
        for _, link in links(record.task)
        for part in gc.get_referents(link)
    }
    return [each for each in found if each.kind != "generator" or id(each.thing()) not in owned]


def _without_services(found: list[Any]) -> list[Any]:
    """Return the records without those of services that a module holds in a slot."""
    # The workers of a pool are kept with it. A transport that was dropped is kept by nobody.
    things = {id(each): each.thing() for each in found if each.kind in _SERVICE_KINDS}
    kept = {name: keeper(thing) for name, thing in things.items() if thing is not None}
    places = {(each.kind, each.site, id(kept[id(each)])) for each in found if id(each) in kept}
    alike = Counter((kind, site) for kind, site, _ in places)
    few = [each for each in found if id(each) in kept and alike[each.kind, each.site] <= _FEW]
    paths = held_by_slots([kept[id(each)] for each in few])
    services = {id(each) for each, path in zip(few, paths, strict=True) if path is not None}
    return [each for each in found if id(each) not in services]


def _without_idle_workers(found: list[Any]) -> list[Any]:
    """Return the records without those of idle workers that a task outside will stop."""
    threads = [each.thing() for each in found if each.kind == "thread"]
    if not threads:
        return found
    leaks = [each.task for each in found if isinstance(each, TaskRecord)]
    ended = ended_by_tasks(threads, leaks)
    return [each for each in found if each.kind != "thread" or id(each.thing()) not in ended]
