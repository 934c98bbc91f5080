"""An asyncio event loop on virtual time, without sockets, that knows when it is quiescent."""

# Three classes, each on top of the one before:
#
#   FencedLoop       asyncio's `BaseEventLoop` with every call refused by name that would reach a
#                    thread, a socket, a signal or a process
#   SchedulingLoop   puts callbacks into the ready queue and timers into the heap
#   VirtualLoop      runs them
#
# The rules:
#
# - The ready queue stays first in, first out, as asyncio documents.
# - Nothing here waits. When no callback is ready, the clock jumps to the next timer. So the loop is
#   quiescent when its queue is empty and no timer is due within the horizon: a fact, not a guess.
# - One iteration runs the callbacks that were ready at its start. Callbacks that they schedule wait
#   for the next one, as in asyncio. Races depend on this boundary, so it is kept exactly.
# - Timers that are due are made ready in the order of their times, after the callbacks that were
#   ready before. asyncio does the same.
#
# Nearly all the time that a simulated loop itself takes goes into making handles and calling them.
# So `call_soon`, `call_later` and `call_at` do in one call the work that asyncio does in three to
# seven, `LoopHandle` is one class for both kinds of handle, and `_iterate` runs a handle without a
# call of its `_run`. In debug mode asyncio's own methods are used, so that its checks hold.
#
# All this relies on private members of `BaseEventLoop`. `FencedLoop` declares them in one place,
# and a test pins each of them on every supported Python.

# What a handle is, it tells in private members only; asyncio's own loop reads the same.
# ruff: noqa: SLF001
import asyncio
import math
import sys
import threading
from asyncio import format_helpers
from asyncio.events import _get_running_loop, _set_running_loop
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from contextvars import Context, copy_context
from heapq import heapify, heappop, heappush
from typing import Any, NamedTuple, Self, TypeVarTuple

from muxleak.introspect import sites
from muxleak.introspect.sites import trace
from muxleak.introspect.waiting import AnyTask, called_by
from muxleak.sim.errors import DeadlockError, LivelockError, refusal

sites.end_at(__file__)  # below this loop's frames stands whoever drives it

STEP_LIMIT = 100_000
_ROUND = 1_000  # iterations that one round of cancelling may take
_STALE_TIMERS = 100  # cancelled timers kept before the heap is swept, as in asyncio


class FencedLoop(asyncio.BaseEventLoop):
    """Refuses, by name, every call that would reach a thread, socket, signal or process.

    It declares the private members of `BaseEventLoop` that the subclasses rely on.

    Attributes:
        refused: the first call that was refused, with the line of the program; empty if none was.
    """

    refused = ""

    _asyncgens: Collection[object]
    _closed: bool
    _debug: bool
    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _stopping: bool
    _task_factory: object
    _thread_id: int | None
    _timer_cancelled_count: int
    _asyncgen_firstiter_hook: Callable[..., None]
    _asyncgen_finalizer_hook: Callable[..., None]
    _check_closed: Callable[[], None]
    _check_running: Callable[[], None]


def _refuse(name: str) -> Callable[..., Any]:
    def refuse(*_args: object, **_settings: object) -> Any:
        raise refusal(f"{name} leaves the simulation: there are no sockets or threads here")

    refuse.__name__ = refuse.__qualname__ = name
    return refuse


_OUTSIDE = (
    "add_reader add_signal_handler add_writer connect_accepted_socket connect_read_pipe "
    "connect_write_pipe create_connection create_datagram_endpoint create_server "
    "create_unix_connection create_unix_server getaddrinfo getnameinfo remove_reader "
    "remove_signal_handler remove_writer run_in_executor sendfile sock_accept sock_connect "
    "sock_recv sock_recv_into sock_recvfrom sock_recvfrom_into sock_sendall sock_sendfile "
    "sock_sendto start_tls subprocess_exec subprocess_shell"
)
for _name in _OUTSIDE.split():
    setattr(FencedLoop, _name, _refuse(_name))


_Args = TypeVarTuple("_Args")

_Future: Any = asyncio.Future
# What the timer of every `asyncio.sleep` calls; a test pins its two steps.
WAKES_SLEEPER = getattr(asyncio.futures, "_set_result_unless_cancelled", None)


