"""A scope: what one operation caused, counted apart from everything else."""

# The scopes of a ledger are one tree and see each other's state:
# ruff: noqa: SLF001

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Self

from harness.fence import AnyTask
from harness.sites import Site
from harness.tally import FEW, Tally, TaskRecord

if TYPE_CHECKING:
    from harness.kinds import Resource

_NONE: dict[Any, Any] = {}  # what stands for containers that hold nothing yet, and is never changed
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
        tally: the ledger's counters.
    """

    __slots__ = (
        *("__weakref__", "_tokens", "entries", "made", "name", "number"),
        *("outer", "parent", "tally", "things", "within"),
    )

    def __init__(
        self,
        name: str,
        tally: Tally,
        parent: "Scope | None" = None,
        outer: "Scope | None" = None,
    ) -> None:
        self.name = name
        self.tally = tally
        self.parent, self.outer = parent, outer
        self.made = 0
        # Most scopes hold nothing when they are looked at, so each makes room when it has to.
        self.entries: dict[AnyTask, tuple[Site, int]] = _NONE
        self.things: list[Resource] = _NOTHING
        self.within: dict[int, Scope] = _NONE
        self._tokens: list[Any] = _NOTHING
        tally.scopes_made += 1
        self.number = tally.scopes_made

    @property
    def live(self) -> int:
        """How many of its tasks have not ended. O(1)."""
        self.tally.sweep()
        return len(self.entries)

    @property
    def created(self) -> int:
        """How many tasks were made in it."""
        self.tally.sweep()
        return self.made

    @property
    def clean(self) -> bool:
        """Whether nothing of any kind is alive in it or in a scope inside it.

        O(1) when that is so already; else whatever has ended since the last look is let go first.
        """
        if self.tally.young or self.tally.fresh:
            self.tally.sweep()
        return not (self.entries or ((self.things or self.within) and self.prune()))

    @property
    def tasks(self) -> list[AnyTask]:
        """Its live tasks, in creation order."""
        self.tally.sweep()
        return [task for task in self.entries if not task.done()]

    def enter(self) -> None:
        """Attribute to this scope what the current context creates from now on."""
        CURRENT.set(self)

    def records(self, scope: "Scope | None") -> list[TaskRecord]:
        """Its live tasks, as records that name `scope`."""
        self.tally.sweep()
        return [
            TaskRecord(task, site, scope, number)
            for task, (site, number) in self.entries.items()
            if not task.done()
        ]

    def everything(self) -> "list[TaskRecord | Resource]":
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

    def newer(self, tasks: int, resources: int) -> "list[TaskRecord | Resource]":
        """Its own live things whose numbers are above these, newest first; O(what it returns)."""
        self.tally.sweep()
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

    def is_inside(self, scope: "Scope") -> bool:
        """Whether it is `scope` or inside it."""
        each: Scope | None = self
        while each is not None and each is not scope:
            each = each.parent
        return each is scope

    def inside(self) -> "list[Scope]":
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
        self.tally.sweep()
        return self._prune()

    def hold(self, task: AnyTask, site: Site, number: int) -> None:
        """Take a live task onto the count."""
        if not self.entries:
            self._wake()
            if self.entries is _NONE:
                self.entries = {}
        self.entries[task] = site, number
        tally = self.tally
        tally.count += 1
        if tally.census is not None:
            tally.census.held(task, site, self)
        task.add_done_callback(self.forget)

    def keep(self, resource: "Resource") -> None:
        """Take a live resource onto the list."""
        self._wake()
        if self.things:
            self.things.append(resource)
        else:
            self.things = [resource]
        self.tally.held += 1
        if self.tally.census is not None:
            self.tally.census.kept(resource)

    def forget(self, task: AnyTask) -> None:
        """Take a task that is done, or given up, off the count."""
        site, _ = self.entries.pop(task)
        tally = self.tally
        tally.count -= 1
        if tally.census is not None:
            tally.census.gone(task, site, self)
        if not self.entries:
            self._rest()
        if (tally.finished is not None or tally.attentive) and task.done():
            tally.ended(task, site.points, self)

    def _prune(self) -> int:
        if self.things:
            before = len(self.things)
            self.things = [thing for thing in self.things if thing.alive()]
            self.tally.held -= before - len(self.things)
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


def charged(scope: Scope | None, tally: Tally) -> Scope | None:
    """The innermost scope of that ledger around and including `scope`."""
    while scope is not None and scope.tally is not tally:
        scope = scope.outer
    return scope


def tidy(root: Scope) -> None:
    """Sweep, and let go of resources that have ended once they are many; amortised O(1)."""
    tally = root.tally
    # What was made a moment ago has had no time to end.
    tally.sweep(spared=len(tally.young) // 2)
    if tally.held > tally.limit:
        root.prune()
        tally.limit = 2 * tally.held + FEW
