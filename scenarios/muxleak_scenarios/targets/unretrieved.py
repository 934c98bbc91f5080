"""Exceptions that nobody retrieves, without waiting for the garbage collector.

asyncio tells of them when their task is collected. A task whose exception's traceback leads back to
it is in a cycle, so that it is told of at any time, or in another run; here they are kept.
"""

from __future__ import annotations

import asyncio
from typing import Any


class Failures:
    """The tasks of a loop that have ended with an exception; made by its task factory.

    To be made before a `Ledger` is installed, which counts what the factory makes.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._failed: list[asyncio.Task[Any]] = []
        loop.set_task_factory(self._make)

    def unretrieved(self) -> list[str]:
        """Say which exceptions nobody has looked at; they count as retrieved then."""
        failed = filter(_is_unretrieved, self._failed)
        return [f"{_name(task)}: never retrieved: {task.exception()!r}" for task in failed]

    def _make(self, loop: asyncio.AbstractEventLoop, coro: Any, **settings: Any) -> Any:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **settings)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        if _is_unretrieved(task):
            self._failed.append(task)


def _is_unretrieved(task: asyncio.Task[Any]) -> bool:
    # What asyncio's own destructor asks; `exception` would count as looking.
    return bool(task._log_traceback)  # noqa: SLF001


def _name(task: asyncio.Task[Any]) -> str:
    return str(getattr(task.get_coro(), "__qualname__", "task"))
