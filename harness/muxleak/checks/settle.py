"""Waiting until a program is quiescent: as short as possible, on asyncio's loops without a guess.

Bytes in the kernel and work in another thread cannot be seen on any real loop; state the expected
result with `until`.
"""

# A loop is *quiescent* when it would block in its next iteration, at least for `horizon` seconds:
#
#   loop                        how that is known
#   ------------------------    ---------------------------------------------------------------
#   `SelectorEventLoop`         nothing is in `_ready`, `select(0)` gives no event, and the first of
#                               `_scheduled` is further away than the horizon
#   simulated (`is_virtual`)    the same, without a selector: nothing is outside of it
#   others, such as uvloop      not known. Six iterations with growing pauses, 7 ms in all, are
#                               taken for it, so a longer chain of callbacks can be missed
#
# Two libraries make subclasses of `SelectorEventLoop` that keep callbacks and timers elsewhere (in
# Qt's queue, in trio's), and whose `_ready`, `_scheduled` and selector mean nothing. They count
# among the others. A subclass is asked once, by a callback: it must appear in `_ready`.
#
# The private members have no public counterpart; a test pins them on every supported Python. A
# cancelled timer at the head of the heap hides the next one; the next iteration removes it, so one
# more iteration is asked for.
#
# `select(0)` consumes nothing: the selectors of asyncio are level-triggered, so the loop gets the
# same events in its own next call.
#
# A heartbeat shorter than the horizon sets its timer anew whenever it fires, and so keeps a loop
# from being quiescent. `renewed=False` waits for no timer that is due later than the horizon,
# counted from the call: so for one beat, and for the beginning of a chain of short sleeps.
#
# The clean path is `sleep(0)` alone. It sleeps only towards a timer within the horizon, or, with
# `until`, in pauses that double from 1 ms to 64 ms: a result that comes from the kernel or a thread
# arrives unannounced. Without `patient` these pauses end as soon as nothing can arrive: only the
# loop's own wake-up socket is watched, and no other thread runs. That makes a check of a leak quick
# in the usual case; where anything might still arrive it takes the whole `limit`.

import asyncio
import math
import threading
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

_LONGEST_PAUSE = 0.064
# Pauses in seconds, one for each iteration, after which a loop that hides its state is taken for
# quiescent.
_PAUSES = (0.0, 0.0, 0.0, 0.001, 0.002, 0.004)
# By class: True if its loops keep their callbacks in `_ready`.
_asked: WeakKeyDictionary[type, bool] = WeakKeyDictionary()


async def settle(
    *,
    limit: float = 1.0,
    quiet: float = 0.0,
    horizon: float = 0.1,
    until: Callable[[], bool] | None = None,
    patient: bool = True,
    renewed: bool = True,
) -> bool:
    """Wait until the running loop is quiescent, or until `until()` is true.

    A loop is quiescent when nothing is ready, no event waits in the selector, and no timer is due
    within `horizon`. If it is so already, this returns after a few iterations without sleeping.

    Args:
        limit: seconds after which to give up; a program with a quick heartbeat takes all of them.
        quiet: seconds after which the loop must be quiescent a second time.
        horizon: seconds within which the timers are waited for.
        until: returns True once the expected result is there. Called in every iteration and, when
            the loop is quiescent, after growing pauses, because bytes may still be in the kernel or
            work in another thread.
        patient: with `until`, go on waiting even when nothing can arrive any more: no socket is
            watched and no other thread runs.
        renewed: wait for timers that are set meanwhile, too; False to wait only for those that are
            due within `horizon` seconds from now.

    Returns:
        True if the loop became quiescent; with `until`, True if that became true.
    """
    loop = asyncio.get_running_loop()
    now = loop.time()
    deadline, last = now + limit, None if renewed else now + horizon
    pause = 0.001
    while await _until_quiescent(loop, deadline, horizon, until, last):
        if until is not None:
            if until() or loop.time() >= deadline or not (patient or _may_arrive(loop)):
                return until()
            await asyncio.sleep(min(pause, deadline - loop.time()))
            pause = min(2 * pause, _LONGEST_PAUSE)
        elif not quiet:
            return True
        else:
            await asyncio.sleep(quiet)
            if _wait_needed(loop, horizon) is None:
                return True
    return until is not None and until()


async def _until_quiescent(
    loop: asyncio.AbstractEventLoop,
    deadline: float,
    horizon: float,
    until: Callable[[], bool] | None,
    last: float | None,
) -> bool:
    """Yield until the loop is quiescent or `until` is true; return False when time is up.

    Timers are waited for within `horizon`, and if `last` is a time, until then.
    """
    pauses = iter(() if shows_callbacks(loop) else _PAUSES)
    while until is None or not until():
        if last is not None:
            horizon = last - loop.time()
        wait = next(pauses, None) if not shows_callbacks(loop) else _wait_needed(loop, horizon)
        if wait is None:
            break
        if loop.time() >= deadline:
            return False
        await asyncio.sleep(min(wait, max(deadline - loop.time(), 0)))
    return True


def shows_callbacks(loop: asyncio.AbstractEventLoop) -> bool:
    """Return True if a loop keeps its callbacks in `_ready`, and its timers in `_scheduled`."""
    kind = type(loop)
    if kind is asyncio.SelectorEventLoop or _virtual(loop):
        return True
    if not isinstance(loop, asyncio.SelectorEventLoop):
        return False
    if kind not in _asked:
        _asked[kind] = _keeps_ready(loop)
    return _asked[kind]


def is_ready(loop: asyncio.AbstractEventLoop) -> bool:
    """Return False if the next iteration of a loop would run nothing; True if that is not known."""
    return not shows_callbacks(loop) or _wait_needed(loop, 0) is not None


def may_go_on(loop: asyncio.AbstractEventLoop, horizon: float) -> bool:
    """Return True if anything may still run on a loop within `horizon` seconds."""
    return _may_arrive(loop) or _wait_needed(loop, horizon) is not None


def _keeps_ready(loop: Any) -> bool:
    """Return True if a callback that is due appears in the list of asyncio's own loops."""
    handle = loop.call_soon(_keeps_ready)
    handle.cancel()
    try:
        return loop._ready[-1] is handle  # noqa: SLF001 - pinned by a test
    except (AttributeError, LookupError, TypeError):
        return False


def _virtual(loop: asyncio.AbstractEventLoop) -> bool:
    """Return True for a simulated loop, whose whole state is in its ready queue and its timers."""
    return getattr(loop, "is_virtual", False)


def _may_arrive(loop: Any) -> bool:
    """Return True if anything could still arrive from the kernel or from another thread."""
    if _virtual(loop):
        return False
    if not shows_callbacks(loop) or threading.active_count() > 1:
        return True
    watched = loop._selector.get_map()  # noqa: SLF001 - pinned by a test
    # One is the loop's own socket, by which other threads wake it.
    return watched is not None and len(watched) > 1


def _wait_needed(loop: Any, horizon: float) -> float | None:
    """Return the seconds until the loop has work: 0.0 if it has some now, None if quiescent."""
    if not shows_callbacks(loop):
        return None
    selector = getattr(loop, "_selector", None)
    if loop._ready or (selector is not None and selector.select(0)):  # noqa: SLF001
        return 0.0
    timers = loop._scheduled  # noqa: SLF001
    if timers and timers[0].cancelled():
        return 0.0
    wait = timers[0].when() - loop.time() if timers else math.inf
    return max(wait, 0.0) if wait <= horizon else None
