"""Ending leaked tasks and resources within a budget, so that a leak cannot hang the process.

A leak is reported first and ended afterwards, by the call that its owner would make: cancel, abort,
close.
"""

# A leaked task may refuse to end, and `asyncio.run` waits for every task that it has cancelled. So
# each step here is bounded, and a task that does not take part is removed from asyncio's view:
#
# 1. Resources are ended by `Resource.end`, which never waits.
# 2. Tasks are cancelled twice, each time with the whole budget to end: a task that swallows one
#    cancellation often ends by the next. The wait ends early when all have ended, or when the loop
#    is quiescent and nothing can arrive (`settle` without patience).
# 3. A task that survives both is given up. Its coroutine is closed by force, its wake-up is removed
#    from the future that it awaits (else the end of that future would step a closed coroutine), it
#    is removed from asyncio's list of tasks, its "destroyed but pending" warning is switched off,
#    and its scope forgets it. The object stays a pending task for ever, which nobody waits for. So
#    ends a task that cannot be cancelled, because `cancel` of the object that it awaits raises.
# 4. Leaked generators are closed, each within the budget.
#
# A coroutine that awaits in its clean-up makes `close` raise; a few more calls get most of them to
# their end.
#
# A task that survives is named together with the frame that swallowed the cancellation, which is
# the line to mend. It is found by a trace function, for as long as an exception takes from a future
# to the outermost frame: the last frame that a `CancelledError` reached before the task went on has
# caught it. asyncio offers nothing for this. `sys.settrace` is global, so a debugger or a coverage
# tool misses these iterations, and gets its own function back afterwards.
#
# A task may raise `SystemExit` or `KeyboardInterrupt` when it is cancelled. asyncio raises that out
# of the loop, so that the leak would end the program in place of the report. So while leaks are
# ended, `call_soon` of the loop is replaced: the steps of leaked tasks run inside a handler that
# notes such an exception and stops it there. A real Ctrl-C that arrives during such a step passes:
# it was not raised by a `raise` of the task.
#
# A leaked task may be a child of a task group whose host is the test, or a fixture. anyio's groups
# cancel their host when a child ends cancelled, and asyncio's when one ends with an exception, so
# that ending the leak would end the test, silently: the group takes the cancellation for its own.
# So the group is given a `_QuietTask` in place of the child: the same task to every set and
# dictionary, but one that ended without an exception.
#
# The bound does not hold for a task that blocks the thread instead of awaiting: nothing in the same
# thread can stop it.

import asyncio
import dis
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any
from weakref import WeakSet, WeakValueDictionary

from muxleak.checks.settle import settle
from muxleak.introspect.names import TASKS, attribute, is_a, safe_text
from muxleak.introspect.waiting import AnyTask, code_place, name_of, waiting_of
from muxleak.ledger.counters import TaskRecord

if TYPE_CHECKING:
    from muxleak.checks.report import Record

_ROUNDS = 2  # cancellations before a task is given up
_CLOSINGS = 10  # calls of `close` for a coroutine that awaits in its clean-up
_EXITS = (SystemExit, KeyboardInterrupt)
_RAISE = dis.opmap["RAISE_VARARGS"]
_ITERATIONS = 3  # of the loop, for an exception to get from a future to the outermost frame


# Kinds that may outlive their end, in a thread or by a peer that takes no data.
_LEFT = frozenset({"thread", "job", "transport", "server"})
# Resources that were reported and could not be ended, by id.
_given_up: WeakValueDictionary[int, Any] = WeakValueDictionary()


def given_up(record: "Record") -> bool:
    """Return True if `release` had to leave a resource alive, so that it was reported before."""
    thing = record.thing() if _given_up else None
    return thing is not None and record.kind in _LEFT and _given_up.get(id(thing)) is thing


