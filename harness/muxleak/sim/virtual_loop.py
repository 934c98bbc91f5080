"""An asyncio event loop on virtual time, without sockets, that knows exactly when it is at rest.

The ready queue stays first in, first out, as asyncio documents. Nothing here waits: when no
callback is ready, the clock jumps to the next timer. Whatever would leave the simulation is refused
by name. The members of `BaseEventLoop` that this relies on are pinned by a test.
"""

# What a handle is, it tells in private members only; asyncio's own loop reads the same.
# ruff: noqa: SLF001

import asyncio
import math
import sys
import threading
from asyncio.events import _set_running_loop
from collections.abc import Callable, Collection, Iterable
from heapq import heapify, heappop
from typing import Any, NamedTuple, Self

from muxleak.introspect import sites
from muxleak.introspect.waiting import AnyTask, called_by
from muxleak.sim.errors import DeadlockError, LivelockError
from muxleak.sim.scheduling import WAKES_SLEEPER, SchedulingLoop, complain

sites.end_at(__file__)  # below this loop's frames stands whoever drives it

STEP_LIMIT = 100_000
_ROUND = 1_000  # iterations that one round of cancelling may take
_STALE_TIMERS = 100  # cancelled timers kept before the heap is swept, as in asyncio


class Timer(NamedTuple):
    """A timer that is set: its due time in virtual seconds, and what it calls."""

    when: float
    what: str


