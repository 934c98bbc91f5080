"""The counters of a ledger, in two generations, and the record of a live task.

What is created goes onto a list and nothing else happens; what is still alive at the next look (or
when the list is full) is charged to its scope, and only a task that got so far pays for a done
callback. Most are gone by then and have cost one list entry.
"""

from __future__ import annotations

# The scopes of a ledger are one tree and see each other's state:
# ruff: noqa: SLF001
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self
from weakref import WeakKeyDictionary, ref

from muxleak.introspect.sites import Points, Site, intern
from muxleak.introspect.waiting import AnyTask, Waiting, name_of, scrub, waiting_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import MutableMapping


YOUNG = 256  # creations after which a look is taken even if nobody asks
_MAX_STATE = 160  # characters
FEW = 256  # resources below which pruning is not worth it
_NONE: dict[Any, Any] = {}  # stands for a dictionary that is still empty; never changed

_installed: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[Counters, ...]] = WeakKeyDictionary()


class TaskRecord(NamedTuple):
    """A live task: who it belongs to, where it was made, and our own number for it (1, 2, 3...).

    Numbers are the ledger's, since asyncio's `Task-7` comes from a counter of the whole process.
    """

    task: AnyTask
    site: Site
    scope: Scope | None
    number: int

    @property
    def kind(self) -> str:
        """As a resource tells it."""
        return "task"

    @property
    def name(self) -> str:
        """The qualified name of the task's coroutine."""
        return name_of(self.task)

    def waiting_on(self) -> Waiting:
        """Where the task is suspended and on what; never raises."""
        return waiting_of(self.task)

    def state(self) -> str:
        """Where it waits, in one line."""
        return str(self.waiting_on())

    def thing(self) -> AnyTask:
        """The task."""
        return self.task


class Resource:
    """Something that ought to end: what it is, who caused it and where.

    Attributes:
        kind: one of `KINDS`.
        name: what it is called in reports.
        points: where it was made, as `sites.trace` gave it.
        owner: the scope that is charged.
        number: in order of creation; 0 until the ledger has seen it.
    """

    __slots__ = ("_ref", "name", "number", "owner", "points")
    kind: ClassVar[str]

    def __init__(self, thing: Any, name: str, points: Points, owner: Scope) -> None:
        self._ref = ref(thing)
        self.name = name
        self.points = points
        self.owner = owner
        self.number = 0

    @property
    def site(self) -> Site:
        """Where it was made."""
        return intern(self.points)

    @property
    def scope(self) -> Scope | None:
        """Whose it is; None outside every scope."""
        return self.owner if self.owner.parent is not None else None

    def thing(self) -> Any:
        """The thing itself, or None if it is gone."""
        return self._ref()

    def alive(self) -> bool:
        """Whether it is still there."""
        thing = self._ref()
        return thing is not None and self.open(thing)

    def open(self, thing: Any) -> bool:
        """Whether the thing, which exists, is still in use."""
        raise NotImplementedError

    def state(self) -> str:
        """What it is doing, in one line; never raises."""
        try:
            return scrub(self.describe(self._ref()), _MAX_STATE)
        except Exception as exc:  # noqa: BLE001 - a report must not fail over what it reports on
            return f"is unreadable ({type(exc).__name__})"

    def describe(self, thing: Any) -> str:
        """What `state` says."""
        raise NotImplementedError

    def waiting_on(self) -> Waiting:
        """As of a task; a resource has no chain of frames."""
        return Waiting((), self.name, self.state())

    def end(self) -> None:
        """Close it, as far as that is possible from outside and at once."""


class Observer(Protocol):
    """Is called by the counters of a ledger as tasks, resources and connections come and go.

    The monitor implements it, to count by creation site; without one, each call site costs one test
    for None.
    """

    def made(self, task: AnyTask, points: Points, scope: Scope) -> bool:
        """Note a new task; return False to leave it out of every count."""

    def held(self, task: AnyTask, site: Site, scope: Scope) -> None:
        """Note a task that was alive at a sweep."""

    def gone(self, task: AnyTask, site: Site, scope: Scope) -> None:
        """Note the end of a task that was `held`."""

    def kept(self, resource: Resource) -> None:
        """Note a resource that was alive at a sweep."""

    def begin(self, outer: Scope | None) -> None:
        """Note that a connection is being accepted; `outer` was current when its server began."""

    def connected(self, scope: Scope, transport: Resource) -> None:
        """Note that the transport of an accepted connection is open, and its scope."""


