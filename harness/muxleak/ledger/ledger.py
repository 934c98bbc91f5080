"""The ledger of a loop: counts its tasks and resources by scope, each with its creation site.

The count is kept as tasks come and go, so reading it never walks through all tasks.
"""

# A ledger has three parts: counters (see `counters`), which are the same for every way of seeing a
# creation; the ways themselves; and a handler for errors of the loop. `install` connects them to a
# loop:
#
#   way                                 sees                              module
#   --------------------------------    ------------------------------    ----------
#   task factory of the loop            `loop.create_task` and friends    factory
#   class in place of `asyncio.Task`    tasks made by calling the class   task_class
#   methods replaced on the loop        timers, transports, servers ...   hooks
#   methods replaced in the process     executor jobs, threads            threads
#   method of the loop for messages     exceptions never retrieved ...    loop_errors
#   filter of warnings                  ResourceWarnings                  resource_warnings
#
# The first two are installed always, the rest as the kinds require; a ledger of tasks alone leaves
# the methods of the loop untouched.
#
# Chaining. A task factory or exception handler that was there goes on working: ours calls it. So
# does a factory that the program sets later, such as `asyncio.eager_task_factory`: the loop's
# `set_task_factory` puts ours over it.
# `uninstall` puts it back only if ours is still in place. If somebody has installed another over
# ours in the meantime, theirs stays, and ours below it passes everything on without counting, as
# `Counters.active` is False then. So ledgers can be uninstalled in any order. `unseen` reports a
# factory that was put over ours, because it may make tasks without calling ours.
#
# Uninstalling stops the counting of new tasks only. Tasks that are counted keep their callback, so
# `count` and `live` stay correct until they end; a check can therefore examine a scope afterwards.
#
# One loop can have several ledgers at once (that of a service, the plugin's, that of a block); each
# charges its own scopes. `no_leaks` and `measure_growth` use the one that `shared_ledger` gives, so
# that any number of blocks on a loop pay for one set of hooks. A ledger made `beside` another one
# shares its counters: the plugin charges one scope with the work of all loops that a test runs.

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Self, TypeVar

from muxleak.introspect.foreign import ByIdentity, ask, refer
from muxleak.introspect.names import attribute, type_name
from muxleak.introspect.waiting import AnyTask
from muxleak.ledger import collector, resource_warnings, task_class, threads
from muxleak.ledger.connection_scope import pin
from muxleak.ledger.counters import CURRENT, Counters, Resource, Scope, TaskRecord, charged
from muxleak.ledger.factory import counting, is_counting, noting, without
from muxleak.ledger.hooks import Hooks, own_attribute
from muxleak.ledger.kinds import KINDS, LASTING, valid_kinds
from muxleak.ledger.loop_errors import charge, describe

_Protocol = TypeVar("_Protocol", bound=asyncio.BaseProtocol)


# The default is compared by identity, which skips the validation of kinds.
_TASKS = frozenset({"task"})
_HOOKED = KINDS - {"task", *LASTING}