class VirtualLoop(SchedulingLoop):
    """A deterministic loop; time starts at 0.0 and passes only by jumping to timers.

    Attributes:
        step_limit: iterations that `run_until_quiescent` and `advance` may take.
        task_source: gives the live tasks in creation order; a `Ledger` sets it. Without it, tasks
            are taken by name, which is creation order as long as they have asyncio's default names.
        look: whether the next iteration has to look at more than the ready queue and the timers.
    """

    is_virtual = True  # for `settle`: nothing arrives but by the ready queue and the timers
    # What loops with a choice among what is ready set, see `_choose` and `_run_sparing`.
    _permute = False
    _spared: Collection[AnyTask] = ()

    def __init__(self, *, step_limit: int = STEP_LIMIT) -> None:
        super().__init__()
        self.step_limit = step_limit
        self.task_source: Callable[[], Iterable[AnyTask]] | None = None
        self.look = False

    @property
    def pending_timers(self) -> int:
        """How many timers are set and not cancelled."""
        return len(self._scheduled) - self._timer_cancelled_count

    def set_timers(self) -> list[asyncio.TimerHandle]:
        """The handles of the timers that are set, in no order."""
        return [handle for handle in self._scheduled if not handle.cancelled()]

    def timers(self) -> list[Timer]:
        """The timers that are set, in the order in which they are due."""
        return sorted(Timer(each.when(), called_by(each)) for each in self.set_timers())

    def live_tasks(self) -> list[AnyTask]:
        """The tasks that have not ended, in creation order (see `task_source`)."""
        if self.task_source is None:
            return sorted(asyncio.all_tasks(self), key=_by_name)
        return [task for task in self.task_source() if not task.done()]

    def run_until_quiescent(self, horizon: float = 0.0) -> int:
        """Run until nothing is ready and no timer is due within `horizon` virtual seconds from now.

        Returns:
            The number of iterations; the clock stands at the last timer that was due.

        Raises:
            LivelockError: not at rest after `step_limit` iterations.
        """
        until = self._now + horizon
        if not self._next(until):
            return 0
        iterations = self._drive(until, self.step_limit)
        if iterations == self.step_limit and self._next(until):
            raise LivelockError(iterations, self._now, self._ready)
        return iterations

    def advance(self, seconds: float) -> int:
        """Run everything due within `seconds`; the clock then stands exactly that much later."""
        until = self._now + seconds
        iterations = self.run_until_quiescent(seconds)
        self._now = until
        return iterations

    def turn(self, iterations: int = 1) -> None:
        """Run exactly so many iterations at the present time.

        Once one of them is empty the rest are too, and are not gone through.
        """
        self._drive(self._now, iterations)

    def close(self) -> None:
        """Close the loop and drop what refers back to it."""
        super().close()
        self._task_factory = None
        self.task_source = None

    def dispose(self, rounds: int = 8) -> list[AnyTask]:
        """Cancel what lives, in creation order, at most `rounds` times, run to rest, and close.

        Cannot hang. The clock does not move.

        Returns:
            The tasks that would not end, suspended as they are, so that a report can say where;
            give them to `close_coroutines` afterwards if their clean-up awaits again.
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
        """One iteration of `run_forever`, in place of the one that waits for sockets."""
        if not self._next(self._now if self._stopping else math.inf) and not self._stopping:
            raise DeadlockError(self.live_tasks())
        self._iterate(self._now, 1)

    def _next(self, until: float) -> bool:
        """Make ready what the next iteration runs; is there anything?"""
        return bool(self._ready or self._scheduled) and self._wake(until)

    def _drive(self, until: float, limit: int) -> int:
        """Be the running loop until nothing is due by `until`, for at most `limit` iterations."""
        self._check_closed()
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

    # Longer than a function should be: every call in it is paid for each callback that runs.
    def _iterate(self, until: float, limit: int) -> int:  # noqa: C901, PLR0912, PLR0915
        ready: Any = self._ready
        timers: Any = self._scheduled
        iterations = 0
        permute, spared, popleft = self._permute, self._spared, self._ready.popleft
        try:
            while iterations < limit:
                if self.look:
                    if not self._next(until):
                        break
                elif timers:
                    # While the next timer is ahead, only an empty queue has to look at it.
                    head = timers[0]
                    if not ready:
                        # `_wake` in short, for the usual case of one timer.
                        when = head._when
                        if len(timers) == 1 and self._now < when <= until and not head._cancelled:
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
                    # What its `_run` does, in one call less, and quicker for the usual arguments.
                    args = handle._args
                    try:
                        if spared:
                            self._run_sparing(handle)
                        elif len(args) == 1:
                            handle._context.run(handle._callback, args[0])
                        elif args:
                            if handle._callback is WAKES_SLEEPER:
                                if not args[0].cancelled():
                                    args[0].set_result(args[1])
                            else:
                                handle._context.run(handle._callback, *args)
                        else:
                            handle._context.run(handle._callback)
                    except (SystemExit, KeyboardInterrupt):
                        raise
                    except BaseException as exc:  # noqa: BLE001 - as asyncio does
                        complain(handle, exc)
        finally:
            # Else a cancelled task's traceback holds this frame, and the frame holds the task.
            handle = head = args = None
        return iterations

    def _wake(self, until: float) -> bool:
        """Make the due timers ready, jumping to the next one if nothing else is; is anything?"""
        ready, timers = self._ready, self._scheduled
        if (stale := self._timer_cancelled_count) > _STALE_TIMERS and 2 * stale > len(timers):
            # In place: `_iterate` holds on to the list.
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
                    self._now = when
                ready.append(head)
                due += 1
            heappop(timers)
            head._scheduled = False
        if due > 1:
            self._arrange(due)
        return bool(ready)

    def _choose(self, first: Any) -> Any:
        """The handle to run in place of `first`, where `_permute` is set."""
        return first

    def _run_sparing(self, handle: Any) -> None:
        """Run a handle while there is anything in `_spared`."""
        handle._run()

    def _arrange(self, due: int) -> None:
        """Order the timers that are due, the last `due` in the ready queue: left as they are."""


def _cancel(tasks: Iterable[AnyTask]) -> None:
    # A function of its own: a cancelled task's traceback holds the frames that were below it, and a
    # name in one of them that still holds the task would close a cycle.
    for task in tasks:
        task.cancel()


def _by_name(task: AnyTask) -> tuple[int, str]:
    name = task.get_name()
    return len(name), name
