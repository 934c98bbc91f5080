"""Finds exceptions that nobody retrieves, without the garbage collector."""

# asyncio logs such an exception when its task is destroyed. The traceback of the exception often
# leads back to the task, so that the two are in a cycle, and the message comes with some later
# collection: perhaps in another run, perhaps never. A done callback keeps the failed tasks instead,
# so that each run sees its own. `unretrieved` retrieves what it reports, which silences asyncio.
#
# Most tasks have ended by the time that many others are made. So new tasks wait on a short list,
# and only those that outlive it get the done callback, which costs a turn of the loop.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from muxleak.ledger.task_class import TASK

if TYPE_CHECKING:
    import asyncio

_MANY = 64
"""New tasks above which those that have ended are dropped."""


class UnretrievedExceptions:
    """Keeps the tasks of a loop that ended with an exception which nobody has retrieved.

    It sets the loop's task factory. A `Ledger` must be installed afterwards, so that it counts the
    tasks which that factory makes.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._failed: list[asyncio.Task[Any]] = []
        self._new: list[asyncio.Task[Any]] = []
        loop.set_task_factory(self._make)

    def unretrieved(self) -> list[str]:
        """Return a description of each exception, and mark it as retrieved."""
        failed = filter(_is_unretrieved, [*self._failed, *self._new])
        return [f"{_name(task)}: never retrieved: {task.exception()!r}" for task in failed]

    def _make(self, loop: asyncio.AbstractEventLoop, coro: Any, **settings: Any) -> Any:
        # Not `asyncio.Task`: its stand-in would note the task, and the ledger's factory does.
        task: asyncio.Task[Any] = TASK(coro, loop=loop, **settings)
        self._new.append(task)
        if len(self._new) >= _MANY:
            new, self._new = self._new, []
            for each in new:
                if each.done():
                    self._done(each)
                else:
                    each.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        if _is_unretrieved(task):
            self._failed.append(task)


def _is_unretrieved(task: asyncio.Task[Any]) -> bool:
    # The attribute that the task's own destructor reads. Calling `exception` would retrieve it.
    return bool(task._log_traceback)  # noqa: SLF001


def _name(task: asyncio.Task[Any]) -> str:
    return str(getattr(task.get_coro(), "__qualname__", "task"))
