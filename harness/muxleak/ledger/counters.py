"""The counters of a ledger in two generations, the scopes that are charged, and their records.

A new task is one entry of a list. Tasks that are still alive at the next sweep are charged to their
scope and get a done callback; most have ended by then and have cost one entry.
"""

# Two generations. A done callback costs more than all else that counting does, and most tasks end
# soon. So a creation appends ``(task, raw site, scope)`` to `Counters.young` and does nothing more.
# A *sweep* goes through that list once: a task that has ended is dropped, a task that is alive is
# charged to its scope (`Scope.hold`), which interns its site, raises the count and adds the done
# callback that lowers it again. Hence a task is charged at the sweep after its creation, never
# before. Every property that gives a number or a list sweeps first, so readers see no difference.
# So a task costs about 1.5 times a bare one (`muxleak bench task`).
#
# A task that has been charged leaves the count by its callback, one iteration of the loop after its
# end, as asyncio calls it then. Lists of live tasks leave it out at once.
#
# If nobody asks, `compact` sweeps after `YOUNG` creations, but only the older half of the list: a
# task that was made a moment ago has had no time to end. Each task is swept once, so a creation
# costs O(1), amortised. Resources do not report their end, so a scope's list may hold some that
# have ended; `compact` prunes the lists once they are twice as long as the last pruning left them.
#
# Scopes. A scope belongs to one ledger and has two links upwards. `outer` is the scope that was
# current when it was made, of any ledger; `parent` is the next one of its own ledger, the root at
# last. The current scope is a context variable. asyncio copies the context into every task and
# callback, so whatever a scope's code starts, directly or through other tasks, is charged to the
# scope without any bookkeeping, and blocks that run at the same time keep apart. A task that was
# started before, such as that of a server, has another context and is charged elsewhere. Several
# ledgers share the variable; `charged` follows `outer` to the innermost scope of one of them.
#
# Invariant: `Scope.within` holds exactly those scopes below it, one level down, in or inside which
# something was alive at the last sweep or pruning. `_link` and `_unlink` keep it so along the path
# to the root. Therefore
#   - `Scope.clean` is O(1) for a clean scope, however many others have leaks;
#   - a walk through a ledger meets only scopes that hold something;
#   - a ledger does not keep scopes of connections that have ended.
# Most scopes never hold anything at a sweep, so all share one empty dictionary and one empty list
# until they have to store something; a server may have a hundred thousand of them.
#
# References to tasks are weak, as asyncio's own are. A ledger that held a task would change the
# program: a pending task that nobody else refers to is destroyed by the next collection, and with
# it the connection that it serves; a finished task would be freed late, its result and exception
# with it. So
#   - a young task is ``(weak reference, raw site, scope, id)``. If the task is freed before the
#     sweep, it has ended, or it was destroyed;
#   - a charged task is an `Entry`, a weak reference that knows site and scope. Its method `forget`
#     is the done callback, so the task holds its entry, and not the other way round;
#   - a task that is destroyed while pending runs no done callback. The reference then puts itself
#     on `Counters.dead`, from inside a collection, in any thread, perhaps between two steps of a
#     sweep; so the next sweep takes it out of the count, and every walk copies the entries first;
#   - asyncio reports such a task, and an exception never retrieved, from the task's finalizer.
#     `made_at` finds site and scope of that task: in `failed`, by the entry among its callbacks,
#     or by its id among the young. Ids are in use again soon, so the newest counts.
# The simulation is the exception: there a run must not depend on the moment of a collection, so the
# tasks of a simulated loop are held (`Held`) until the sweep after their end.
#
# Threads. Hooks append to `Counters.fresh` from any thread, since threads start threads and submit
# jobs. Appending to a list and deleting a slice are atomic, and a sweep removes only the entries
# that it has copied, so no entry is lost.

from __future__ import annotations

