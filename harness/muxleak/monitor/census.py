"""Counts by creation site, kept as tasks come and go, and which connections are open.

Whatever code it meets, it keeps at most so many rows; what has no row of its own is counted in one
that all such sites share.
"""

from collections import Counter, deque
from types import CodeType
from typing import Any

from muxleak.introspect.sites import Points, Site, SiteFrame
from muxleak.introspect.waiting import AnyTask
from muxleak.ledger.counters import CURRENT, FEW, Resource, Scope, charged

OTHER = "other sites"
_KEYS_PER_ROW = 16


class SiteRow:
    """What is known of the tasks made on one line.

    Attributes:
        site: "file:line in function".
        live: tasks that have not ended, of those that were alive at some look.
        made: tasks made.
        of_open: those of `live` that a connection caused which is open.
        samples: what was `left` at each of the last looks.
        climbing: whether an alarm is on.
    """

    __slots__ = ("climbing", "live", "made", "of_open", "samples", "site")

    def __init__(self, site: str, window: int) -> None:
        self.site = site
        self.live = self.made = self.of_open = 0
        self.samples: deque[int] = deque(maxlen=window)
        self.climbing = False

    @property
    def left(self) -> int:
        """Live tasks that no open connection accounts for."""
        return self.live - self.of_open


class Census:
    """What a ledger's counters tells it, by site.

    Attributes:
        own: whose tasks are not counted: the monitor's.
        rows: by site, at most `max_sites`, in the order in which they were met.
        other: all sites that came when there was no row left.
        accepted: connections that servers have accepted.
        ended: those whose transport was found gone.
    """

    def __init__(self, root: Scope, max_sites: int, window: int) -> None:
        self._root, self._counters = root, root.counters
        self._max_sites, self._window = max_sites, window
        self.own = Scope("monitor", self._counters, root)
        self.rows: dict[str, SiteRow] = {}
        self.other = SiteRow(OTHER, window)
        self.accepted = self.ended = 0
        self._begun = 0
        self._open: dict[Scope, list[Resource]] = {}
        self._ending: set[Scope] = set()
        self._things: list[Resource] = []
        self._limit = self._open_limit = FEW
        # By address: code objects hash by value, slowly. They are held, so that none is reused.
        self._keys: dict[tuple[int, int], tuple[CodeType | None, SiteRow]] = {}

    def all_rows(self) -> list[SiteRow]:
        """Every row that counts something."""
        return [*self.rows.values(), *([self.other] if self.other.made else [])]

    def adopt(self) -> None:
        """Count what was alive before."""
        for scope in [self._root, *self._root.inside()]:
            for task, (site, _) in scope.entries.items():
                self._row(task, site.innermost).made += 1
                self.held(task, site, scope)
            for thing in scope.things:
                self.kept(thing)

    def made(self, task: AnyTask, points: Points, scope: Scope) -> bool:
        """Note a new task; False if it is not to be counted by anybody."""
        if scope is self.own:
            return False
        # Not through `_row`, but where it is new: this is done for every task.
        code, instruction = (points[0], points[1]) if points else (_code(task), -1)
        found = self._keys.get((id(code), instruction))
        row = found[1] if found is not None else self._row(task, (code, instruction))
        row.made += 1
        return True

    def held(self, task: AnyTask, site: Site, scope: Scope) -> None:
        """Note a task that has lived until a look."""
        row = self._row(task, site.innermost)
        row.live += 1
        row.of_open += self._is_open(scope)

    def gone(self, task: AnyTask, site: Site, scope: Scope) -> None:
        """Note its end."""
        row = self._row(task, site.innermost)
        row.live -= 1
        row.of_open -= self._is_open(scope)

    def kept(self, thing: Resource) -> None:
        """Note a resource; amortised O(1)."""
        self._things.append(thing)
        if len(self._things) > self._limit:
            self.count()

    def count(self) -> Counter[str]:
        """How many resources of which kind are alive."""
        self._things = [thing for thing in self._things if thing.alive()]
        self._limit = 2 * len(self._things) + FEW
        return Counter(thing.kind for thing in self._things)

    def begin(self, outer: Scope | None) -> None:
        """Give a connection that is being accepted a scope, which its own context may replace."""
        self._begun += 1
        current, counters = CURRENT.get(), self._counters
        # Another ledger may have given it one already. One of ours is that of an earlier
        # connection, where a loop accepts them all in one context.
        if current is not None and current.counters is not counters:
            outer = current
        parent = self._root if outer is None else charged(outer, counters) or self._root
        CURRENT.set(Scope(f"connection {self._begun}", counters, parent, outer))

    def connected(self, scope: Scope, transport: Resource) -> None:
        """Note that a connection is open, and that what `scope` is charged for is its."""
        self.accepted += 1
        if scope is self._root:
            return
        transports = self._open.get(scope)
        if transports is not None:
            transports.append(transport)
            return
        if scope.entries or scope.within:
            self._shift(scope, 1)
        self._open[scope] = [transport]
        if len(self._open) > self._open_limit:
            self._counters.sweep()
            self._find_ended()

    def look(self) -> None:
        """Let connections end whose transport was gone at the look before already.

        So what a connection leaves has one interval to end in.
        """
        ending = self._find_ended()
        for scope in ending & self._ending:
            del self._open[scope]
            self._shift(scope, -1)
        self._ending = ending - self._ending

    def _find_ended(self) -> set[Scope]:
        """Forget the connections that have ended and left nothing; return those that left tasks."""
        gone: set[Scope] = set()
        over: list[Scope] = []
        for scope, transports in self._open.items():
            if len(transports) == 1 and transports[0].alive():
                continue
            alive = [each for each in transports if each.alive()]
            self.ended += len(transports) - len(alive)
            transports[:] = alive
            if not alive:
                (gone.add if scope.entries or scope.within else over.append)(scope)
        for scope in over:
            del self._open[scope]
        self._open_limit = 2 * len(self._open) + FEW
        return gone

    def _shift(self, scope: Scope, by: int) -> None:
        """Count the tasks of a scope that is not open as those of one that is, or back."""
        for each in [scope, *scope.inside()]:
            if each.entries and not self._is_open(each):
                for task, (site, _) in each.entries.items():
                    self._row(task, site.innermost).of_open += by

    def _is_open(self, scope: Scope | None) -> bool:
        while scope is not None:
            if scope in self._open:
                return True
            scope = scope.parent
        return False

    def _row(self, task: AnyTask, point: tuple[Any, ...] | None) -> SiteRow:
        """The row of a place, or of where the task begins if asyncio itself made it."""
        code, instruction = point or (_code(task), -1)
        key = id(code), instruction
        found = self._keys.get(key)
        if found is not None:
            return found[1]
        if len(self._keys) >= _KEYS_PER_ROW * self._max_sites:
            self._keys.clear()
        row = self._named(_text(code, instruction))
        self._keys[key] = code, row
        return row

    def _named(self, site: str) -> SiteRow:
        row = self.rows.get(site)
        if row is None:
            # Once full, full: a task must leave the row that it came into.
            if len(self.rows) >= self._max_sites:
                return self.other
            row = self.rows[site] = SiteRow(site, self._window)
        return row


def _code(task: AnyTask) -> CodeType | None:
    return getattr(task.get_coro(), "cr_code", None)


def _text(code: CodeType | None, instruction: int) -> str:
    if code is None:
        return "unknown"
    if instruction < 0:
        return str(SiteFrame(code.co_filename, code.co_firstlineno, code.co_qualname))
    return str(Site(((code, instruction),)))
