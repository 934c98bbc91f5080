"""Garbage collection before a verdict, so that a verdict does not depend on the collector."""

# An object in a reference cycle lives until the collector runs. Its finalizer may end a task that a
# check would report (`__del__` cancels it), and a failed task in such a cycle reports its exception
# only then. So before a check accuses, it collects garbage and lets the loop run what finalizers
# have scheduled. An automatic collection at any moment before gives the same result.
#
# Price: 10 to 50 ms in a large process. Only a check that would report something pays it, or one
# with a failed task that may be garbage (`Counters.unretrieved`).

import asyncio
import gc
from collections.abc import Callable

ITERATIONS = 3  # of the loop: from a cancellation to the done callbacks of a task
_ROUNDS = 3  # a finalizer may leave garbage that has finalizers


async def collect_garbage(count: Callable[[], int]) -> None:
    """Collect garbage, and give its finalizers their turn on the running loop.

    Args:
        count: returns the number of objects that are in question. Garbage is collected again as
            long as collecting lowers it, a few times.
    """
    before = count()
    for _ in range(_ROUNDS):
        gc.collect()
        for _ in range(ITERATIONS):
            await asyncio.sleep(0)
        after = count()
        if not 0 < after < before:
            return
        before = after