# The scopes of a ledger are one tree and see each other's state:
# ruff: noqa: SLF001
from contextvars import ContextVar
from types import CodeType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self, TypeAlias
from weakref import ref

from muxleak.introspect.foreign import ByIdentity, Held
from muxleak.introspect.names import attribute, is_a, type_name
from muxleak.introspect.sites import Points, Site, intern
from muxleak.introspect.waiting import AnyTask, Waiting, name_of, scrub, waiting_of

if TYPE_CHECKING:
    import asyncio

    TaskRef: TypeAlias = ref[AnyTask]
    Young: TypeAlias = tuple[TaskRef | Held, Points, "Scope", int]
else:
    TaskRef = ref

YOUNG = 256  # creations after which tasks are swept even if nobody asks
_MAX_STATE = 160  # characters
FEW = 256  # resources below which pruning is not worth it
# All scopes share these until they have something to store; never changed.
_EMPTY_DICT: dict[Any, Any] = {}
_EMPTY_LIST: list[Any] = []

_installed: ByIdentity[tuple[Counters, ...]] = ByIdentity()


class TaskRecord(NamedTuple):
    """The record of a live task.

    Attributes:
        task: the task.
        site: its creation site.
        scope: the scope that is charged; None for the root.
        number: 1 for the first task that the ledger saw. asyncio's own `Task-7` comes from a
            counter of the whole process, so it differs from run to run.
    """

    task: AnyTask
    site: Site
    scope: Scope | None
    number: int

    @property
    def kind(self) -> str:
        """The kind, as of a `Resource`."""
        return "task"

    @property
    def name(self) -> str:
        """The qualified name of the task's coroutine."""
        return name_of(self.task)

    def waiting_on(self) -> Waiting:
        """Describe the place where the task is suspended; never raises."""
        return waiting_of(self.task)

    def state(self) -> str:
        """Describe in one line where it waits."""
        return str(self.waiting_on())

    def thing(self) -> AnyTask:
        """Return the task."""
        return self.task


class Resource:
    """The record of a resource that ought to end, which it refers to weakly.

    A resource that allows no weak reference is held until its end is seen.

    Attributes:
        kind: one of `KINDS`.
        holds: True if a resource that allows no weak reference may be held.
        name: its name in reports.
        points: its raw creation site, as `sites.trace` gave it.
        owner: the scope that is charged.
        number: in order of creation; 0 until the first sweep.
    """

    __slots__ = ("_ref", "name", "number", "owner", "points")
    kind: ClassVar[str]
    holds: ClassVar[bool] = True

    def __init__(self, thing: Any, name: str, points: Points, owner: Scope) -> None:
        self._ref: Held | ref[Any]
        try:
            self._ref = ref(thing)
        except TypeError:
            if not self.holds:
                raise
            self._ref = Held(thing)
        self.name = name
        self.points = points
        self.owner = owner
        self.number = 0

    @property
    def site(self) -> Site:
        """The creation site."""
        return intern(self.points)

    @property
    def scope(self) -> Scope | None:
        """The scope that is charged; None for the root."""
        return self.owner if self.owner.parent is not None else None

    def thing(self) -> Any:
        """Return the resource itself, or None if it has been freed."""
        return self._ref()

    def alive(self) -> bool:
        """Return True if it exists and is in use; one that raises when it is asked is not."""
        thing = self._ref()
        if thing is None:
            return False
        try:
            if self.open(thing):
                return True
        except Exception as error:  # noqa: BLE001 - the program must not see it
            raised = f"{type_name(thing)}, which raise {type_name(error)}"
            self.owner.counters.hide(self.kind, raised)
        if type(self._ref) is Held:
            self._ref.thing = None
        return False

    def open(self, thing: Any) -> bool:
        """Return True if the resource, which exists, is in use."""
        raise NotImplementedError

    def state(self) -> str:
        """Describe in one line what it is doing; never raises."""
        try:
            return scrub(self.describe(self._ref()), _MAX_STATE)
        except Exception as exc:  # noqa: BLE001 - a broken object must not break the report on it
            return f"is unreadable ({type(exc).__name__})"

    def describe(self, thing: Any) -> str:
        """Return the text of `state`."""
        raise NotImplementedError

    def waiting_on(self) -> Waiting:
        """Describe its state in the form of a task's; a resource has no chain of frames."""
        return Waiting((), self.name, self.state())

    def end(self) -> None:
        """Close it, as far as that is possible from outside and without waiting."""


