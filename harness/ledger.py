"""Counting tasks as they are made and as they end, by connection, with where each was made.

The count is kept, never taken: nothing here goes through all tasks. References are strong, because
asyncio's own are weak and a task that waits on a future nobody holds would vanish uncounted.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self, TypeVar
from weakref import ref

from harness.fence import AnyTask
from harness.loop import VirtualLoop
from harness.scope import CURRENT, Scope, Tally, TaskRecord
from harness.sites import capture
from harness.waiting import name_of, scrub

_MAX_ERROR = 200  # characters

_Protocol = TypeVar("_Protocol", bound=asyncio.BaseProtocol)


class Ledger:
    """The live tasks of one loop, counted by its task factory.

    A task leaves the count when its done callback runs, one iteration after its end.

    Attributes:
        errors: what reached the loop's exception handler, such as exceptions never retrieved; a
            handler that was installed before is called too, else nothing is logged.
    """

    def __init__(self) -> None:
        self.errors: list[str] = []
        self._tally = Tally()
        self._root = Scope("", self._tally)
        self._loop: ref[asyncio.AbstractEventLoop] | None = None
        self._factories: tuple[Any, Any] = (None, None)
        self._handlers: tuple[Any, Any] = (None, None)

    @property
    def count(self) -> int:
        """How many of the tasks made since `install` have not ended. O(1)."""
        return self._tally.count

    @property
    def created(self) -> int:
        """How many tasks were made since `install`."""
        return self._tally.created

    @property
    def scopes(self) -> list[Scope]:
        """The scopes that have live tasks, oldest first; the ledger holds no others."""
        scopes = self._tally.scopes
        return [scopes[number] for number in sorted(scopes) if scopes[number] is not self._root]

    def scope(self, name: str) -> Scope:
        """A new, empty scope."""
        return Scope(name, self._tally)

    def live(self, scope: Scope | None = None) -> list[TaskRecord]:
        """The tasks that have not ended, in creation order; of all scopes, or of one."""
        if scope is not None:
            return scope.records(scope)
        found = self._root.records(None)
        for each in self.scopes:
            found += each.records(each)
        return sorted(found, key=_number)

    def tasks(self) -> list[AnyTask]:
        """The tasks that have not ended, in creation order."""
        return [record.task for record in self.live()]

    def scoped_factory(
        self,
        protocol_factory: Callable[[], _Protocol],
        name: Callable[[int], str] = "connection {}".format,
        *,
        made: Callable[[Scope], object] | None = None,
    ) -> Callable[[], _Protocol]:
        """Give every connection that a server accepts a scope of its own.

        asyncio calls the factory in the task that accepts, and uvloop in a context of the
        connection; both then run `connection_made` and the reading callbacks in that context, so
        that all the connection starts is charged to it. Tested on 3.11 to 3.13 and with uvloop
        0.23. The accepting task itself is charged to whoever started the server.

        Args:
            protocol_factory: as for `loop.create_server`.
            name: names a scope by its number: 1 for the first connection.
            made: is given each scope; the ledger itself keeps only those with live tasks.
        """
        accepted = 0

        def accept() -> _Protocol:
            nonlocal accepted
            accepted += 1
            scope = self.scope(name(accepted))
            if made is not None:
                made(scope)
            scope.enter()
            return protocol_factory()

        return accept

    def install(self, loop: asyncio.AbstractEventLoop) -> None:
        """Count the tasks that `loop` makes from now on; its own task factory goes on making them.

        Raises:
            RuntimeError: the ledger is installed already.
        """
        if self._loop is not None:
            raise RuntimeError("the ledger is installed already; call uninstall() first")
        previous = loop.get_task_factory()
        factory = _counting(self._tally, self._root, previous)
        self._factories = (factory, previous)
        self._handlers = (self._on_error, loop.get_exception_handler())
        loop.set_task_factory(factory)
        loop.set_exception_handler(self._on_error)
        if isinstance(loop, VirtualLoop):
            loop.task_source = self.tasks
        self._loop = ref(loop)
        self._tally.active = True

    def uninstall(self) -> None:
        """Stop counting new tasks; those counted stay in `count` and `live` until they end."""
        loop = self._loop() if self._loop is not None else None
        self._loop = None
        self._tally.active = False
        (factory, old_factory), (handler, old_handler) = self._factories, self._handlers
        self._factories = self._handlers = (None, None)
        if loop is None:
            return
        # Whoever installed theirs over ours keeps it; ours then only passes on.
        if loop.get_task_factory() is factory:
            loop.set_task_factory(old_factory)
        if loop.get_exception_handler() == handler:
            loop.set_exception_handler(old_handler)
        if isinstance(loop, VirtualLoop) and loop.task_source == self.tasks:
            loop.task_source = None

    @contextmanager
    def watching(self, loop: asyncio.AbstractEventLoop) -> Iterator[Self]:
        """`install` for the length of a block."""
        self.install(loop)
        try:
            yield self
        finally:
            self.uninstall()

    def _on_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        previous = self._handlers[1]
        self.errors.append(_describe(context))
        if previous is not None:
            previous(loop, context)


def _counting(tally: Tally, root: Scope, previous: Any) -> Callable[..., Any]:
    """A task factory that counts; a closure, since its every lookup is paid per task."""
    current = CURRENT.get

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **settings: Any) -> Any:
        if settings:
            # uvloop passes all of them always; 3.11's Task and 3.13.0's eager factory refuse some.
            settings = {name: value for name, value in settings.items() if value is not None}
        if previous is None:
            task = asyncio.Task(coro, loop=loop, **settings)
        else:
            task = previous(loop, coro, **settings)
        if not tally.active:
            return task
        number = tally.created = tally.created + 1
        if task.done():
            return task
        scope = current() if "context" not in settings else settings["context"].get(CURRENT)
        # A scope of another ledger says nothing to this one.
        if scope is None or scope.tally is not tally:
            scope = root
        entries = scope.entries
        if not entries:
            tally.scopes[scope.number] = scope
        entries[task] = (capture(2), number)
        scope.created += 1
        tally.count += 1
        task.add_done_callback(scope.forget)
        return task

    return factory


def _describe(context: dict[str, Any]) -> str:
    message = str(context.get("message", "unknown error")).split(" at ")[0]
    task = context.get("task") or context.get("future")
    exception = context.get("exception")
    where = f" in {name_of(task)}" if task is not None else ""
    what = f": {type(exception).__name__}: {exception}" if exception is not None else ""
    return scrub(f"{message}{where}{what}", _MAX_ERROR)


def _number(record: TaskRecord) -> int:
    return record.number