class LoopHandle(asyncio.TimerHandle):
    """A handle of `call_later` and `call_at`; with None for `when()`, a handle of `call_soon`.

    One class for both: a loop that reads the attributes of a single type is faster.
    """

    __slots__ = ("points",)

    points: Any  # the raw creation site of a timer, if the loop notes it
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
        """Cancel; the loop counts the handle as long as it is in the heap."""
        if not self._cancelled:
            self._cancelled = True
            if self._scheduled:
                self._loop._timer_cancelled_count += 1
            self._callback = None
            self._args = ()

    def __eq__(self, other: object) -> bool:
        return self is other if self._when is None else super().__eq__(other)

    def __hash__(self) -> int:
        return id(self) if self._when is None else super().__hash__()

    def _repr_info(self) -> Any:
        kind: Any = asyncio.Handle if self._when is None else asyncio.TimerHandle
        return kind._repr_info(self)

    def __lt__(self, other: Any) -> bool:
        return bool(self._when < other._when)


_new_handle = LoopHandle.__new__


class SchedulingLoop(FencedLoop):
    """Schedules callbacks and timers on virtual time; `VirtualLoop` runs them."""

    _notes_timers = False  # note the creation site of each timer, except those of `asyncio.sleep`

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._home = threading.get_ident()
        # asyncio's C code calls this for every future and task; a bound method of False is fastest.
        self.get_debug = self._debug.__bool__  # type: ignore[method-assign]

    def time(self) -> float:
        """Return the virtual seconds since the loop was made."""
        return self._now

    def set_debug(self, enabled: bool) -> None:  # noqa: FBT001 - asyncio's signature
        """Switch debug mode on or off."""
        super().set_debug(enabled)
        self.get_debug = bool(enabled).__bool__  # type: ignore[method-assign]

    def call_soon(
        self, callback: Callable[[*_Args], object], *args: *_Args, context: Context | None = None
    ) -> asyncio.Handle:
        """Run a callback in the next iteration, as asyncio does, in one call instead of three."""
        if self._debug or self._closed:
            return super().call_soon(callback, *args, context=context)
        # LoopHandle(None, callback, args, self, context), without the call: a tenth of a turn.
        handle = _new_handle(LoopHandle)
        handle._context = copy_context() if context is None else context
        handle._callback, handle._args = callback, args
        handle._loop, handle._cancelled = self, False
        handle._scheduled, handle._when = False, None
        self._ready.append(handle)
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        """Return a new future of this loop."""
        return _Future(loop=self)  # type: ignore[no-any-return]

    def call_later(
        self,
        delay: float,
        callback: Callable[[*_Args], object],
        *args: *_Args,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Run a callback after `delay` virtual seconds, in one call instead of asyncio's seven."""
        if self._debug or self._closed:
            return super().call_later(delay, callback, *args, context=context)
        handle = _new_handle(LoopHandle)
        handle._context = copy_context() if context is None else context
        handle._callback, handle._args = callback, args
        handle._loop, handle._cancelled = self, False
        handle._scheduled, handle._when = True, self._now + delay
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
        """Run a callback at the virtual time `when`, in one call instead of asyncio's six."""
        if self._debug or self._closed:
            return super().call_at(when, callback, *args, context=context)
        handle = _new_handle(LoopHandle)
        handle._context = copy_context() if context is None else context
        handle._callback, handle._args = callback, args
        handle._loop, handle._cancelled = self, False
        handle._scheduled, handle._when = True, when
        if callback is not WAKES_SLEEPER and self._notes_timers:
            handle.points = trace(2)
        heappush(self._scheduled, handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[*_Args], object], *args: *_Args, context: Context | None = None
    ) -> asyncio.Handle:
        """Run a callback in the next iteration, from the loop's own thread only.

        Raises:
            SimulationError: another thread calls.
        """
        if threading.get_ident() != (self._thread_id or self._home):
            text = "call_soon_threadsafe from another thread leaves the simulation"
            raise refusal(text, self)
        return self.call_soon(callback, *args, context=context)


def complain(handle: Any, exc: BaseException) -> None:
    """Report the exception of a handle's callback to the loop, as asyncio's own handles do."""
    # asyncio's wording, which people search for, has no public source.
    source = format_helpers._format_callback_source(handle._callback, handle._args)
    handle._loop.call_exception_handler(
        {"message": f"Exception in callback {source}", "exception": exc, "handle": handle}
    )


class Timer(NamedTuple):
    """A timer that is set: its due time in virtual seconds, and the name of its callback."""

    when: float
    what: str