class Begun(list[Any]):
    """The raw site of a task that asyncio made, which is empty; knows where the task begins.

    Attributes:
        code: that of the task's coroutine; None if it has none.
    """

    __slots__ = ("code",)

    def __init__(self, coroutine: Any) -> None:
        super().__init__()
        code = attribute(coroutine, "cr_code")
        self.code: CodeType | None = code if is_a(code, CodeType) else None


class Entry(TaskRef):
    """A weak reference to a charged task, which is alive or whose end is not counted yet.

    Attributes:
        begun: the raw creation site if it is empty, since it may be a `Begun`; else None.
        site: the creation site, interned.
        scope: the scope that is charged.
        number: of the task.
        row: for the use of an observer.
        held: the task, if it must not be destroyed.
    """

    __slots__ = ("begun", "held", "number", "row", "scope", "site")

    begun: Points | None
    site: Site
    scope: Scope
    number: int
    row: Any
    held: AnyTask | None

    @property
    def points(self) -> Points:
        """The raw creation site."""
        return self.site.points if self.begun is None else self.begun

    def forget(self, task: AnyTask) -> None:
        """Remove the task, which is done or given up, from the count; it is the done callback."""
        counters = self.scope.counters
        wanted = counters.finished is not None or counters.wants_errors
        if self.scope.drop(self) and wanted and task.done():
            counters.ended(task, self.points, self.scope)


def _died(entry: Entry) -> None:
    """Note that a task was freed; if its end is not counted yet, it was destroyed."""
    if entry.number in entry.scope.entries:
        entry.scope.counters.dead.append(entry)


class Failure(NamedTuple):
    """A task that ended with an exception which nobody had retrieved by then.

    Attributes:
        task: a weak reference to it; dead once it is freed, or found in garbage.
        site: its creation site.
        scope: the scope that is charged.
    """

    task: ref[AnyTask]
    site: Site
    scope: Scope

    def pending(self) -> bool:
        """Return True if the task exists and its exception is not retrieved yet."""
        task = self.task()
        # Private to asyncio, which offers no public way to ask.
        return task is not None and bool(task._log_traceback)


class Observer(Protocol):
    """The calls that counters make as tasks, resources and connections come and go.

    The monitor implements it, to count by creation site; without one, each call site costs one test
    for None.
    """

    def made(self, points: Points, scope: Scope) -> bool:
        """Note a new task, which may have ended; return False to leave it out of every count."""

    def held(self, entry: Entry) -> None:
        """Note a task that was alive at a sweep."""

    def gone(self, entry: Entry) -> None:
        """Note the end of a task that was `held`."""

    def destroyed(self, points: Points) -> None:
        """Note that a task was destroyed while pending; called from inside a collection."""

    def noted(self, record: Resource) -> None:
        """Note a lost exception, a message or a warning; called from inside a collection, too."""

    def kept(self, resource: Resource) -> None:
        """Note a resource that was alive at a sweep."""

    def begin(self, outer: Scope | None) -> None:
        """Note that a connection is being accepted; `outer` was current when its server began."""

    def connected(self, scope: Scope, transport: Resource) -> None:
        """Note that the transport of an accepted connection is open, and its scope."""