async def release(records: Sequence["Record"], budget: float) -> list[str]:
    """End leaked tasks and resources.

    The task that calls this is left out.

    Args:
        records: tasks and resources, in creation order.
        budget: seconds for each of the two rounds of cancelling, and for each leaked generator.

    Returns:
        A line for each place where tasks did not end when they were cancelled first, or where they
        raised an exception that would end the program.
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
    with _exits_stopped([record.task for record in tasks]) as lines:
        groups = _quieten([record.task for record in tasks], lines)
        survived = await _cancel([record.task for record in tasks], budget)
        lines.extend(_line(task, reason) for task, reason in survived.items())
        for record in tasks:
            if not record.task.done():
                _give_up(record)
                for forget in groups.get(record.task, ()):
                    with suppress(Exception):
                        forget(record.task)
        lines.extend(await _close_generators(records, budget))
        await asyncio.sleep(0)
    for record in records:
        if record.kind in _LEFT and record.thing() is not None:
            with suppress(TypeError):
                _given_up[id(record.thing())] = record.thing()
    notes = Counter(lines)
    return [f"{count} x {line}" if count > 1 else line for line, count in notes.items()]


async def _cancel(tasks: list[AnyTask], budget: float) -> dict[AnyTask, str]:
    """Cancel tasks, at most twice.

    Returns:
        The tasks that survived at least once, each with the reason as a clause.
    """
    survived: dict[AnyTask, str] = {}
    for _ in range(_ROUNDS):
        left = [task for task in tasks if not task.done()]
        if not left:
            break
        refused: dict[AnyTask, str] = {}
        with _frames_reached(left) as caught:
            for task in left:
                # `cancel` of the object that a task awaits is anybody's code.
                try:
                    task.cancel()
                except Exception as error:  # noqa: BLE001 - the others must end all the same
                    refused[task] = f"could not be cancelled: {safe_text(error)}"
            for _ in range(_ITERATIONS):
                await asyncio.sleep(0)
        await settle(limit=budget, horizon=budget, until=_all_done(left), patient=False)
        for task in left:
            if not task.done():
                place = caught.get(task, waiting_of(task).place)
                survived[task] = refused.get(task, f"swallowed its cancellation in {place}")
    return survived


def _all_done(tasks: list[AnyTask]) -> Callable[[], bool]:
    return lambda: all(task.done() for task in tasks)


@contextmanager
def _frames_reached(tasks: Iterable[AnyTask]) -> Iterator[dict[AnyTask, str]]:
    """Trace the last frame that a cancellation reaches in each task.

    If the task goes on, that frame has caught it.
    """
    wanted, caught = set(tasks), dict[AnyTask, str]()

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        frame.f_trace_lines = False
        if event == "exception" and issubclass(argument[0], asyncio.CancelledError):
            task = asyncio.current_task()
            # A frame of asyncio (a lock, a queue) is overwritten by that of its caller.
            if task in wanted:
                caught[task] = code_place(frame.f_code, frame.f_lineno)
        return trace

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        yield caught
    finally:
        sys.settrace(previous)


@contextmanager
def _exits_stopped(tasks: Iterable[AnyTask]) -> Iterator[list[str]]:
    """Keep exceptions of tasks that would end the loop from doing so; give a line for each."""
    loop, wanted, lines = asyncio.get_running_loop(), set(tasks), list[str]()
    original, replaced = loop.call_soon, vars(loop).get("call_soon")

    def call_soon(callback: Any, *args: Any, **settings: Any) -> asyncio.Handle:
        task = getattr(callback, "__self__", None)
        if isinstance(task, TASKS) and task in wanted:
            return original(step, task, callback, *args, **settings)
        return original(callback, *args, **settings)

    def step(task: AnyTask, callback: Callable[..., Any], *args: Any) -> None:
        try:
            callback(*args)
        except _EXITS as error:
            if _is_ctrl_c(error):
                raise
            lines.append(_exit_line(name_of(task), error))
            task.exception()  # asyncio need not report it a second time

    # The handles that are scheduled keep their step, so the methods may be put back at any time.
    loop.call_soon = call_soon  # type: ignore[method-assign, assignment]
    try:
        yield lines
    finally:
        if replaced is None:
            del loop.call_soon
        else:
            loop.call_soon = replaced  # type: ignore[method-assign]


def _is_ctrl_c(error: BaseException) -> bool:
    """Return True if a signal raised the exception, not a statement of the task."""
    place = _innermost(error)
    if place is None or not isinstance(error, KeyboardInterrupt):
        return False
    code = place.tb_frame.f_code
    by_runner = code.co_filename == asyncio.runners.__file__
    return by_runner or code.co_code[place.tb_lasti] != _RAISE


def _innermost(error: BaseException) -> TracebackType | None:
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place


def _exit_line(name: str, error: BaseException) -> str:
    place = _innermost(error)
    where = f" in {code_place(place.tb_frame.f_code, place.tb_lineno)}" if place else ""
    return f"{name} raised {safe_text(error)}{where} when it was ended; it was stopped there"


class _QuietTask:
    """A child task as its group is to see it: ended, without a result and without an exception."""

    def __init__(self, task: AnyTask) -> None:
        self._task = task

    def __hash__(self) -> int:
        return hash(self._task)

    def __eq__(self, other: object) -> bool:
        return other is self._task or other is self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def done(self) -> bool:
        """Return True."""
        return True

    def cancelled(self) -> bool:
        """Return False."""
        return False

    def exception(self) -> None:
        """Return None."""

    def result(self) -> None:
        """Return None."""


def _quieten(
    tasks: Iterable[AnyTask], lines: list[str]
) -> dict[AnyTask, list[Callable[[AnyTask], None]]]:
    """Keep task groups from seeing that their children were ended.

    Args:
        tasks: those that are about to be ended.
        lines: is given a line for each that ends with an exception, which its group does not see.

    Returns:
        The functions by which the groups of each task forget it.
    """
    found: dict[AnyTask, list[Callable[[AnyTask], None]]] = {}
    for task in tasks:
        for callback, context in list(getattr(task, "_callbacks", None) or ()):
            if _is_of_group(callback, task):
                forget = partial(_forget_quietly, callback, lines)
                task.remove_done_callback(callback)
                task.add_done_callback(forget, context=context)
                found.setdefault(task, []).append(forget)
    return found


def _is_of_group(callback: Any, task: AnyTask) -> bool:
    """Return True for the callback by which a group, an object with `_tasks`, sees a child end."""
    cells = attribute(callback, "__closure__") or ()
    owners = [
        attribute(callback, "__self__"),
        *(attribute(cell, "cell_contents") for cell in cells),
    ]
    return any(task in _children(owner) for owner in owners)


def _children(owner: Any) -> Collection[Any]:
    tasks = attribute(owner, "_tasks")
    return tasks if is_a(tasks, (set, WeakSet)) else ()


def _forget_quietly(callback: Callable[[Any], object], lines: list[str], task: AnyTask) -> None:
    error = None if not task.done() or task.cancelled() else task.exception()
    if error is not None and not isinstance(error, _EXITS):
        lines.append(f"{name_of(task)} raised {safe_text(error)} when it was ended")
    callback(_QuietTask(task))


def _line(task: AnyTask, reason: str) -> str:
    end = "it ended when cancelled again" if task.done() else "it was given up"
    return f"{name_of(task)} {reason}; {end}"


def _give_up(record: TaskRecord) -> None:
    """Close the coroutine of a task that does not end, and remove the task from asyncio's view."""
    task = record.task
    asyncio._unregister_task(task)  # noqa: SLF001 - documented, despite its name
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 - it is given up on purpose
    waiter = attribute(task, "_fut_waiter")
    with suppress(Exception):  # it may be of any class
        for callback, _ in attribute(waiter, "_callbacks") or ():
            if attribute(callback, "__self__") is task:
                waiter.remove_done_callback(callback)
    close_coroutines([task])
    if record.scope is not None:
        record.scope.give_up(record)


async def _close_generators(records: Sequence["Record"], budget: float) -> list[str]:
    lines = []
    for record in records:
        generator = record.thing() if record.kind == "generator" else None
        if generator is None:
            continue
        try:
            async with asyncio.timeout(budget):
                await generator.aclose()
        except _EXITS as error:
            if _is_ctrl_c(error):
                raise
            lines.append(_exit_line(record.name, error))
        except Exception:  # noqa: BLE001, S110 - its clean-up may fail in any way
            pass
    return lines


def close_coroutines(tasks: Iterable[AnyTask]) -> None:
    """Close the coroutines of abandoned tasks, so that freeing them gives no warning.

    A coroutine that awaits again in its clean-up is closed a few times.

    Args:
        tasks: pending, and of a loop that will not run them any more.
    """
    for task in tasks:
        coroutine = task.get_coro()
        for _ in range(_CLOSINGS):
            with suppress(BaseException):
                coroutine.close()
                break
