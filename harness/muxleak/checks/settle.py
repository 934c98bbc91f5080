"""Waiting, on a real loop, until a program has come to rest: as short as possible, never a guess.

On loops whose ready queue, timers and selector can be seen, rest is a fact. On others (uvloop) it
is inferred from a few turns with growing pauses. What travels through the kernel or another thread
cannot be seen at all: say what is expected with `until`.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

_LONGEST_PAUSE = 0.064
# The turns that a loop which cannot be seen into gets before it counts as at rest, in seconds.
_BLIND_TURNS = (0.0, 0.0, 0.0, 0.001, 0.002, 0.004)


async def settle(
    *,
    limit: float = 1.0,
    quiet: float = 0.0,
    horizon: float = 0.1,
    until: Callable[[], bool] | None = None,
    patient: bool = True,
) -> bool:
    """Wait until the running loop is at rest, or until `until()` holds.

    At rest: nothing is ready, no event waits in the selector, no timer is due within `horizon`.
    The clean path yields to what is ready and returns; it sleeps only towards a timer that is near.

    Args:
        limit: seconds after which to give up; a program with a quick heartbeat takes all of them.
        quiet: look again after so many seconds, and return only if it is at rest then too.
        horizon: timers due within so many seconds are waited for.
        until: what is expected. Looked at on every turn and, at rest, after growing pauses, because
            bytes may still be in the kernel or work in another thread.
        patient: with `until`, go on waiting at rest even when nothing can arrive any more: no
            socket is watched and no other thread runs.

    Returns:
        Whether the loop came to rest; with `until`, whether that came true.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit
    pause = 0.001
    while await _come_to_rest(loop, deadline, horizon, until):
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


async def _come_to_rest(
    loop: asyncio.AbstractEventLoop,
    deadline: float,
    horizon: float,
    until: Callable[[], bool] | None,
) -> bool:
    """Yield until the loop is at rest or `until` holds; False when time is up."""
    blind = iter(() if _visible(loop) else _BLIND_TURNS)
    while until is None or not until():
        wait = next(blind, None) if not _visible(loop) else _wait_needed(loop, horizon)
        if wait is None:
            break
        if loop.time() >= deadline:
            return False
        await asyncio.sleep(min(wait, max(deadline - loop.time(), 0)))
    return True


def _visible(loop: asyncio.AbstractEventLoop) -> bool:
    return isinstance(loop, asyncio.SelectorEventLoop) or _virtual(loop)


def _virtual(loop: asyncio.AbstractEventLoop) -> bool:
    """Return True for a simulated loop, whose whole world is in its ready queue and its timers."""
    return getattr(loop, "is_virtual", False)


def _may_arrive(loop: Any) -> bool:
    """Whether anything could still come from the kernel or from another thread."""
    if _virtual(loop):
        return False
    if not _visible(loop) or threading.active_count() > 1:
        return True
    watched = loop._selector.get_map()  # noqa: SLF001 - pinned by a test
    # One is the loop's own, by which other threads wake it.
    return watched is not None and len(watched) > 1


def _wait_needed(loop: Any, horizon: float) -> float | None:
    """Seconds until the loop has something to do: 0.0 for now, None if it is at rest."""
    if not _visible(loop):
        return None
    # asyncio has no public way to ask; a test pins these members on every supported Python.
    selector = getattr(loop, "_selector", None)
    if loop._ready or (selector is not None and selector.select(0)):  # noqa: SLF001
        return 0.0
    timers = loop._scheduled  # noqa: SLF001
    # The heap's head is the next timer unless it was cancelled; the loop's next turn drops it then.
    if timers and timers[0].cancelled():
        return 0.0
    wait = timers[0].when() - loop.time() if timers else horizon + 1
    return max(wait, 0.0) if wait <= horizon else None
