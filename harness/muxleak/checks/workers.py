"""Idle workers of thread pools: threads that wait for their next job, and that are ended."""

# A pool keeps its threads for the next job, so a thread that outlives a block may only be a worker
# that the block was the first to need. It is no leak if it is idle and its end is provided for:
#
#   thread                 is idle if it waits in           its end is provided for if
#   -------------------    -----------------------------    -----------------------------------
#   worker of              the loop of the worker           a variable of a module holds the
#   `concurrent.futures`   itself, with no job above        pool, by names and attributes alone
#   of any other pool,     `Queue.get` of a queue that      a task that is no leak has a method
#   such as anyio's        is an attribute of the thread    of the thread as a done callback
#
# So anyio's workers pass, since the root task of a loop stops them at its end, and a pool that a
# service keeps. A thread that a program starts to consume a queue has nobody who ends it: a leak.

import asyncio
import queue
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import thread as pools
from types import FrameType
from typing import Any

from muxleak.introspect.names import attribute, is_a
from muxleak.ledger.threads import pool_of

_WORKER = pools._worker.__code__  # noqa: SLF001 - a test pins it
_GET = queue.Queue.get.__code__


def keeper(thing: Any) -> Any:
    """Return the pool of an idle worker of `concurrent.futures`; any other object itself."""
    pool = pool_of(thing) if is_a(thing, threading.Thread) else None
    frame = _frame(thing) if pool is not None else None
    return pool if frame is not None and frame.f_code is _WORKER else thing


def ended_by_tasks(threads: Iterable[threading.Thread], leaks: Iterable[Any]) -> set[int]:
    """Return the ids of those threads that are idle, and that a task stops when it ends.

    Args:
        threads: of the running loop's thread or of others.
        leaks: tasks that are leaks themselves.
    """
    idle = {id(each) for each in threads if _idle(each)}
    if not idle:
        return idle
    ends = set()
    for task in asyncio.all_tasks() - set(leaks):
        for pair in attribute(task, "_callbacks") or ():
            ends.add(id(attribute(pair[0], "__self__")))
    return idle & ends


def _idle(thread: threading.Thread) -> bool:
    """Return True if a thread waits for the next item of a queue of its own."""
    frame = _frame(thread)
    while frame is not None and frame.f_code is not _GET:
        # `Queue.get` waits in a `Condition`.
        frame = frame.f_back if frame.f_globals is vars(threading) else None
    own = attribute(thread, "__dict__")
    return frame is not None and own is not None and _holds(own, frame.f_locals.get("self"))


def _holds(own: dict[str, Any], thing: Any) -> bool:
    return any(each is thing for each in list(own.values()))


def _frame(thread: threading.Thread) -> FrameType | None:
    return sys._current_frames().get(attribute(thread, "ident") or 0)  # noqa: SLF001 - documented
