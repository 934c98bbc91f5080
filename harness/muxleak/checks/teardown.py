"""Ending what leaked, within a budget: nothing here waits for a task that will not end.

A leak is reported first and ended afterwards. What ends it is what its owner would do: cancel,
abort, close. A task that survives two cancellations is given up: it is closed by force, taken off
asyncio's list (so that `asyncio.run` does not wait for it) and named, with the frame that swallowed
the cancellation. A task that blocks the thread instead of awaiting cannot be bounded.
"""

import asyncio
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

from muxleak.checks.settle import settle
from muxleak.introspect.waiting import AnyTask, code_place, name_of, waiting_of
from muxleak.ledger.counters import TaskRecord

if TYPE_CHECKING:
    from muxleak.checks.report import Record

_ROUNDS = 2  # cancellations before a task is given up
_PERSISTENCE = 10  # times that a coroutine which awaits in its clean-up is closed
_TURNS = 3  # iterations that an exception may take from a future to the outermost frame


async def release(records: Sequence["Record"], budget: float) -> list[str]:
    """End what leaked.

    Args:
        records: tasks and resources, in creation order.
        budget: seconds that each round of cancelling may take.

    Returns:
        A line for each task that did not end when it was cancelled.
    """
    own = asyncio.current_task()
    tasks = [
        record for record in records if isinstance(record, TaskRecord) and record.task is not own
    ]
    for record in records:
        end = getattr(record, "end", None)
        if end is not None:
            with suppress(Exception):
                end()
    swallowed = await _cancel([record.task for record in tasks], budget)
    notes = Counter(_line(task, where) for task, where in swallowed.items())
    for record in tasks:
        if not record.task.done():
            _give_up(record)
    await _close_generators(records, budget)
    await asyncio.sleep(0)
    return [f"{count} x {line}" if count > 1 else line for line, count in notes.items()]


async def _cancel(tasks: list[AnyTask], budget: float) -> dict[AnyTask, str]:
    """Cancel, at most twice; the tasks that survived the first time, each with who caught it."""
    swallowed: dict[AnyTask, str] = {}
    for _ in range(_ROUNDS):
        left = [task for task in tasks if not task.done()]
        if not left:
            break
        with _catchers(left) as caught:
            for task in left:
                task.cancel()
            for _ in range(_TURNS):
                await asyncio.sleep(0)
        await settle(limit=budget, horizon=budget, until=_all_done(left), patient=False)
        for task in left:
            if not task.done():
                swallowed[task] = caught.get(task, waiting_of(task).place)
    return swallowed


def _all_done(tasks: list[AnyTask]) -> Callable[[], bool]:
    return lambda: all(task.done() for task in tasks)


@contextmanager
def _catchers(tasks: Iterable[AnyTask]) -> Iterator[dict[AnyTask, str]]:
    """Notes, for each task, the last frame that a cancellation reached.

    If the task goes on, that frame caught it. A debugger's or a coverage tool's own trace function
    is put back afterwards; it misses these few iterations.
    """
    wanted, caught = set(tasks), dict[AnyTask, str]()

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        frame.f_trace_lines = False
        if event == "exception" and issubclass(argument[0], asyncio.CancelledError):
            task = asyncio.current_task()
            # A frame of asyncio (a lock, a queue) passes it on, or is about to.
            if task in wanted:
                caught[task] = code_place(frame.f_code, frame.f_lineno)
        return trace

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        yield caught
    finally:
        sys.settrace(previous)


def _line(task: AnyTask, where: str) -> str:
    end = "it ended when cancelled again" if task.done() else "it was given up"
    return f"{name_of(task)} swallowed its cancellation in {where}; {end}"


def _give_up(record: TaskRecord) -> None:
    task = record.task
    asyncio._unregister_task(task)  # noqa: SLF001 - public, says the documentation, despite its name
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 - abandoning it is the decision here
    waiter = getattr(task, "_fut_waiter", None)
    for callback, _ in getattr(waiter, "_callbacks", None) or ():
        # Else the end of what it waits for would wake a closed coroutine.
        if waiter is not None and getattr(callback, "__self__", None) is task:
            waiter.remove_done_callback(callback)
    close_coroutines([task])
    if record.scope is not None and task in record.scope.entries:
        task.remove_done_callback(record.scope.forget)
        record.scope.forget(task)


async def _close_generators(records: Sequence["Record"], budget: float) -> None:
    for record in records:
        generator = record.thing() if record.kind == "generator" else None
        if generator is None:
            continue
        with suppress(Exception):
            async with asyncio.timeout(budget):
                await generator.aclose()


def close_coroutines(tasks: Iterable[AnyTask]) -> None:
    """Close the coroutines of abandoned tasks, so that the garbage collector has nothing to say.

    For tasks that `VirtualLoop.dispose` gave back; one that awaits again in its clean-up is asked
    a few times.
    """
    for task in tasks:
        coroutine = task.get_coro()
        for _ in range(_PERSISTENCE):
            with suppress(BaseException):
                coroutine.close()
                break
