"""`check_scope`: wait until what a scope caused has ended, and report what has not."""

import asyncio
import gc
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from muxleak.checks.ignores import Ignore, remaining, valid_ignores
from muxleak.checks.report import LeakReport, Record
from muxleak.checks.settle import settle
from muxleak.introspect.referrers import held_by_slot, who_can_wake
from muxleak.introspect.waiting import links
from muxleak.ledger.counters import Scope, TaskRecord
from muxleak.ledger.kinds import GROWTH_KINDS, KINDS, valid_kinds

BUDGET = 0.5  # seconds
CHECKED = KINDS - GROWTH_KINDS

_TURNS = 3
_FEW = 3  # things made in one place that may each be somebody's service
# What a service keeps for as long as the process runs; nobody keeps a timer or a job so.
_SERVICE_KINDS = frozenset({"task", "transport", "server", "thread"})


async def check_scope(
    scope: Scope,
    *,
    kinds: Iterable[str] = CHECKED,
    budget: float = BUDGET,
    ignore: Ignore | Iterable[Ignore] = (),
) -> LeakReport:
    """Report what `scope` caused and is still alive, once it has had time to end.

    Where nothing is left it returns after a few turns of the loop. Else it waits until what is left
    has ended, and at most until the loop is at rest and nothing can arrive, or until `budget` is
    spent. What a module holds in a name or attribute made for one is taken for a service that is
    meant to stay, and is no leak.

    Args:
        scope: what `Ledger.scope` made, or `Ledger.root`.
        kinds: of `kinds.KINDS`; those that only growth can judge are not looked for here.
        budget: seconds within which whatever ends by itself is no leak.
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
    """The records of what `scope` caused and is still alive, once it has had time to end."""
    own = asyncio.current_task()

    def alive() -> list[Any]:
        if scope.clean:
            return []
        found = remaining(scope.everything(), kinds, ignores)
        return [each for each in found if each.thing() is not own]

    for _ in range(_TURNS):
        await asyncio.sleep(0)
    if alive():
        await settle(limit=budget, horizon=budget, until=lambda: not alive(), patient=False)
    return _without_services(without_owned(alive()))


def diagnosed(found: Sequence[Record], scope: Scope | None) -> LeakReport:
    """The report on what is left behind, with the reason why it can, or cannot, end by itself."""
    return LeakReport.of(found, within=scope, diagnose=diagnosis)


def diagnosis(record: Record) -> list[str]:
    """Whether anything can still wake a task, as a line; nothing of other kinds."""
    return [who_can_wake(record.task)] if isinstance(record, TaskRecord) else []


def without_owned(found: list[Any]) -> list[Any]:
    """Leave out generators that a leaked task goes through: they are where it waits."""
    owned = {
        id(part)
        for record in found
        if isinstance(record, TaskRecord)
        for _, link in links(record.task)
        for part in gc.get_referents(link)
    }
    return [each for each in found if each.kind != "generator" or id(each.thing()) not in owned]


def _without_services(found: list[Any]) -> list[Any]:
    # The search goes through the heap; many made in one place are not held in one slot each.
    alike = Counter((each.kind, each.site) for each in found)
    return [
        each
        for each in found
        if each.kind not in _SERVICE_KINDS
        or alike[each.kind, each.site] > _FEW
        or held_by_slot(each.thing()) is None
    ]