class Ledger:
    """Counts the live tasks of one loop, and resources of other kinds if asked for.

    A task leaves the count at the first reading after its end, or one iteration of the loop after
    its end if an earlier reading found it alive. The ledger keeps no task alive, pending or
    finished: one that nothing else refers to is destroyed as without a ledger, and counts as the
    kind "destroyed". With `hold`, and on a simulated loop, tasks are held.

    Args:
        kinds: of `kinds.KINDS`; every kind but tasks costs hooks when the ledger is installed.
        log: pass errors that reach the exception handler on to the loop's default one too, when no
            handler was installed before; else they are in `errors` alone.
        hold: keep each task alive until its end, so that no collection destroys one. For programs
            that are compared with Go's, whose runtime holds every goroutine; a simulated loop's
            tasks are held in any case, so that no run depends on the collector.
        beside: the ledger of another loop, or of none, whose kinds, scopes and counts this one
            shares, so that one scope is charged for the work of several loops.

    Raises:
        ValueError: an unknown kind.

    Attributes:
        home: the scope in which the loop was made; None if that is not known.
    """

    def __init__(
        self,
        kinds: Iterable[str] = _TASKS,
        *,
        log: bool = False,
        hold: bool = False,
        beside: "Ledger | None" = None,
    ) -> None:
        self._errors: list[str] = []
        self._log, self._hold = log, hold
        if beside is None:
            self._counters = Counters(_TASKS if kinds is _TASKS else valid_kinds(kinds))
            self._root = Scope("", self._counters)
        else:
            self._root = beside.root
            self._counters = self._root.counters
        self._hooks: Hooks | None = None
        self._unseen: dict[str, None] = {}
        self._threads = self._sees_messages = False
        self._loop: Callable[[], asyncio.AbstractEventLoop | None] | None = None
        self._note = noting(self._counters, self._root, holds=hold)
        self.home: Scope | None = None
        self._setter: tuple[Any, Any] = (None, None)
        self._hook: Any = None
        self._under: Any = None
        self._installs = 0

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds that are recorded."""
        return self._counters.kinds

    @property
    def count(self) -> int:
        """Number of tasks made since `install` that have not ended. O(1), amortised."""
        self._counters.sweep()
        return self._counters.count

    @property
    def created(self) -> int:
        """Number of tasks made since `install`."""
        return self._counters.created

    @property
    def errors(self) -> list[str]:
        """Errors that reached the loop's exception handler, such as exceptions never retrieved.

        A line each, the same in every process. A handler that was installed before is called too.
        """
        self._counters.sweep()
        return self._errors

    @property
    def unseen(self) -> tuple[str, ...]:
        """Tasks and resources that the ledger cannot see on this loop, a clause for each reason."""
        loop = self._loop() if self._loop is not None else None
        # One of another ledger calls this one's.
        if loop is not None and not is_counting(ask(loop, "get_task_factory")):
            self._unseen["tasks made since another task factory was installed"] = None
        return tuple(self._unseen | self._counters.unseen)

    @property
    def blind(self) -> tuple[str, ...]:
        """The former name of `unseen`."""
        return self.unseen

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop that it is installed on; None if there is none."""
        return self._loop() if self._loop is not None else None

    @property
    def root(self) -> Scope:
        """The scope that is charged for everything outside all others."""
        return self._root

    @property
    def scopes(self) -> list[Scope]:
        """Scopes that have live tasks, oldest first; the ledger keeps no others alive."""
        self._root.prune()
        return sorted((each for each in self._root.inside() if each.entries), key=_number)

    def scope(self, name: str) -> Scope:
        """Make a scope inside the current one.

        Args:
            name: its name in reports.

        Returns:
            The scope, which is empty; it becomes current by `with` or by `Scope.enter`.
        """
        return self._scope_in(CURRENT.get(), name)

    def live(self, scope: Scope | None = None) -> list[TaskRecord]:
        """Return records of the live tasks, in creation order.

        Args:
            scope: restricts them to this scope, without the scopes inside it.
        """
        if scope is not None:
            return scope.records(scope)
        found = self._root.records(None)
        for each in self._root.inside():
            found += each.records(each)
        return sorted(found, key=_number)

    def everything(self, scope: Scope | None = None) -> list[TaskRecord | Resource]:
        """Return records of everything alive: tasks, then resources, each in creation order.

        Args:
            scope: restricts them to this scope and the scopes inside it.
        """
        return (scope or self._root).everything()

    def tasks(self) -> list[AnyTask]:
        """Return the live tasks, in creation order."""
        return [record.task for record in self.live()]

    def scoped_factory(
        self,
        protocol_factory: Callable[[], _Protocol],
        name: Callable[[int], str] = "connection {}".format,
        *,
        made: Callable[[Scope], object] | None = None,
    ) -> Callable[[], _Protocol]:
        """Give every connection that a server accepts a scope of its own.

        asyncio calls the factory in the task that accepts, and runs the callbacks of the connection
        in the context of that task, so that everything the connection starts is charged to it. On
        loops with one context for all connections, such as uvloop's, the callbacks enter the scope
        (see `connection_scope`). The accepting task itself is charged to the scope that started the
        server.

        Args:
            protocol_factory: as for `loop.create_server`.
            name: makes the name of a scope from its number, 1 for the first connection.
            made: is called with each scope; the ledger itself keeps only those with live tasks.

        Returns:
            The factory to pass to `loop.create_server`.
        """
        accepted = 0
        # Read here, not in `accept`: else one connection would be inside the one before it.
        outer = CURRENT.get()

        def accept() -> _Protocol:
            nonlocal accepted
            accepted += 1
            scope = self._scope_in(outer, name(accepted))
            if made is not None:
                made(scope)
            scope.enter()
            protocol = protocol_factory()
            pin(protocol, scope)
            return protocol

        return accept

    def install(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        rest: Callable[[Hooks], object] | None = None,
        home: Scope | None = None,
    ) -> None:
        """Count the tasks and resources that `loop` makes from now on.

        Its own task factory, if it has one, goes on making the tasks.

        Args:
            loop: not closed.
            rest: is called with the hooks in place of installing the rarer ones, which it does when
                they are needed; it is responsible for threads and jobs, too.
            home: the scope in which the loop was made: charged for messages of objects whose own
                scope is not known; None for the root.

        Raises:
            RuntimeError: the ledger is installed already.
        """
        if self._loop is not None:
            raise RuntimeError("the ledger is installed already; call uninstall() first")
        factory = self._factory(loop, ask(loop, "get_task_factory"))
        self._unseen = {}
        self._set(loop, "set_task_factory", factory, "tasks")
        task_class.install(loop, self._note)
        self._loop = refer(loop)
        self._follow_factories(loop)
        self.home = home
        self._see_messages(loop)
        virtual: Any = loop
        if attribute(loop, "task_source", default=loop) is not loop:
            virtual.task_source = self.tasks
        if not self.kinds.isdisjoint(_HOOKED):
            self._hooks = Hooks(loop, self._root)
            self._hooks.unseen = self._unseen
            self._hooks.install()
            if rest is not None:
                rest(self._hooks)
            else:
                self._hooks.install_rest()
                self._threads = bool(self.kinds & {"job", "thread"}) or threads.INHERITS
                if self._threads:
                    threads.install(loop, self._root)
        self._counters.install(loop)

    def uninstall(self) -> None:
        """Stop counting new tasks and resources; those already counted stay until they end."""
        loop = self._loop() if self._loop is not None else None
        if self._loop is not None:
            self._counters.uninstall(loop)
            task_class.remove(loop, self._note)
        self._loop = None
        self._counters.sweep()
        hooks, self._hooks = self._hooks, None
        self._ignore_factories(loop)
        self._ignore_messages(loop)
        if hooks is not None:
            hooks.remove()
        if loop is None:
            return
        if self._threads:
            self._threads = False
            threads.remove(loop, self._root)
        factory = ask(loop, "get_task_factory")
        below = without(factory, self._counters)
        if below is not factory:
            loop.set_task_factory(below)
        virtual: Any = loop
        if attribute(loop, "task_source") == self.tasks:
            virtual.task_source = None

    @contextmanager
    def watching(self, loop: asyncio.AbstractEventLoop) -> Iterator[Self]:
        """Install the ledger for the length of a block.

        Raises:
            RuntimeError: the ledger is installed already.
        """
        self.install(loop)
        try:
            yield self
        finally:
            self.uninstall()

    def _scope_in(self, outer: Scope | None, name: str) -> Scope:
        return Scope(name, self._counters, charged(outer, self._counters) or self._root, outer)

    def _factory(self, loop: asyncio.AbstractEventLoop, previous: Any) -> Callable[..., Any]:
        holds = self._hold or bool(attribute(loop, "is_virtual", default=False))
        return counting(self._counters, self._root, previous, holds=holds)

    def _set(self, loop: asyncio.AbstractEventLoop, setter: str, value: Any, what: str) -> None:
        """Call a setter of the loop; if it raises, name in `unseen` what is not seen."""
        try:
            getattr(loop, setter)(value)
        except Exception as error:  # noqa: BLE001 - the program must not see it
            name = type_name(loop)
            self._unseen[f"{what}, as {setter} of {name} raises {type_name(error)}"] = None

    def _follow_factories(self, loop: Any) -> None:
        """Put the counting factory over each one that the program sets from now on."""
        # A hook for each installation, as in `_see_messages`.
        name, weak, number = "set_task_factory", self._loop, self._installs
        setter = attribute(loop, name)
        if setter is None:
            return
        under = own_attribute(loop, name, setter)

        def set_task_factory(factory: Any) -> None:
            loop: Any = weak() if weak is not None else None
            if loop is None:
                return
            if under is not None:
                under(factory)
            else:
                type(loop).set_task_factory(loop, factory)
            if number == self._installs and not is_counting(factory):
                # `under` may be that of another ledger, which has put its factory over this one.
                ours = self._factory(loop, loop.get_task_factory())
                type(loop).set_task_factory(loop, ours)

        try:
            loop.set_task_factory = set_task_factory
        except Exception:  # noqa: BLE001 - `unseen` says so once a factory is set
            return
        self._setter = set_task_factory, under

    def _ignore_factories(self, loop: Any) -> None:
        (setter, under), self._setter = self._setter, (None, None)
        # If another method was put over ours, ours stays below it and passes calls on.
        if loop is not None and setter is not None and loop.set_task_factory is setter:
            if under is None:
                del loop.set_task_factory
            else:
                loop.set_task_factory = under

    def _see_messages(self, loop: Any) -> None:
        """See the messages of a loop, and ResourceWarnings, if they are wanted."""
        # A hook of its own for each installation, as it may stay below that of another ledger. It
        # must not hold the loop, whose attribute it is.
        name, weak, number = "call_exception_handler", self._loop, self._installs
        caller = attribute(loop, name)
        self._under = under = own_attribute(loop, name, caller) if caller is not None else None

        def call_exception_handler(context: dict[str, Any]) -> None:
            loop: Any = weak() if weak is not None else None
            if loop is not None:
                handled = ask(loop, "get_exception_handler") is not None
                seen = number == self._installs
                if seen:
                    self._note_message(context, handled=handled)
                if under is not None:
                    under(context)
                elif handled or self._log or not seen:
                    type(loop).call_exception_handler(loop, context)

        try:
            loop.call_exception_handler = self._hook = call_exception_handler
        except Exception as error:  # noqa: BLE001 - the program must not see it
            why = f"{name} of {type_name(loop)} raises {type_name(error)}"
            self._unseen[f"messages, as setting {why}"] = None
        self._sees_messages = True
        if self._counters.wants_errors or self._counters.wants_warnings:
            collector.install()
        if self._counters.wants_warnings:
            resource_warnings.install(self)

    def _ignore_messages(self, loop: Any) -> None:
        hook, self._hook = self._hook, None
        self._installs += 1
        if not self._sees_messages:
            return
        self._sees_messages = False
        if self._counters.wants_errors or self._counters.wants_warnings:
            collector.remove()
        if self._counters.wants_warnings:
            resource_warnings.remove(self)
        # If another method was put over ours, ours stays below it and passes messages on.
        if loop is not None and hook is not None and loop.call_exception_handler is hook:
            if self._under is None:
                del loop.call_exception_handler
            else:
                loop.call_exception_handler = self._under

    def _note_message(self, context: dict[str, Any], *, handled: bool) -> None:
        try:
            text = describe(context)
            self._errors.append(text)
            charge(context, text, self._root, self.home, handled=handled)
        except Exception as error:  # noqa: BLE001 - the program's own handler must be called
            self._unseen[f"an error of the loop whose parts raise {type_name(error)}"] = None


def _number(numbered: TaskRecord | Scope) -> int:
    return numbered.number


_ledgers: ByIdentity[tuple[Ledger, list[None]] | None] = ByIdentity()


@contextmanager
def shared_ledger(loop: asyncio.AbstractEventLoop) -> Iterator[Ledger]:
    """Give the one ledger of `loop` that all blocks share; it is installed while any is open.

    It records every kind.
    """
    ledger, users = _ledgers.get(loop, None) or (Ledger(KINDS, log=True), [])
    _ledgers.set(loop, (ledger, users))
    if not users:
        ledger.install(loop)
    users.append(None)
    try:
        yield ledger
    finally:
        users.pop()
        if not users:
            ledger.uninstall()
            _ledgers.remove(loop)
