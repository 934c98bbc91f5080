"""Checks in a task that is cancelled: the examination goes on, and its report is not swallowed."""

# A block under `no_leaks` may stand in a timeout, a cancel scope or a task group, which cancels its
# task and takes the `CancelledError` for its own. Two things follow:
#
# - The examination awaits, and the task may be cancelled again meanwhile. So once it was, the
#   examination runs in a task of its own. anyio cancels again in every iteration, as long as a task
#   is inside of a cancelled scope, so that virtual time would stand still: a shield ends that.
# - A report that is a note on the `CancelledError` would vanish with it. So it is raised in its
#   place: a scope lets other exceptions pass.
#
# The exception is Ctrl-C, which `asyncio.Runner` turns into a cancellation of the main task and,
# when that ends cancelled, into `KeyboardInterrupt`. There the cancellation must pass.

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from muxleak.introspect.names import attribute

_R = TypeVar("_R")


async def though_cancelled(work: Callable[[], Coroutine[Any, Any, _R]]) -> _R:
    """Run a coroutine to its end, however often the running task is cancelled meanwhile."""
    task = asyncio.get_running_loop().create_task(work())
    with _shield():
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                continue
    return task.result()


def _shield() -> AbstractContextManager[object]:
    """Return a scope of anyio's that keeps the scopes around it from cancelling, if it is used."""
    try:
        return sys.modules["anyio"].CancelScope(shield=True)  # type: ignore[no-any-return]
    except Exception:  # noqa: BLE001 - it is not loaded, or this is no task that it knows
        return nullcontext()


def may_be_swallowed(error: BaseException | None) -> bool:
    """Return True for a cancellation that is not the one by which a runner passes on Ctrl-C."""
    if not isinstance(error, asyncio.CancelledError):
        return False
    handler = signal.getsignal(signal.SIGINT)
    runner = attribute(attribute(handler, "func"), "__self__")
    return not attribute(runner, "_interrupt_count", 0)
