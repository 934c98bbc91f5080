"""A loop that also chooses among tasks: which of the woken ones runs, and where a cancel falls.

Only the wake-ups of tasks change places. A task has at most one pending, so its own steps keep
their order, and so does every other callback. The declared cancellations come from callbacks like
any other's, so they are legal on every loop; permuted wake-ups are not, on a stock one.
"""

from types import BuiltinMethodType
from typing import Any

from muxleak.introspect.waiting import AnyTask, name_of
from muxleak.sim.choices import Choices
from muxleak.sim.loop import SimLoop, make_task
from muxleak.sim.settings import Settings
from muxleak.sim.trace import Trace

_WINDOW = 16  # wake-ups looked at when one is chosen, so that a long queue stays cheap
_CANCELS = 5  # never; this iteration; the next; the one after; together with the next wake-up
_WITH_WAKEUP = _CANCELS - 1
# A test pins both names on every supported Python; asyncio has no public ones.
_RUNS_TASK = {"TaskStepMethWrapper", "task_wakeup"}


class ChoosingLoop(SimLoop):
    """A simulated loop for `Settings.wakeups` and `Settings.cancel`."""

    def __init__(self, choices: Choices, settings: Settings, trace: Trace | None = None) -> None:
        super().__init__(choices, settings, trace)
        if settings.cancel:
            self._task_factory = make_task

    @property
    def _permute(self) -> bool:  # type: ignore[override]
        return self._state.settings.wakeups

    @property
    def _spared(self) -> dict[AnyTask, bool]:  # type: ignore[override]
        return self._state.spared

    def adopt(self, task: AnyTask) -> None:
        """Take note of a task that was made, and of whether it is cancellable."""
        super().adopt(task)
        names = self._state.settings.cancel
        if names and name_of(task).endswith(names):
            self._spared[task] = False

    def _choose(self, first: Any) -> Any:
        """One of the woken tasks; the one whose turn it was takes its place in the queue."""
        task = _task_of(first)
        if task is None:
            return first
        ready: Any = self._ready
        found, tasks, places = [first], [task], [-1]
        for index, each in enumerate(ready):
            task = None if each._cancelled else _task_of(each)  # noqa: SLF001 - as above
            if task is not None:
                found.append(each)
                tasks.append(task)
                places.append(index)
                if len(found) == _WINDOW:
                    break
        if len(found) == 1:
            return first
        chosen = self.choices.wake(tasks)
        if chosen:
            ready[places[chosen]] = first
        return found[chosen]

    def _run_sparing(self, handle: Any) -> None:
        """Run a handle; if it is a step of a cancellable task, consider cancelling that."""
        task = _task_of(handle)
        if task not in self._spared:
            handle._run()  # noqa: SLF001 - what asyncio's own loop does
            return
        if self._spared[task]:
            del self._spared[task]
            task.cancel()
            handle._run()  # noqa: SLF001 - the same
        else:
            handle._run()  # noqa: SLF001 - the same
            self._consider(task)

    def _consider(self, task: AnyTask) -> None:
        """Decide whether a cancellable task is cancelled at the await it has come to."""
        if task.done():
            del self._spared[task]
            return
        chosen = self.choices.decide("cancel", _CANCELS)
        if chosen == _WITH_WAKEUP:
            self._spared[task] = True
        elif chosen:
            del self._spared[task]
            _cancel_later(self, task, chosen)


def _task_of(handle: Any) -> Any:
    """The task whose next step a handle runs, if it does."""
    # What kind of callable runs a task, asyncio tells nobody but by name.
    callback = handle._callback  # noqa: SLF001 - a handle tells it no other way
    kind = type(callback)
    name = callback.__name__ if kind is BuiltinMethodType else kind.__name__
    return callback.__self__ if name in _RUNS_TASK else None


def _cancel_later(loop: SimLoop, task: AnyTask, iterations: int) -> None:
    if iterations:
        loop.call_soon(_cancel_later, loop, task, iterations - 1)
    else:
        task.cancel()
