"""Tasks made by calling ``asyncio.Task``, which no task factory sees: aiohttp does, from 3.12 on.

While a ledger is installed, a class stands in its place that makes tasks of the real one and has
the ledgers of their loop take note. Whoever had imported the class before makes them unseen.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from muxleak.introspect.sites import Points, trace

TASK = asyncio.Task
"""The real class."""

Note = Callable[[Any, Any, Points], None]
"""Takes a task, the context it was given or None, and where it was made."""

_notes: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[Note, ...]] = WeakKeyDictionary()
_users = 0
_lock = threading.Lock()


class _Noting(type):
    """What makes the class that stands in for `TASK`, and is that to whoever asks."""

    def __call__(cls, *args: Any, **settings: Any) -> Any:
        task = TASK(*args, **settings) if cls is _Task else super().__call__(*args, **settings)
        for note in _notes.get(task.get_loop(), ()):
            note(task, settings.get("context"), trace(2))
        return task

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, TASK) if cls is _Task else super().__instancecheck__(instance)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, TASK) if cls is _Task else super().__subclasscheck__(subclass)


class _Task(TASK[Any], metaclass=_Noting):
    """Stands in for `TASK`."""


for _name in ("__module__", "__name__", "__qualname__", "__doc__"):
    setattr(_Task, _name, getattr(TASK, _name))


def install(loop: asyncio.AbstractEventLoop, note: Note) -> None:
    """Have ``note`` called for every task of ``loop`` that is made so."""
    global _users  # noqa: PLW0603 - one process, one class
    with _lock:
        _notes[loop] = (*_notes.get(loop, ()), note)
        _users += 1
        if _users == 1:
            _put(TASK, _Task)


def remove(loop: asyncio.AbstractEventLoop | None, note: Note) -> None:
    """Undo one `install`; of a loop that is gone, only the hook."""
    global _users  # noqa: PLW0603 - as above
    with _lock:
        if loop is not None:
            left = tuple(each for each in _notes.pop(loop, ()) if each is not note)
            if left:
                _notes[loop] = left
        _users -= 1
        if not _users:
            _put(_Task, TASK)


def _put(expected: type, replacement: type) -> None:
    # What somebody else has put there stays.
    for module in (asyncio, asyncio.tasks):
        if module.Task is expected:
            module.Task = replacement  # type: ignore[attr-defined]