class Counters:
    """The numbers and lists that a ledger and its scopes share.

    Attributes:
        active: True while a ledger is installed.
        loops: number of installed ledgers that share these counters, one for each loop.
        kinds: the kinds that are recorded.
        wants_errors: True if exceptions that nobody retrieves are recorded.
        wants_warnings: True if ResourceWarnings are recorded.
        observer: is called as tasks, resources and connections come and go; None without a monitor.
        count: tasks that are charged to scopes and alive; changes in `sweep` and in done callbacks.
        swept: tasks that have been through a sweep.
        held: resources on the lists of scopes, some of which may have ended.
        limit: the number of such resources above which `compact` prunes.
        scopes_made: scopes made so far.
        resources_made: resources that have been through a sweep.
        young: tasks since the last sweep: weak reference, raw site, scope, id.
        dead: entries of tasks that were freed since the last sweep; any thread may append.
        fresh: resources since the last sweep; other threads may append.
        failed: finished tasks whose exception nobody had retrieved at their end, by id.
        finished: weak references to finished tasks, while their retention is measured.
        unseen: clauses that say what cannot be counted; the values mean nothing.
    """

    __slots__ = (
        *(
            "__weakref__",
            "active",
            "wants_errors",
            "wants_warnings",
            "observer",
            "count",
            "dead",
            "failed",
            "failed_limit",
            "finished",
            "fresh",
            "held",
            "kinds",
        ),
        *("limit", "loops", "resources_made", "scopes_made", "swept", "unseen", "young"),
    )

    def __init__(self, kinds: frozenset[str]) -> None:
        self.active, self.loops = False, 0
        self.kinds = kinds
        self.count = self.swept = self.scopes_made = self.resources_made = 0
        self.held, self.limit = 0, FEW
        self.young: list[Young] = []
        self.dead: list[Entry] = []
        self.fresh: list[Resource] = []
        # By id: the collector clears a weak reference, and with it the entry of a dictionary with
        # weak keys, before the task of a cycle reports its exception.
        self.failed: dict[int, Failure] = _EMPTY_DICT
        self.failed_limit = FEW
        self.wants_errors, self.wants_warnings = "error" in kinds, "warning" in kinds
        self.observer: Observer | None = None
        self.finished: list[tuple[ref[AnyTask], Site, Scope]] | None = None
        self.unseen: dict[str, None] = {}

    def install(self, loop: asyncio.AbstractEventLoop) -> None:
        """Note that a ledger counts the tasks and resources of `loop`."""
        _installed.set(loop, (*_installed.get(loop, ()), self))
        self.loops += 1
        self.active = True

    def uninstall(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Undo one `install`; of a loop that has been freed, only the number of ledgers."""
        if loop is not None:
            left = list(_installed.get(loop, ()))
            left.remove(self)
            if left:
                _installed.set(loop, tuple(left))
            else:
                _installed.remove(loop)
        self.loops -= 1
        self.active = self.loops > 0

    @property
    def created(self) -> int:
        """Number of tasks made."""
        return self.swept + len(self.young)

    def note(self, record: Resource) -> None:
        """Pass a lost exception, a message or a warning on, and keep it if its kind is wanted.

        The next sweep charges its scope: a collection may come while its lists are being pruned.
        """
        if self.observer is not None:
            self.observer.noted(record)
        if record.kind in self.kinds:
            self.fresh.append(record)

    def hide(self, kind: str, which: str) -> None:
        """Note that objects of a kind cannot be counted.

        Args:
            kind: one of `KINDS`.
            which: their class and the reason.
        """
        self.unseen[f"{kind}s of {which}"] = None

    def sweep(self, spared: int = 0) -> None:
        """Charge new tasks and resources that are alive to their scope, and drop the others.

        Args:
            spared: number of the newest tasks to leave for the next sweep.
        """
        if self.dead:
            self._bury()
        if self.young:
            self._sweep_tasks(spared)
        if self.fresh:
            batch = self.fresh[:]
            del self.fresh[: len(batch)]
            for resource in batch:
                self.resources_made += 1
                resource.number = self.resources_made
                if resource.alive():
                    resource.owner.keep(resource)

    def ended(self, task: AnyTask, points: Points, scope: Scope) -> None:
        """Keep the data of a finished task that is needed later; by default none."""
        if self.finished is not None:
            self.finished.append((ref(task), intern(points), scope))
        if self.wants_errors and task._log_traceback:
            if self.failed is _EMPTY_DICT or len(self.failed) >= self.failed_limit:
                self.failed = {key: each for key, each in self.failed.items() if each.pending()}
                self.failed_limit = 2 * len(self.failed) + FEW
            self.failed[id(task)] = Failure(ref(task), intern(points), scope)

    def made_at(self, task: object) -> tuple[Points, Scope] | None:
        """Return raw site and scope of a task that reports something from its finalizer.

        Returns:
            The two; None if the ledger has not seen the task.
        """
        failure = self.failed.pop(id(task), None)
        # An id can be in use again.
        if failure is not None and failure.task() in (None, task):
            return failure.site.points, failure.scope
        for pair in attribute(task, "_callbacks") or ():
            entry = attribute(pair[0], "__self__")
            if is_a(entry, Entry) and entry.scope.counters is self:
                return entry.points, entry.scope
        for reference, points, scope, name in reversed(self.young):
            if name == id(task) and reference() in (None, task):
                return points, scope
        return None

    def unretrieved(self, scope: Scope) -> bool:
        """Return True if a task of a scope failed, exists, and nobody has retrieved its exception.

        It may be garbage that the collector has not found yet. O(failed tasks).
        """
        return any(
            each.pending() and each.scope.is_inside(scope) for each in [*self.failed.values()]
        )

    def retrieve_failures(self) -> list[BaseException]:
        """Retrieve the exceptions of failed tasks that nobody has retrieved; oldest task first.

        Such a task reports its exception only when it is freed. A log record may keep it alive by
        the frames of a traceback, and a test runner keeps the log records.
        """
        self.sweep()
        tasks = [each.task() for each in self.failed.values() if each.pending()]
        found = [task.exception() for task in tasks if task is not None]
        return [error for error in found if error is not None]

    def _sweep_tasks(self, spared: int) -> None:
        batch, number = self.young[: len(self.young) - spared], self.swept
        # In place: the task factory has bound the `append` of this very list.
        del self.young[: len(batch)]
        self.swept += len(batch)
        wants_finished, observer = self.finished is not None or self.wants_errors, self.observer
        for reference, points, scope, _ in batch:
            number += 1
            if observer is not None and not observer.made(points, scope):
                continue
            scope.made += 1
            task = reference()
            if task is None:
                continue
            try:
                if not task.done():
                    scope.hold(task, points, number, held=type(reference) is Held)
                elif wants_finished and (self.finished is not None or task._log_traceback):
                    self.ended(task, points, scope)
            except Exception as error:  # noqa: BLE001 - a factory may make tasks of any class
                self.hide("task", f"{type_name(task)}, which raise {type_name(error)}")

    def _bury(self) -> None:
        """Take the tasks that were destroyed while pending out of the count."""
        batch = self.dead[:]
        del self.dead[: len(batch)]
        for entry in batch:
            entry.scope.drop(entry)


def sweep_all(loop: asyncio.AbstractEventLoop) -> None:
    """Sweep every ledger of `loop`, so that each knows the tasks that have ended by now."""
    for counters in _installed.get(loop, ()):
        counters.sweep()


class Scope:
    """The account of one operation, such as a connection: all that it creates, also indirectly.

    `Ledger.scope` makes scopes. Inside `with scope:`, everything that is created is charged to it;
    after `enter`, everything that the current context creates. Scopes may nest: the innermost is
    charged, and those around it know that something is alive `within`.

    Attributes:
        name: its name in reports.
        outer: the scope, of any ledger, that was current when this one was made.
        parent: the innermost scope around it of its own ledger; None for the root.
        entries: its live tasks, by number.
        things: its live resources, and some that have ended since the last pruning.
        within: scopes directly inside it that have something alive, by number.
        number: 1 for the root, which is the ledger's first scope.
        made: tasks made in it, as of the last sweep.
        counters: the ledger's counters.
    """

    __slots__ = (
        *("__weakref__", "_tokens", "entries", "made", "name", "number"),
        *("outer", "parent", "counters", "things", "within"),
    )

    def __init__(
        self,
        name: str,
        counters: Counters,
        parent: Scope | None = None,
        outer: Scope | None = None,
    ) -> None:
        self.name = name
        self.counters = counters
        self.parent, self.outer = parent, outer
        self.made = 0
        self.entries: dict[int, Entry] = _EMPTY_DICT
        self.things: list[Resource] = _EMPTY_LIST
        self.within: dict[int, Scope] = _EMPTY_DICT
        self._tokens: list[Any] = _EMPTY_LIST
        counters.scopes_made += 1
        self.number = counters.scopes_made

    @property
    def live(self) -> int:
        """Number of its tasks that have not ended. O(1), amortised."""
        self.counters.sweep()
        return len(self.entries)

    @property
    def created(self) -> int:
        """Number of tasks made in it."""
        self.counters.sweep()
        return self.made

    @property
    def clean(self) -> bool:
        """True if nothing of any kind is alive in it or in a scope inside it.

        O(1), amortised, if the scope was clean before; else resources that have ended are pruned.
        """
        counters = self.counters
        if counters.young or counters.fresh or counters.dead:
            counters.sweep()
        return not (self.entries or ((self.things or self.within) and self.prune()))

    @property
    def certainly_clean(self) -> bool:
        """True if it is clean, and no failed task of it may be garbage; costs the same."""
        return self.clean and not (self.counters.failed and self.counters.unretrieved(self))

    @property
    def tasks(self) -> list[AnyTask]:
        """Live tasks charged to it, in creation order."""
        return [record.task for record in self.records(None)]

    def enter(self) -> None:
        """Charge to this scope everything that the current context creates from now on."""
        CURRENT.set(self)

    def records(self, scope: Scope | None) -> list[TaskRecord]:
        """Return records of its live tasks.

        Args:
            scope: the scope that the records name; None for the root.
        """
        self.counters.sweep()
        return [
            TaskRecord(task, entry.site, scope, entry.number)
            for entry in [*self.entries.values()]
            if (task := entry()) is not None and not task.done()
        ]

    def everything(self) -> list[TaskRecord | Resource]:
        """Return everything alive in it and in the scopes inside it.

        Returns:
            Records of tasks, then of resources, each in creation order.
        """
        self.prune()
        tasks: list[TaskRecord] = []
        things: list[Resource] = []
        for scope in [self, *self.inside()]:
            tasks += scope.records(scope if scope.parent is not None else None)
            things += scope.things
        tasks.sort(key=lambda record: record.number)
        things.sort(key=lambda thing: thing.number)
        return [*tasks, *things]

    def newer(self, tasks: int, resources: int) -> list[TaskRecord | Resource]:
        """Return its own live tasks and resources that are newer than given ones.

        O(records that are newer).

        Args:
            tasks: number of the last task to leave out.
            resources: number of the last resource to leave out.

        Returns:
            Records of tasks, then of resources, each newest first.
        """
        self.counters.sweep()
        owner = self if self.parent is not None else None
        found: list[TaskRecord | Resource] = []
        for entry in reversed([*self.entries.values()]):
            if entry.number <= tasks:
                break
            task = entry()
            if task is not None and not task.done():
                found.append(TaskRecord(task, entry.site, owner, entry.number))
        for thing in reversed(self.things):
            if thing.number <= resources:
                break
            if thing.alive():
                found.append(thing)
        return found

    def is_inside(self, scope: Scope) -> bool:
        """Return True if it is `scope`, or inside it at any depth."""
        each: Scope | None = self
        while each is not None and each is not scope:
            each = each.parent
        return each is scope

    def inside(self) -> list[Scope]:
        """Return the scopes inside it, at any depth, that have something alive; outermost first."""
        found = list(self.within.values())
        for scope in found:
            found += scope.within.values()
        return found

    def prune(self) -> int:
        """Remove resources that have ended, in it and in the scopes inside it.

        Returns:
            Number of tasks and resources that are alive there.
        """
        self.counters.sweep()
        return self._prune()

    def hold(self, task: AnyTask, points: Points, number: int, *, held: bool) -> None:
        """Charge a live task to this scope, until its end."""
        entry = Entry(task, _died)
        entry.held = task if held else None
        entry.begun = None if points else points
        entry.site, entry.scope, entry.number = intern(points), self, number
        task.add_done_callback(entry.forget)
        if not self.entries:
            self._link()
            if self.entries is _EMPTY_DICT:
                self.entries = {}
        self.entries[number] = entry
        counters = self.counters
        counters.count += 1
        if counters.observer is not None:
            counters.observer.held(entry)

    def keep(self, resource: Resource) -> None:
        """Charge a live resource to this scope, until a pruning finds that it has ended."""
        self._link()
        if self.things:
            self.things.append(resource)
        else:
            self.things = [resource]
        self.counters.held += 1
        if self.counters.observer is not None:
            self.counters.observer.kept(resource)

    def give_up(self, record: TaskRecord) -> None:
        """Remove a task that will not end from the count."""
        entry = self.entries.get(record.number)
        if entry is not None and entry() is record.task:
            record.task.remove_done_callback(entry.forget)
            entry.forget(record.task)

    def drop(self, entry: Entry) -> bool:
        """Remove an entry from the count; return False if it was removed before."""
        if self.entries.pop(entry.number, None) is None:
            return False
        counters = self.counters
        counters.count -= 1
        if counters.observer is not None:
            counters.observer.gone(entry)
        if not self.entries:
            self._unlink()
        return True

    def _prune(self) -> int:
        if self.things:
            before = len(self.things)
            self.things = [thing for thing in self.things if thing.alive()]
            self.counters.held -= before - len(self.things)
        alive = sum(scope._prune() for scope in list(self.within.values()))
        self._unlink()
        return alive + len(self.things) + len(self.entries)

    def _link(self) -> None:
        if self.parent is not None and self.number not in self.parent.within:
            self.parent._link()
            if self.parent.within is _EMPTY_DICT:
                self.parent.within = {}
            self.parent.within[self.number] = self

    def _unlink(self) -> None:
        if self.parent is None or self.entries or self.things or self.within:
            return
        if self.parent.within.pop(self.number, None) is not None:
            self.parent._unlink()

    def __enter__(self) -> Self:
        self._tokens = [*self._tokens, CURRENT.set(self)]
        return self

    def __exit__(self, *_error: object) -> None:
        CURRENT.reset(self._tokens.pop())

    def __repr__(self) -> str:
        return f"<Scope {self.name!r} live={self.live}>"


CURRENT: ContextVar[Scope | None] = ContextVar("scope", default=None)


def charged(scope: Scope | None, counters: Counters) -> Scope | None:
    """Return the innermost scope of a ledger that is `scope` or around it; None if there is none.

    Args:
        scope: of any ledger.
        counters: those of the ledger.
    """
    while scope is not None and scope.counters is not counters:
        scope = scope.outer
    return scope


def compact(root: Scope) -> None:
    """Sweep the older half of the new tasks, and prune resources once they are many.

    O(1) for each creation, amortised.

    Args:
        root: the root of the ledger.
    """
    counters = root.counters
    counters.sweep(spared=len(counters.young) // 2)
    if counters.held > counters.limit:
        root.prune()
        counters.limit = 2 * counters.held + FEW
