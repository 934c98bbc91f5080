"""A loop that also chooses among tasks: which of the woken ones runs, and where a cancel falls.

Only the wake-ups of tasks change places. A task has at most one pending, so its own steps keep
their order, and so does every other callback. The declared cancellations come from callbacks like
any other's, so they are legal on every loop; permuted wake-ups are not, on a stock one.
"""

import asyncio
from collections.abc import Callable
from contextvars import Context
from types import BuiltinMethodType
from typing import Any, TypeVarTuple

from harness.fence import AnyTask
from harness.handles import SoonHandle
from harness.sim.choices import Choices
from harness.sim.loop import SimLoop, make_task
from harness.sim.settings import Settings
from harness.sim.trace import Trace
from harness.waiting import name_of

_WINDOW = 16  # wake-ups looked at when one is chosen, so that a long queue stays cheap
_CANCELS = 5  # never; this iteration; the next; the one after; together with the next wake-up
_WITH_WAKEUP = _CANCELS - 1
# A test pins both names on every supported Python; asyncio has no public ones.
_RUNS_TASK = {"TaskStepMethWrapper", "task_wakeup"}

_Args = TypeVarTuple("_Args")


class _Wake(SoonHandle):
    """A handle that runs the next step of a task."""

    __slots__ = ()

    @property
    def task(self) -> AnyTask:
        """Whose."""
        return self._callback.__self__  # type: ignore[union-attr,no-any-return]


class ChoosingLoop(SimLoop):
    """A simulated loop for `Settings.wakeups` and `Settings.cancel`."""

    def __init__(self, choices: Choices, settings: Settings, trace: Trace | None = None) -> None:
        super().__init__(choices, settings, trace)
        self._permute = settings.wakeups
        self._names = settings.cancel
        # Tasks that may still be cancelled, and whether that falls together with the next wake-up.
        self._spared: dict[AnyTask, bool] = {}
        if self._names:
            self._task_factory = make_task

    def adopt(self, task: AnyTask) -> None:
        """Take note of a task that was made, and of whether it is cancellable."""
        super().adopt(task)
        if self._names and name_of(task).endswith(self._names):
            self._spared[task] = False

    def call_soon(
        self, callback: Callable[[*_Args], object], *args: *_Args, context: Context | None = None
    ) -> asyncio.Handle:
        """As the loop's own; a handle that runs a task is marked."""
        if self._debug or self._closed:
            return super().call_soon(callback, *args, context=context)
        handle: asyncio.Handle
        # Typed loosely: what kind of callable it is, asyncio tells nobody.
        kind: Any = type(callback)
        name = callback.__name__ if kind is BuiltinMethodType else kind.__name__
        if name in _RUNS_TASK:
            handle = wake = _Wake(callback, args, self, context)
            if self._spared and self._spared.get(wake.task):
                del self._spared[wake.task]
                wake.task.cancel()
        else:
            handle = SoonHandle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def close(self) -> None:
        """Close the loop and forget the tasks."""
        super().close()
        self._spared.clear()

    def _run_ready(self) -> None:
        ready, permute, spared = self._ready, self._permute, self._spared
        try:
            for _ in range(len(ready)):
                handle: Any = ready.popleft()
                if handle._cancelled:  # noqa: SLF001 - what asyncio's own loop does
                    continue
                if permute and ready and type(handle) is _Wake:
                    handle = self._choose(handle)
                handle._run()  # noqa: SLF001 - the same
                if spared and type(handle) is _Wake and handle.task in spared:
                    self._consider(handle.task)
        finally:
            # Else a cancelled task's traceback holds this frame, and the frame holds the task.
            handle = None

    def _choose(self, first: _Wake) -> _Wake:
        """One of the woken tasks; the one whose turn it was takes its place in the queue."""
        ready: Any = self._ready
        found = [first]
        places = [-1]
        for index, each in enumerate(ready):
            if type(each) is _Wake and not each._cancelled:  # type: ignore[attr-defined]  # noqa: SLF001 - as above
                found.append(each)
                places.append(index)
                if len(found) == _WINDOW:
                    break
        if len(found) == 1:
            return first
        chosen = self.choices.wake([each.task for each in found])
        if chosen:
            ready[places[chosen]] = first
        return found[chosen]

    def _consider(self, task: AnyTask) -> None:
        """Decide, of a cancellable task that has come to an await, whether it is cancelled there."""
        if task.done():
            del self._spared[task]
            return
        chosen = self.choices.decide("cancel", _CANCELS)
        if chosen == _WITH_WAKEUP:
            self._spared[task] = True
        elif chosen:
            del self._spared[task]
            _cancel_later(self, task, chosen)


def _cancel_later(loop: SimLoop, task: AnyTask, iterations: int) -> None:
    if iterations:
        loop.call_soon(_cancel_later, loop, task, iterations - 1)
    else:
        task.cancel()
