"""Tasks made by calling ``asyncio.Task``, which no task factory sees: aiohttp does, from 3.12 on.

While a ledger is installed, another class stands in for ``asyncio.Task``. It makes tasks of the
real class and notifies the ledgers of their loop.
"""

# `asyncio.Task` is a type written in C, so its methods cannot be replaced. The names in `asyncio`
# and `asyncio.tasks` can be bound to another class. Programs must not notice the stand-in:
#
# - Calling it gives an object of the real class, `TASK`, never of the stand-in. Its metaclass does
#   this, as `__new__` of a subclass would have to make an object of the subclass.
# - `isinstance` and `issubclass` answer as for `TASK`, also for tasks made before and after.
# - A subclass that a program defines in the meantime inherits from the stand-in. Its objects are of
#   that subclass, and are noted too. It stays usable after the stand-in is gone.
# - Name, module and docstring are those of `TASK`, so that its repr and annotations read the same.
#
# Code that imported the class by name before the ledger was installed keeps the real one; tasks it
# makes are not seen. The ledger's own factory calls `TASK` directly, so that a task is noted once;
# if a factory that it calls makes its task by `asyncio.Task`, the ledger's factory removes the note
# (see `factory`). If another tool has put a class there, the factory calls that one, as loops do.
#
# There is one class for the process but a ledger for each loop, so the notes are kept by loop, and
# the first ledger puts the class in place and the last one puts `TASK` back. Loops may run in
# several threads, hence the lock. A class that another tool has put in that place stays there,
# before and after.

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from muxleak.introspect.foreign import ByIdentity
from muxleak.introspect.sites import Points, trace

TASK = asyncio.Task
"""The real class."""

Note = Callable[[Any, Any, Points], None]
"""Takes a task, the context it was given or None, and its raw creation site."""

_notes: ByIdentity[tuple[Note, ...]] = ByIdentity()
_users = 0
_lock = threading.Lock()


class _Noting(type):
    """The metaclass of the stand-in, which makes it behave as `TASK` does."""

    def __call__(cls, *args: Any, **settings: Any) -> Any:
        task = TASK(*args, **settings) if cls is _Task else super().__call__(*args, **settings)
        try:
            notes = _notes.get(task.get_loop(), ())
        except Exception:  # noqa: BLE001 - a subclass may answer with anything
            notes = ()
        for note in notes:
            note(task, settings.get("context"), trace(2))
        return task

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, TASK) if cls is _Task else super().__instancecheck__(instance)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, TASK) if cls is _Task else super().__subclasscheck__(subclass)


class _Task(TASK[Any], metaclass=_Noting):
    """Stands in for `TASK`."""


STAND_IN: type = _Task

for _name in ("__module__", "__name__", "__qualname__", "__doc__"):
    setattr(_Task, _name, getattr(TASK, _name))


def install(loop: asyncio.AbstractEventLoop, note: Note) -> None:
    """Report the tasks of a loop that are made by calling the class, from now on.

    Args:
        loop: may run in any thread.
        note: is called with each task once it exists; in 3.12 and later it may have run a step.
    """
    global _users  # noqa: PLW0603 - one process, one class
    with _lock:
        _notes.set(loop, (*_notes.get(loop, ()), note))
        _users += 1
        if _users == 1:
            _put(TASK, _Task)


def remove(loop: asyncio.AbstractEventLoop | None, note: Note) -> None:
    """Undo one `install`.

    Args:
        loop: None if it has been freed.
        note: as given to `install`.
    """
    global _users  # noqa: PLW0603 - as above
    with _lock:
        if loop is not None:
            left = tuple(each for each in _notes.get(loop, ()) if each is not note)
            _notes.remove(loop)
            if left:
                _notes.set(loop, left)
        _users -= 1
        if not _users:
            _put(_Task, TASK)


def _put(expected: type, replacement: type) -> None:
    # A class that another tool has put there stays.
    for module in (asyncio, asyncio.tasks):
        if module.Task is expected:
            module.Task = replacement  # type: ignore[attr-defined]
