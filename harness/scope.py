"""A scope: what one operation caused, counted apart from everything else."""

from contextvars import ContextVar
from typing import Any, NamedTuple, Self

from harness.fence import AnyTask
from harness.sites import Site
from harness.waiting import Waiting, name_of, waiting_of


class TaskRecord(NamedTuple):
    """A live task: who it belongs to, where it was made, and our own number for it (1, 2, 3...).

    Numbers are the ledger's, since asyncio's `Task-7` comes from a counter of the whole process.
    """

    task: AnyTask
    site: Site
    scope: "Scope | None"
    number: int

    @property
    def name(self) -> str:
        """The qualified name of the task's coroutine."""
        return name_of(self.task)

    def waiting_on(self) -> Waiting:
        """Where the task is suspended and on what; never raises."""
        return waiting_of(self.task)


class Tally:
    """What a ledger and its scopes share; it refers to a scope only while that has live tasks."""

    __slots__ = ("active", "count", "created", "scopes", "scopes_made")

    def __init__(self) -> None:
        self.active = False
        self.count = self.created = self.scopes_made = 0
        self.scopes: dict[int, Scope] = {}


class Scope:
    """What one operation, such as a connection, caused: the tasks made inside it and by those.

    Made by `Ledger.scope`. `with scope:` attributes to it what the block creates; `enter` does so
    for the rest of the current context. Scopes may nest; the innermost is charged.

    Attributes:
        name: for reports.
        created: how many tasks were made in it.
        entries: its live tasks with their site and number; the ledger fills it.
        number: of the scope, counted by the ledger.
        tally: the ledger's counters.
    """

    __slots__ = ("__weakref__", "_tokens", "created", "entries", "name", "number", "tally")

    def __init__(self, name: str, tally: Tally) -> None:
        self.name = name
        self.created = 0
        self.tally = tally
        self.entries: dict[AnyTask, tuple[Site, int]] = {}
        self._tokens: list[Any] = []
        tally.scopes_made += 1
        self.number = tally.scopes_made

    @property
    def live(self) -> int:
        """How many of its tasks have not ended. O(1)."""
        return len(self.entries)

    @property
    def tasks(self) -> list[AnyTask]:
        """Its live tasks, in creation order."""
        return [task for task in self.entries if not task.done()]

    def enter(self) -> None:
        """Attribute to this scope what the current context creates from now on."""
        CURRENT.set(self)

    def records(self, scope: "Scope | None") -> list[TaskRecord]:
        """Its live tasks, as records that name `scope`."""
        return [
            TaskRecord(task, site, scope, number)
            for task, (site, number) in self.entries.items()
            if not task.done()
        ]

    def forget(self, task: AnyTask) -> None:
        """Take a task that is done off the count."""
        del self.entries[task]
        self.tally.count -= 1
        if not self.entries:
            del self.tally.scopes[self.number]

    def __enter__(self) -> Self:
        self._tokens.append(CURRENT.set(self))
        return self

    def __exit__(self, *_error: object) -> None:
        CURRENT.reset(self._tokens.pop())

    def __repr__(self) -> str:
        return f"<Scope {self.name!r} live={self.live}>"


CURRENT: ContextVar[Scope | None] = ContextVar("scope", default=None)