class Counters:
    """What a ledger and its scopes share.

    Attributes:
        active: whether a ledger is installed.
        loops: how many ledgers are: one for each loop.
        kinds: which kinds the ledger was asked for.
        attentive: whether exceptions that nobody asks for are wanted.
        observer: is told of what comes and goes, where a monitor wants that.
        count: tasks charged to scopes and alive; the ledger adds nothing until `sweep`.
        young: tasks since the last sweep: task, raw site, scope.
        fresh: resources since the last sweep; other threads may append.
        failed: where tasks were made that ended with an exception nobody has asked for yet.
        finished: weak references to finished tasks, while somebody wants to know who keeps them.
    """

    __slots__ = (
        *(
            "__weakref__",
            "active",
            "attentive",
            "observer",
            "count",
            "failed",
            "finished",
            "fresh",
            "held",
            "kinds",
        ),
        *("limit", "loops", "resources_made", "scopes_made", "swept", "young"),
    )

    def __init__(self, kinds: frozenset[str]) -> None:
        self.active, self.loops = False, 0
        self.kinds = kinds
        self.count = self.swept = self.scopes_made = self.resources_made = 0
        self.held, self.limit = 0, FEW
        self.young: list[tuple[AnyTask, Points, Scope]] = []
        self.fresh: list[Resource] = []
        self.failed: MutableMapping[AnyTask, tuple[Site, Scope]] = _NONE
        self.attentive = "error" in kinds
        self.observer: Observer | None = None
        self.finished: list[tuple[ref[AnyTask], Site, Scope]] | None = None

    def install(self, loop: asyncio.AbstractEventLoop) -> None:
        """Note that a ledger counts what `loop` makes."""
        _installed[loop] = (*_installed.get(loop, ()), self)
        self.loops += 1
        self.active = True

    def uninstall(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Undo one `install`; of a loop that is gone, only the count."""
        if loop is not None:
            left = list(_installed.pop(loop))
            left.remove(self)
            if left:
                _installed[loop] = tuple(left)
        self.loops -= 1
        self.active = self.loops > 0

    @property
    def created(self) -> int:
        """How many tasks were made."""
        return self.swept + len(self.young)

    def sweep(self, spared: int = 0) -> None:
        """Charge what is new and alive to its scope; let go of what has ended.

        Args:
            spared: how many of the newest tasks to leave for the next time.
        """
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
        """Remember of a finished task what may be asked later; by default nothing."""
        if self.finished is not None:
            self.finished.append((ref(task), intern(points), scope))
        # Whether it would complain is told nowhere else.
        if self.attentive and task._log_traceback:
            if self.failed is _NONE:
                self.failed = WeakKeyDictionary()
            self.failed[task] = intern(points), scope

    def _sweep_tasks(self, spared: int) -> None:
        batch, number = self.young[: len(self.young) - spared], self.swept
        # In place: the task factory holds on to the list.
        del self.young[: len(batch)]
        self.swept += len(batch)
        attentive, observer = self.finished is not None or self.attentive, self.observer
        for task, points, scope in batch:
            number += 1
            if observer is not None and not observer.made(task, points, scope):
                continue
            scope.made += 1
            if not task.done():
                scope.hold(task, intern(points), number)
            elif attentive and (self.finished is not None or task._log_traceback):
                self.ended(task, points, scope)


def sweep_all(loop: asyncio.AbstractEventLoop) -> None:
    """Have every ledger of `loop` let go of what has ended, lest one keep it in another's eyes."""
    for counters in _installed.get(loop, ()):
        counters.sweep()


_NOTHING: list[Any] = []


class Scope:
    """What one operation, such as a connection, caused: whatever is made inside it and by that.

    Made by `Ledger.scope`. `with scope:` attributes to it what the block creates; `enter` does so
    for the rest of the current context. Scopes may nest; the innermost is charged, and the ones
    around it know that something lives `within`.

    Attributes:
        name: for reports.
        outer: the scope, of any ledger, that was current when this one was made.
        parent: the same, but of this ledger; its root at last. Only the root has none.
        entries: its live tasks with their site and number.
        things: its live resources of other kinds, and some that have ended since the last look.
        within: scopes inside it that have something alive.
        number: of the scope, counted by the ledger.
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
        # Most scopes hold nothing when they are looked at, so each makes room when it has to.
        self.entries: dict[AnyTask, tuple[Site, int]] = _NONE
        self.things: list[Resource] = _NOTHING
        self.within: dict[int, Scope] = _NONE
        self._tokens: list[Any] = _NOTHING
        counters.scopes_made += 1
        self.number = counters.scopes_made

    @property
    def live(self) -> int:
        """How many of its tasks have not ended. O(1)."""
        self.counters.sweep()
        return len(self.entries)

    @property
    def created(self) -> int:
        """How many tasks were made in it."""
        self.counters.sweep()
        return self.made

    @property
    def clean(self) -> bool:
        """Whether nothing of any kind is alive in it or in a scope inside it.

        O(1) when that is so already; else whatever has ended since the last look is let go first.
        """
        if self.counters.young or self.counters.fresh:
            self.counters.sweep()
        return not (self.entries or ((self.things or self.within) and self.prune()))

    @property
    def tasks(self) -> list[AnyTask]:
        """Its live tasks, in creation order."""
        self.counters.sweep()
        return [task for task in self.entries if not task.done()]

    def enter(self) -> None:
        """Attribute to this scope what the current context creates from now on."""
        CURRENT.set(self)

    def records(self, scope: Scope | None) -> list[TaskRecord]:
        """Its live tasks, as records that name `scope`."""
        self.counters.sweep()
        return [
            TaskRecord(task, site, scope, number)
            for task, (site, number) in self.entries.items()
            if not task.done()
        ]

    def everything(self) -> list[TaskRecord | Resource]:
        """What is alive in it and in the scopes inside it: tasks first, in creation order."""
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
        """Its own live things whose numbers are above these, newest first; O(what it returns)."""
        self.counters.sweep()
        owner = self if self.parent is not None else None
        found: list[TaskRecord | Resource] = []
        for task, (site, number) in reversed(self.entries.items()):
            if number <= tasks:
                break
            if not task.done():
                found.append(TaskRecord(task, site, owner, number))
        for thing in reversed(self.things):
            if thing.number <= resources:
                break
            if thing.alive():
                found.append(thing)
        return found

    def is_inside(self, scope: Scope) -> bool:
        """Whether it is `scope` or inside it."""
        each: Scope | None = self
        while each is not None and each is not scope:
            each = each.parent
        return each is scope

    def inside(self) -> list[Scope]:
        """The scopes inside it, at any depth, that have something alive; outermost first."""
        found = list(self.within.values())
        for scope in found:
            found += scope.within.values()
        return found

    def prune(self) -> int:
        """Let go of resources that have ended.

        Returns:
            How many things of any kind are alive in it and in the scopes inside it.
        """
        self.counters.sweep()
        return self._prune()

    def hold(self, task: AnyTask, site: Site, number: int) -> None:
        """Take a live task onto the count."""
        if not self.entries:
            self._wake()
            if self.entries is _NONE:
                self.entries = {}
        self.entries[task] = site, number
        counters = self.counters
        counters.count += 1
        if counters.observer is not None:
            counters.observer.held(task, site, self)
        task.add_done_callback(self.forget)

    def keep(self, resource: Resource) -> None:
        """Take a live resource onto the list."""
        self._wake()
        if self.things:
            self.things.append(resource)
        else:
            self.things = [resource]
        self.counters.held += 1
        if self.counters.observer is not None:
            self.counters.observer.kept(resource)

    def forget(self, task: AnyTask) -> None:
        """Take a task that is done, or given up, off the count."""
        site, _ = self.entries.pop(task)
        counters = self.counters
        counters.count -= 1
        if counters.observer is not None:
            counters.observer.gone(task, site, self)
        if not self.entries:
            self._rest()
        if (counters.finished is not None or counters.attentive) and task.done():
            counters.ended(task, site.points, self)

    def _prune(self) -> int:
        if self.things:
            before = len(self.things)
            self.things = [thing for thing in self.things if thing.alive()]
            self.counters.held -= before - len(self.things)
        alive = sum(scope._prune() for scope in list(self.within.values()))
        self._rest()
        return alive + len(self.things) + len(self.entries)

    def _wake(self) -> None:
        if self.parent is not None and self.number not in self.parent.within:
            self.parent._wake()
            if self.parent.within is _NONE:
                self.parent.within = {}
            self.parent.within[self.number] = self

    def _rest(self) -> None:
        if self.parent is None or self.entries or self.things or self.within:
            return
        if self.parent.within.pop(self.number, None) is not None:
            self.parent._rest()

    def __enter__(self) -> Self:
        self._tokens = [*self._tokens, CURRENT.set(self)]
        return self

    def __exit__(self, *_error: object) -> None:
        CURRENT.reset(self._tokens.pop())

    def __repr__(self) -> str:
        return f"<Scope {self.name!r} live={self.live}>"


CURRENT: ContextVar[Scope | None] = ContextVar("scope", default=None)


def charged(scope: Scope | None, counters: Counters) -> Scope | None:
    """The innermost scope of that ledger around and including `scope`."""
    while scope is not None and scope.counters is not counters:
        scope = scope.outer
    return scope


def tidy(root: Scope) -> None:
    """Sweep, and let go of resources that have ended once they are many; amortised O(1)."""
    counters = root.counters
    # What was made a moment ago has had no time to end.
    counters.sweep(spared=len(counters.young) // 2)
    if counters.held > counters.limit:
        root.prune()
        counters.limit = 2 * counters.held + FEW
