"""asyncio's handles with the work of their several methods in one.

Nearly all time that a simulated loop itself takes goes into making handles. These do what asyncio's
do outside debug mode, and nothing else; a test holds them against the originals' attributes.
"""

import asyncio
from asyncio import format_helpers
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from typing import Any


class SoonHandle(asyncio.Handle):
    """An `asyncio.Handle`, made in one call."""

    __slots__ = ()

    _callback: Callable[..., object] | None
    _context: Context
    _loop: Any
    # Only debug mode writes these; the class has them, so that no handle needs to.
    _repr = None
    _source_traceback = None

    def __init__(
        self,
        callback: Callable[..., object],
        args: Sequence[Any],
        loop: asyncio.AbstractEventLoop,
        context: Context | None = None,
    ) -> None:
        # The base class's own does the same in more steps.
        self._context = copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False


class DueHandle(asyncio.TimerHandle):
    """An `asyncio.TimerHandle`, made and cancelled in one call each."""

    __slots__ = ()

    _callback: Callable[..., object] | None
    _context: Context
    _loop: Any
    _repr = None
    _scheduled: bool
    _source_traceback = None
    _when: float

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: Sequence[Any],
        loop: asyncio.AbstractEventLoop,
        context: Context | None = None,
    ) -> None:
        # The base classes' own do the same in more steps.
        self._context = copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._when = when
        self._scheduled = True

    def cancel(self) -> None:
        """Never run; the loop counts it while it is still in its heap."""
        if not self._cancelled:
            self._cancelled = True
            if self._scheduled:
                self._loop._timer_cancelled_count += 1  # noqa: SLF001 - as asyncio's loop counts
            self._callback = None
            self._args = ()

    def __lt__(self, other: Any) -> bool:
        return bool(self._when < other._when)  # noqa: SLF001 - a heap of one class


def complain(handle: Any, exc: BaseException) -> None:
    """Tell the loop's exception handler what a handle's callback raised, as asyncio's handles do."""
    source = format_helpers._format_callback_source(handle._callback, handle._args)  # type: ignore[attr-defined]  # noqa: SLF001 - the text that people know
    handle._loop.call_exception_handler(  # noqa: SLF001 - a handle's own business
        {"message": f"Exception in callback {source}", "exception": exc, "handle": handle}
    )
