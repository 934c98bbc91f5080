"""Counting what is made and what has ended, by connection, with where each thing was made.

The count is kept, never taken: nothing here goes through all tasks. References are strong, because
asyncio's own are weak and a task that waits on a future nobody holds would vanish uncounted.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Self, TypeVar
from weakref import WeakKeyDictionary, ref

from muxleak.introspect.waiting import AnyTask
from muxleak.ledger import task_class, threads
from muxleak.ledger.counters import CURRENT, Counters, Resource, Scope, TaskRecord, charged
from muxleak.ledger.factory import counting, noting
from muxleak.ledger.hooks import Hooks
from muxleak.ledger.kinds import KINDS, valid_kinds
from muxleak.ledger.loop_errors import charge, describe

_Protocol = TypeVar("_Protocol", bound=asyncio.BaseProtocol)


_TASKS = frozenset({"task"})
_HOOKED = KINDS - {"task", "error", "destroyed"}


class Ledger:
    """What one loop has alive: tasks, counted by its task factory, and other kinds if asked for.

    A task leaves the count at the first look after its end, or one iteration after its end if a
    look found it alive before. Until then, and for at most `counters.YOUNG` creations more, the
    ledger keeps a finished task from being freed.

    Args:
        kinds: of `kinds.KINDS`; all but tasks cost a hook when the ledger is installed.
        log: hand what reaches the exception handler to the loop's default one too, when none was
            installed before; else it stands in `errors` alone.
        beside: the ledger of another loop, or of none, whose kinds, scopes and counts it shares, so
            that one scope is charged for what several loops make.
    """

    def __init__(
        self,
        kinds: Iterable[str] = _TASKS,
        *,
        log: bool = False,
        beside: "Ledger | None" = None,
    ) -> None:
        self._errors: list[str] = []
        self._log = log
        if beside is None:
            self._counters = Counters(_TASKS if kinds is _TASKS else valid_kinds(kinds))
            self._root = Scope("", self._counters)
        else:
            self._root = beside.root
            self._counters = self._root.counters
        self._hooks: Hooks | None = None
        self._blind: dict[str, None] = {}
        self._threads = False
        self._loop: ref[asyncio.AbstractEventLoop] | None = None
        self._factories: tuple[Any, Any] = (None, None)
        self._note = noting(self._counters, self._root)
        self._handlers: tuple[Any, Any] = (None, None)

    @property
    def kinds(self) -> frozenset[str]:
        """Which kinds it was asked for."""
        return self._counters.kinds

    @property
    def count(self) -> int:
        """How many of the tasks made since `install` have not ended. O(1), amortised."""
        self._counters.sweep()
        return self._counters.count

    @property
    def created(self) -> int:
        """How many tasks were made since `install`."""
        return self._counters.created

    @property
    def errors(self) -> list[str]:
        """What reached the loop's exception handler, such as exceptions never retrieved.

        A handler that was installed before is called too.
        """
        self._counters.sweep()
        return self._errors

    @property
    def blind(self) -> tuple[str, ...]:
        """What cannot be seen on this loop, each said once."""
        loop = self._loop() if self._loop is not None else None
        if loop is not None and loop.get_task_factory() is not self._factories[0]:
            self._blind["tasks made since another task factory was installed"] = None
        return tuple(self._blind)

    @property
    def root(self) -> Scope:
        """What is charged for everything outside every scope."""
        return self._root

    @property
    def scopes(self) -> list[Scope]:
        """The scopes that have live tasks, oldest first; the ledger holds no others."""
        self._root.prune()
        return sorted((each for each in self._root.inside() if each.entries), key=_number)

    def scope(self, name: str) -> Scope:
        """A new, empty scope, inside the one that is current."""
        return self._scope_in(CURRENT.get(), name)

    def live(self, scope: Scope | None = None) -> list[TaskRecord]:
        """The tasks that have not ended, in creation order; of all scopes, or of one."""
        if scope is not None:
            return scope.records(scope)
        found = self._root.records(None)
        for each in self._root.inside():
            found += each.records(each)
        return sorted(found, key=_number)

    def everything(self, scope: Scope | None = None) -> list[TaskRecord | Resource]:
        """What of every kind is alive; of all scopes, or of one with the scopes inside it."""
        return (scope or self._root).everything()

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
        # Not the accepting context's: one connection is not inside the one before it.
        outer = CURRENT.get()

        def accept() -> _Protocol:
            nonlocal accepted
            accepted += 1
            scope = self._scope_in(outer, name(accepted))
            if made is not None:
                made(scope)
            scope.enter()
            return protocol_factory()

        return accept

    def install(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        rest: Callable[[Hooks], object] | None = None,
    ) -> None:
        """Count what `loop` makes from now on; its own task factory goes on making the tasks.

        Args:
            loop: not closed.
            rest: is given the hooks of which the rarer ones wait to be installed, and sees to
                threads and jobs itself.

        Raises:
            RuntimeError: the ledger is installed already.
        """
        if self._loop is not None:
            raise RuntimeError("the ledger is installed already; call uninstall() first")
        previous = loop.get_task_factory()
        factory = counting(self._counters, self._root, previous)
        self._factories = (factory, previous)
        self._handlers = (self._on_error, loop.get_exception_handler())
        loop.set_task_factory(factory)
        task_class.install(loop, self._note)
        loop.set_exception_handler(self._on_error)
        virtual: Any = loop
        if hasattr(loop, "task_source"):
            virtual.task_source = self.tasks
        if not self.kinds.isdisjoint(_HOOKED):
            self._hooks = Hooks(loop, self._root)
            self._hooks.install()
            self._blind = self._hooks.blind
            if rest is not None:
                rest(self._hooks)
            else:
                self._hooks.install_rest()
                self._threads = bool(self.kinds & {"job", "thread"})
                if self._threads:
                    threads.install(loop, self._root)
        self._loop = ref(loop)
        self._counters.install(loop)

    def uninstall(self) -> None:
        """Stop counting what is new; what is counted stays in `count` and `live` until it ends."""
        loop = self._loop() if self._loop is not None else None
        if self._loop is not None:
            self._counters.uninstall(loop)
            task_class.remove(loop, self._note)
        self._loop = None
        self._counters.sweep()
        (factory, old_factory), (handler, old_handler) = self._factories, self._handlers
        hooks, self._hooks = self._hooks, None
        self._factories = self._handlers = (None, None)
        if hooks is not None:
            hooks.remove()
        if loop is None:
            return
        if self._threads:
            self._threads = False
            threads.remove(loop, self._root)
        # Whoever installed theirs over ours keeps it; ours then only passes on.
        if loop.get_task_factory() is factory:
            loop.set_task_factory(old_factory)
        if loop.get_exception_handler() == handler:
            loop.set_exception_handler(old_handler)
        virtual: Any = loop
        if getattr(loop, "task_source", None) == self.tasks:
            virtual.task_source = None

    @contextmanager
    def watching(self, loop: asyncio.AbstractEventLoop) -> Iterator[Self]:
        """`install` for the length of a block."""
        self.install(loop)
        try:
            yield self
        finally:
            self.uninstall()

    def _scope_in(self, outer: Scope | None, name: str) -> Scope:
        return Scope(name, self._counters, charged(outer, self._counters) or self._root, outer)

    def _on_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        text, previous = describe(context), self._handlers[1]
        self._errors.append(text)
        charge(context, text, self._root)
        if previous is not None:
            previous(loop, context)
        elif self._log:
            loop.default_exception_handler(context)


def _number(numbered: TaskRecord | Scope) -> int:
    return numbered.number


_ledgers: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[Ledger, list[None]]]
_ledgers = WeakKeyDictionary()


@contextmanager
def shared_ledger(loop: asyncio.AbstractEventLoop) -> Iterator[Ledger]:
    """The ledger of `loop`, installed for the length of the longest block that uses it."""
    ledger, users = _ledgers.setdefault(loop, (Ledger(KINDS, log=True), []))
    if not users:
        ledger.install(loop)
    users.append(None)
    try:
        yield ledger
    finally:
        users.pop()
        if not users:
            ledger.uninstall()
            del _ledgers[loop]
