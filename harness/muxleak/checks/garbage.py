"""Garbage collection before a verdict, so that a verdict does not depend on the collector."""

# An object in a reference cycle lives until the collector runs. Its finalizer may end a task that a
# check would report (`__del__` cancels it), and a failed task in such a cycle reports its exception
# only then. So before a check accuses, it collects garbage and lets the loop run what finalizers
# have scheduled. An automatic collection at any moment before gives the same result.
#
# A collection stops the program, so its length is not the program's: checks take it out of their
# budget, and their verdict does not depend on the size of the heap.
#
# Price: 10 to 50 ms in a large process. Only a check that would report something pays it, or one
# with a failed task that may be garbage (`Counters.unretrieved`).

import asyncio
import gc
from collections.abc import Callable

from muxleak.checks.settle import is_ready
from muxleak.introspect.sites import Site
from muxleak.introspect.waiting import Waiting
from muxleak.ledger.counters import Scope
from muxleak.ledger.kinds import DestroyedRecord

ITERATIONS = 3  # of the loop: from a cancellation to the done callbacks of a task
_ROUNDS = 3  # a finalizer may leave garbage that has finalizers


async def collect_garbage(count: Callable[[], int], scope: Scope | None = None) -> bool:
    """Collect garbage, and give its finalizers their turn on the running loop.

    Args:
        count: returns the number of objects that are in question. Garbage is collected again as
            long as collecting lowers it, a few times.
        scope: a task of it that is destroyed is described by the place where it waited.

    Returns:
        True if the program has run since the last collection, so that there may be more garbage.
    """
    before, ran = count(), False
    for _ in range(_ROUNDS):
        places = _places(scope) if scope is not None else {}
        gc.collect()
        if scope is not None:
            _describe_destroyed(scope, places)
        ran = is_ready(asyncio.get_running_loop())
        for _ in range(ITERATIONS):
            await asyncio.sleep(0)
        after = count()
        if not 0 < after < before:
            break
        before = after
    return ran


def _places(scope: Scope) -> dict[tuple[Site, str], Waiting]:
    """Return where the tasks of a scope wait; it must not hold the tasks."""
    found = scope.everything()
    return {(each.site, each.name): each.waiting_on() for each in found if each.kind == "task"}


def _describe_destroyed(scope: Scope, places: dict[tuple[Site, str], Waiting]) -> None:
    # The coroutine may be closed before the task reports that it is destroyed.
    for record in scope.everything():
        if isinstance(record, DestroyedRecord) and record.waiting is None:
            record.waiting = places.get((record.site, record.name))
