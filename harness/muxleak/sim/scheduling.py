"""Scheduling callbacks on virtual time, with the work of asyncio's several calls in one.

Nearly all time that a simulated loop itself takes goes into making handles. These do what asyncio's
do outside debug mode, and nothing else; in debug mode asyncio's own are used.
"""

import asyncio
import threading
from asyncio import format_helpers
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from heapq import heappush
from typing import Any, TypeVarTuple

from muxleak.introspect.sites import trace
from muxleak.sim.errors import FencedLoop, SimulationError

_Args = TypeVarTuple("_Args")

_Future: Any = asyncio.Future
# What the timer of every `asyncio.sleep` calls; a test pins its two steps.
WAKES_SLEEPER = getattr(asyncio.futures, "_set_result_unless_cancelled", None)


class LoopHandle(asyncio.TimerHandle):
    """An `asyncio.TimerHandle`; for `call_soon`, where `when()` is None, an `asyncio.Handle`.

    One class for both, because a loop that reads the attributes of one type only is the quicker.
    """

    __slots__ = ("points",)

    points: Any  # where a timer was set, if the loop wants to know
    _args: Sequence[Any]
    _callback: Callable[..., object] | None
    _cancelled: bool
    _context: Context
    _loop: Any
    # Only debug mode writes these; the class has them, so that no handle needs to.
    _repr = None
    _scheduled: bool
    _source_traceback = None
    _when: Any

    def __init__(
        self,
        when: float | None,
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
        self._scheduled = when is not None

    def cancel(self) -> None:
        """Never run; the loop counts it while it is still in its heap."""
        if not self._cancelled:
            self._cancelled = True
            if self._scheduled:
                self._loop._timer_cancelled_count += 1  # noqa: SLF001 - as asyncio's loop counts
            self._callback = None
            self._args = ()

    def __eq__(self, other: object) -> bool:
        return self is other if self._when is None else super().__eq__(other)

    def __hash__(self) -> int:
        return id(self) if self._when is None else super().__hash__()

    def _repr_info(self) -> Any:
        kind: Any = asyncio.Handle if self._when is None else asyncio.TimerHandle
        return kind._repr_info(self)  # noqa: SLF001 - what `repr` is made of

    def __lt__(self, other: Any) -> bool:
        return bool(self._when < other._when)


_new_handle = LoopHandle.__new__


class SchedulingLoop(FencedLoop):
    """A loop on virtual time that only schedules; `VirtualLoop` runs what is scheduled."""

    _notes_timers = False  # keep where each timer was set, but for those of `asyncio.sleep`

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._home = threading.get_ident()
        # asyncio's C code asks this of every future and task; a bound method of False is quickest.
        self.get_debug = self._debug.__bool__  # type: ignore[method-assign]

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def set_debug(self, enabled: bool) -> None:  # noqa: FBT001 - asyncio's signature
        """As asyncio's."""
        super().set_debug(enabled)
        self.get_debug = bool(enabled).__bool__  # type: ignore[method-assign]

    def call_soon(
        self, callback: Callable[[*_Args], object], *args: *_Args, context: Context | None = None
    ) -> asyncio.Handle:
        """As asyncio's, in one call instead of three: nearly all work passes through here."""
        if self._debug or self._closed:
            return super().call_soon(callback, *args, context=context)
        # LoopHandle(None, callback, args, self, context), without the call: a tenth of a turn.
        handle = _new_handle(LoopHandle)
        handle._context = copy_context() if context is None else context  # noqa: SLF001
        handle._callback, handle._args = callback, args  # noqa: SLF001
        handle._loop, handle._cancelled = self, False  # noqa: SLF001
        handle._scheduled, handle._when = False, None  # noqa: SLF001
        self._ready.append(handle)
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        """As asyncio's."""
        return _Future(loop=self)  # type: ignore[no-any-return]

    def call_later(
        self,
        delay: float,
        callback: Callable[[*_Args], object],
        *args: *_Args,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """As asyncio's, in one call instead of seven."""
        if self._debug or self._closed:
            return super().call_later(delay, callback, *args, context=context)
        handle = _new_handle(LoopHandle)
        handle._context = copy_context() if context is None else context  # noqa: SLF001
        handle._callback, handle._args = callback, args  # noqa: SLF001
        handle._loop, handle._cancelled = self, False  # noqa: SLF001
        handle._scheduled, handle._when = True, self._now + delay  # noqa: SLF001
        if callback is not WAKES_SLEEPER and self._notes_timers:
            handle.points = trace(2)
        heappush(self._scheduled, handle)
        return handle

    def call_at(
        self,
        when: float,
        callback: Callable[[*_Args], object],
        *args: *_Args,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """As asyncio's, in one call instead of six."""
        if self._debug or self._closed:
            return super().call_at(when, callback, *args, context=context)
        handle = _new_handle(LoopHandle)
        handle._context = copy_context() if context is None else context  # noqa: SLF001
        handle._callback, handle._args = callback, args  # noqa: SLF001
        handle._loop, handle._cancelled = self, False  # noqa: SLF001
        handle._scheduled, handle._when = True, when  # noqa: SLF001
        if callback is not WAKES_SLEEPER and self._notes_timers:
            handle.points = trace(2)
        heappush(self._scheduled, handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[*_Args], object], *args: *_Args, context: Context | None = None
    ) -> asyncio.Handle:
        """`call_soon`, from the loop's own thread only."""
        if threading.get_ident() != (self._thread_id or self._home):
            raise SimulationError("call_soon_threadsafe from another thread leaves the simulation")
        return self.call_soon(callback, *args, context=context)


def complain(handle: Any, exc: BaseException) -> None:
    """Tell the loop what a handle's callback raised, as asyncio's own handles do."""
    # The text that people know has no public source.
    source = format_helpers._format_callback_source(handle._callback, handle._args)  # noqa: SLF001
    handle._loop.call_exception_handler(  # noqa: SLF001
        {"message": f"Exception in callback {source}", "exception": exc, "handle": handle}
    )
