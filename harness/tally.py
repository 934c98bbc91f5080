"""The counters of a ledger, in two generations, and the record of a live task.

What is created goes onto a list and nothing else happens; what is still alive at the next look (or
when the list is full) is charged to its scope, and only a task that got so far pays for a done
callback. Most are gone by then and have cost one list entry.
"""

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary, ref

from harness.fence import AnyTask
from harness.sites import Points, Site, intern
from harness.waiting import Waiting, name_of, waiting_of

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from harness.kinds import Resource
    from harness.monitor.census import Census
    from harness.scope import Scope

YOUNG = 256  # creations after which a look is taken even if nobody asks
FEW = 256  # resources below which pruning is not worth it
_NONE: dict[Any, Any] = {}  # stands for a dictionary of weak keys until there is one

_installed: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple["Tally", ...]] = WeakKeyDictionary()


class TaskRecord(NamedTuple):
    """A live task: who it belongs to, where it was made, and our own number for it (1, 2, 3...).

    Numbers are the ledger's, since asyncio's `Task-7` comes from a counter of the whole process.
    """

    task: AnyTask
    site: Site
    scope: "Scope | None"
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


class Tally:
    """What a ledger and its scopes share.

    Attributes:
        active: whether a ledger is installed.
        loops: how many ledgers are: one for each loop.
        kinds: which kinds the ledger was asked for.
        attentive: whether exceptions that nobody asks for are wanted.
        census: counts by creation site, where a monitor wants that.
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
            "census",
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
        self.census: Census | None = None
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

    def ended(self, task: AnyTask, points: Points, scope: "Scope") -> None:
        """Remember of a finished task what may be asked later; by default nothing."""
        if self.finished is not None:
            self.finished.append((ref(task), intern(points), scope))
        # Whether it would complain is told nowhere else.
        if self.attentive and task._log_traceback:  # noqa: SLF001
            if self.failed is _NONE:
                self.failed = WeakKeyDictionary()
            self.failed[task] = intern(points), scope

    def _sweep_tasks(self, spared: int) -> None:
        batch, number = self.young[: len(self.young) - spared], self.swept
        # In place: the task factory holds on to the list.
        del self.young[: len(batch)]
        self.swept += len(batch)
        attentive, census = self.finished is not None or self.attentive, self.census
        for task, points, scope in batch:
            number += 1
            if census is not None and not census.made(task, points, scope):
                continue
            scope.made += 1
            if not task.done():
                scope.hold(task, intern(points), number)
            elif attentive and (self.finished is not None or task._log_traceback):  # noqa: SLF001
                self.ended(task, points, scope)


def sweep_all(loop: asyncio.AbstractEventLoop) -> None:
    """Have every ledger of `loop` let go of what has ended, lest one keep it in another's eyes."""
    for tally in _installed.get(loop, ()):
        tally.sweep()