class VirtualLoop(SchedulingLoop):
    """A deterministic loop; time starts at 0.0 and passes only by jumping to timers.

    Attributes:
        step_limit: iterations that `run_until_quiescent` and `advance` may take.
        task_source: returns the live tasks in creation order; a `Ledger` sets it. Without it, tasks
            are sorted by name, the creation order for asyncio's default names.
        must_check: True if the next iteration must look beyond the ready queue and the timers.
        limit: virtual time beyond which `_pass_limit` is called before each jump.
    """

    is_virtual = True  # for `settle`: nothing arrives but by the ready queue and the timers
    # Subclasses that choose among ready callbacks set these, see `_choose` and `_run_sparing`.
    _permute = False
    _spared: Collection[AnyTask] = ()

    def __init__(self, *, step_limit: int = STEP_LIMIT) -> None:
        super().__init__()
        self.step_limit = step_limit
        self.task_source: Callable[[], Iterable[AnyTask]] | None = None
        self.must_check = False
        self.limit = math.inf

    @property
    def pending_timers(self) -> int:
        """The number of timers that are set and not cancelled."""
        return len(self._scheduled) - self._timer_cancelled_count

    def set_timers(self) -> list[asyncio.TimerHandle]:
        """Return the handles of the timers that are set, in no order."""
        return [handle for handle in self._scheduled if not handle.cancelled()]

    def timers(self) -> list[Timer]:
        """Return the timers that are set, in the order of their due times."""
        return sorted(Timer(each.when(), called_by(each)) for each in self.set_timers())

    def live_tasks(self) -> list[AnyTask]:
        """Return the tasks that have not ended, in creation order (see `task_source`)."""
        if self.task_source is None:
            return sorted(asyncio.all_tasks(self), key=_by_name)
        return [task for task in self.task_source() if not task.done()]

    def run_until_quiescent(self, horizon: float = 0.0) -> int:
        """Run until nothing is ready and no timer is due within `horizon` virtual seconds from now.

        Returns:
            The number of iterations; the clock stands at the last timer that was due.

        Raises:
            LivelockError: the loop is not quiescent after `step_limit` iterations.
        """
        until = self._now + horizon
        if not self._next(until):
            return 0
        iterations = self._drive(until, self.step_limit)
        if iterations == self.step_limit and self._next(until):
            raise LivelockError(iterations, self._now, self._ready)
        return iterations

    def advance(self, seconds: float) -> int:
        """Run everything due within `seconds`, and set the clock exactly that much later."""
        until = self._now + seconds
        iterations = self.run_until_quiescent(seconds)
        self._now = until
        return iterations

    def turn(self, iterations: int = 1) -> None:
        """Run so many iterations at the present time, or fewer if one finds nothing ready."""
        self._drive(self._now, iterations)

    def close(self) -> None:
        """Close the loop and drop the references back to it."""
        super().close()
        self._task_factory = None
        self.task_source = None

    def dispose(self, rounds: int = 8) -> list[AnyTask]:
        """Cancel the live tasks in creation order, run until the loop is quiescent, and close it.

        This cannot hang, and the clock does not move.

        Args:
            rounds: number of times that a task is cancelled, at most.

        Returns:
            The tasks that did not end. They stay suspended, so that a report can say where; give
            them to `close_coroutines` afterwards if their clean-up awaits again.
        """
        if self._closed:
            return []
        try:
            left = self._end_tasks(rounds)
        finally:
            self.close()
        for task in left:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        return left

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.dispose()

    def _end_tasks(self, rounds: int) -> list[AnyTask]:
        left = self.live_tasks()
        for _ in range(rounds):
            if not (left or self._ready or self._asyncgens):
                break
            _cancel(left)
            if self._asyncgens and not left:
                left = [self.create_task(self.shutdown_asyncgens())]
            self._drive(self._now, _ROUND)
            left = self.live_tasks()
        return left

    def _run_once(self) -> None:
        """Run one iteration of `run_forever`, in place of asyncio's, which waits for sockets."""
        if not self._next(self._now if self._stopping else math.inf) and not self._stopping:
            raise DeadlockError(self.live_tasks())
        self._iterate(self._now, 1)

    def _next(self, until: float) -> bool:
        """Make ready the callbacks of the next iteration; return True if there are any."""
        return bool(self._ready or self._scheduled) and self._wake(until)

    def _drive(self, until: float, limit: int) -> int:
        """Run as the running loop until nothing is due by `until`; return the iterations.

        Args:
            until: virtual time.
            limit: number of iterations, at most.
        """
        if self._closed:
            self._check_closed()
        if self._thread_id is not None or _get_running_loop() is not None:
            self._check_running()
        hooks = sys.get_asyncgen_hooks()
        self._thread_id = threading.get_ident()
        sys.set_asyncgen_hooks(self._asyncgen_firstiter_hook, self._asyncgen_finalizer_hook)
        _set_running_loop(self)
        try:
            return self._iterate(until, limit)
        finally:
            _set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)
            self._thread_id = None
            self._stopping = False

    # Longer than a function should be: a call more in it is paid for each callback that runs.
    def _iterate(self, until: float, limit: int) -> int:  # noqa: C901, PLR0912, PLR0915
        ready: Any = self._ready
        timers: Any = self._scheduled
        iterations = 0
        permute, spared, popleft = self._permute, self._spared, self._ready.popleft
        try:
            while iterations < limit:
                if self.must_check:
                    if not self._next(until):
                        break
                elif timers:
                    # While the next timer is ahead, only an empty queue concerns it.
                    head = timers[0]
                    if not ready:
                        # `_wake` in short, for the usual case of one timer.
                        when = head._when
                        if (
                            len(timers) == 1
                            and self._now < when <= until
                            and when <= self.limit
                            and not head._cancelled
                        ):
                            self._now = when
                            ready.append(timers.pop())
                            head._scheduled = False
                        elif not self._wake(until):
                            break
                    elif head._when <= self._now:
                        self._wake(until)
                elif not ready:
                    break
                iterations += 1
                left = len(ready)
                while left:
                    left -= 1
                    handle: Any = popleft()
                    if handle._cancelled:
                        continue
                    if permute and ready:
                        handle = self._choose(handle)
                    # The work of `handle._run()` with one call less, and the usual arguments first.
                    args = handle._args
                    try:
                        if spared:
                            self._run_sparing(handle)
                        elif not args:
                            handle._context.run(handle._callback)
                        elif len(args) == 1:
                            handle._context.run(handle._callback, args[0])
                        elif handle._callback is WAKES_SLEEPER:
                            if not args[0].cancelled():
                                args[0].set_result(args[1])
                        else:
                            handle._context.run(handle._callback, *args)
                    except (SystemExit, KeyboardInterrupt):
                        raise
                    except BaseException as exc:  # noqa: BLE001 - as asyncio does
                        complain(handle, exc)
        finally:
            # A cancelled task's traceback holds this frame; the frame must not hold the task.
            handle = head = args = None
        return iterations

    def _wake(self, until: float) -> bool:
        """Make the due timers ready; return True if anything is ready.

        If nothing else is ready, the clock jumps to the next timer, but not beyond `until`.
        """
        ready, timers = self._ready, self._scheduled
        if (stale := self._timer_cancelled_count) > _STALE_TIMERS and 2 * stale > len(timers):
            # In place: `_iterate` refers to the list.
            timers[:] = [handle for handle in timers if not handle.cancelled()]
            heapify(timers)
            self._timer_cancelled_count = 0
        due = 0
        while timers:
            head: Any = timers[0]
            if head._cancelled:
                self._timer_cancelled_count -= 1
            else:
                when = head._when
                if when > self._now:
                    if ready or when > until:
                        break
                    if when > self.limit:
                        self._pass_limit(when)
                        if ready:
                            break
                    self._now = when
                ready.append(head)
                due += 1
            heappop(timers)
            head._scheduled = False
        if due > 1:
            self._arrange(due)
        return bool(ready)

    def _choose(self, first: Any) -> Any:
        """Return the handle to run in place of `first`; called if `_permute` is set."""
        return first

    def _run_sparing(self, handle: Any) -> None:
        """Run a handle; called while `_spared` holds a task."""
        handle._run()

    def _pass_limit(self, when: float) -> None:
        """Look at the run before time jumps to `when`, which is beyond `limit`."""

    def _arrange(self, due: int) -> None:
        """Order the timers that are due, the last `due` in the ready queue; here, leave them."""


def _cancel(tasks: Iterable[AnyTask]) -> None:
    # A function of its own: a cancelled task's traceback holds the frames below it, and a local
    # name in one of them that refers to the task would close a cycle.
    for task in tasks:
        # `cancel` of the object that a task waits for is anybody's code, and may raise.
        with suppress(Exception):
            task.cancel()


def _by_name(task: AnyTask) -> tuple[int, str]:
    name = task.get_name()
    return len(name), name
