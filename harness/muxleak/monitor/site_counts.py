"""Counts live tasks by creation site, apart from those that belong to open connections."""

# The question is which tasks a service has lost, so a task counts as *left* if no open connection
# accounts for it. That needs three facts about each task: where it was made, that it is alive, and
# the connection that caused it.
#
# Rows. There is one row for each creation site: the line that made the task, or the first line of
# its coroutine if asyncio made the task (as for the handlers of `asyncio.start_server`). Memory is
# bounded whatever code the service runs: at most `max_sites` rows, and one more, "other sites", for
# all sites that come later. No row is ever freed: when a task ends, its site must name the row that
# counted it, and a site of "other sites" that got a row of its own later would name another one.
#
# Open connections. The ledger's hooks call `begin` before the protocol of an accepted connection is
# made, and `connected` when its transport opens:
#
# - `begin` makes a scope for the connection current, so that everything that the connection starts
#   is charged to that scope or one inside it. The protocol factory runs next, and may enter a scope
#   of its own (`Ledger.scoped_factory`), which then is that of the connection.
# - A connection is open as long as its transport is. A scope may have several transports, where the
#   service accepts all connections in one context; it is open until all have ended.
# - A task belongs to an open connection if its scope, or any scope around it, is open. When a scope
#   opens or ends, the tasks that it holds at that moment change sides (`_shift`).
# - The root scope is never open: all tasks of the service are inside it.
# - A connection with live tasks stays open until two samples have found its transport gone, so that
#   its tasks have one interval to end in. Otherwise each sample would count the tasks of
#   connections that are just closing. A connection without live tasks is forgotten at once.
#
# Invariant: `row.of_open` is the number of live tasks of the row whose scope is open, and so
# 0 <= of_open <= live.
#
# Costs. The ledger calls `made` once for each task, at a sweep, and `held` and `gone` only for
# tasks that were alive at a sweep. `made` is one dictionary look-up by the address of a code
# object, since code objects hash by value, which is slow. A sample costs a call for each open
# connection. `_open` is pruned when it has doubled, so that it stays bounded if nobody takes
# samples.

from collections import Counter, deque
from types import CodeType

from muxleak.introspect.sites import Points, Site, SiteFrame
from muxleak.ledger.counters import CURRENT, FEW, Entry, Observer, Resource, Scope, charged
from muxleak.monitor.connections import StuckConnections
from muxleak.monitor.message_counts import MessageCounts

OTHER = "other sites"
_KEYS_PER_ROW = 16


class SiteRow:
    """The counts of the tasks made on one line.

    Attributes:
        site: "file:line in function".
        live: tasks that were alive at a sweep and have not ended.
        made: tasks made.
        destroyed: tasks that a garbage collection has destroyed while they were pending.
        of_open: those of `live` that belong to an open connection.
        samples: `left` at each of the last samples.
        climbing: True while an alarm is on.
    """

    __slots__ = ("climbing", "destroyed", "live", "made", "of_open", "samples", "site")

    def __init__(self, site: str, window: int) -> None:
        self.site = site
        self.live = self.made = self.destroyed = self.of_open = 0
        self.samples: deque[int] = deque(maxlen=window)
        self.climbing = False

    @property
    def left(self) -> int:
        """Live tasks that belong to no open connection."""
        return self.live - self.of_open


class SiteCounts(Observer):
    """Counts the tasks of a ledger by creation site, and its open connections.

    Args:
        root: of the ledger.
        max_sites: the number of sites that get a row of their own.
        window: the number of samples that each row keeps.

    Attributes:
        own: the scope of the monitor's own tasks, which are not counted.
        rows: maps sites to rows, in the order of their first task.
        other: the row of all sites that came after `rows` was full.
        accepted: connections that servers have accepted.
        ended: those of them whose transport was found gone.
        stuck: those of them that serve nobody.
        messages: lost exceptions, messages to the exception handler, and ResourceWarnings.
    """

    def __init__(self, root: Scope, max_sites: int, window: int) -> None:
        self._root, self._counters = root, root.counters
        self._max_sites, self._window = max_sites, window
        self.own = Scope("monitor", self._counters, root)
        self.rows: dict[str, SiteRow] = {}
        self.other = SiteRow(OTHER, window)
        self.stuck = StuckConnections(window)
        self.messages = MessageCounts(max_sites)
        self.accepted = self.ended = 0
        self._begun = 0
        self._open: dict[Scope, list[Resource]] = {}
        self._ending: set[Scope] = set()
        self._resources: list[Resource] = []
        self._unscoped: list[Resource] = []
        self._limit = self._open_limit = self._unscoped_limit = FEW
        # By address: code objects hash by value, slowly. They are held, so that none is reused.
        self._keys: dict[tuple[int, int], tuple[CodeType | None, SiteRow]] = {}

    def all_rows(self) -> list[SiteRow]:
        """Return every row that has counted a task."""
        return [*self.rows.values(), *([self.other] if self.other.made else [])]

    def adopt(self) -> None:
        """Count the tasks and resources that the ledger holds already."""
        for scope in [self._root, *self._root.inside()]:
            for entry in [*scope.entries.values()]:
                self.held(entry)
                entry.row.made += 1
            for resource in scope.things:
                self.kept(resource)

    def made(self, points: Points, scope: Scope) -> bool:
        """Count a new task; return False for the monitor's own, which no count includes."""
        if scope is self.own:
            return False
        # `_row` only for a new site: this is done for every task.
        if points:
            found = self._keys.get((id(points[0]), points[1]))
        else:
            found = self._keys.get((id(getattr(points, "code", None)), -1))
        row = found[1] if found is not None else self._row(points)
        row.made += 1
        return True

    def held(self, entry: Entry) -> None:
        """Count a task that was alive at a sweep."""
        row = entry.row = self._row(entry.points)
        row.live += 1
        row.of_open += self._is_open(entry.scope)

    def gone(self, entry: Entry) -> None:
        """Count the end of a task that was `held`."""
        row: SiteRow = entry.row
        row.live -= 1
        row.of_open -= self._is_open(entry.scope)

    def destroyed(self, points: Points) -> None:
        """Count a task that a garbage collection has destroyed while it was pending."""
        self._row(points).destroyed += 1

    def noted(self, record: Resource) -> None:
        """Count a lost exception, a message or a warning."""
        self.messages.add(record)

    def kept(self, resource: Resource) -> None:
        """Count a resource that was alive at a sweep, but for the monitor's own; amortised O(1)."""
        if resource.owner is self.own:
            return
        self._resources.append(resource)
        if len(self._resources) > self._limit:
            self.count_resources()

    def count_resources(self) -> Counter[str]:
        """Return the number of live resources of each kind."""
        self._resources = [each for each in self._resources if each.alive()]
        self._limit = 2 * len(self._resources) + FEW
        return Counter(each.kind for each in self._resources)

    def begin(self, outer: Scope | None) -> None:
        """Make a new scope current for a connection that is being accepted.

        Args:
            outer: the scope that was current when the server began.
        """
        self._begun += 1
        current, counters = CURRENT.get(), self._counters
        # A current scope of another ledger was made for this connection, and goes around the new
        # one. One of this ledger is left from the connection before, where a loop accepts all
        # connections in one context.
        if current is not None and current.counters is not counters:
            outer = current
        parent = self._root if outer is None else charged(outer, counters) or self._root
        CURRENT.set(Scope(f"connection {self._begun}", counters, parent, outer))

    def connected(self, scope: Scope, transport: Resource) -> None:
        """Count a connection as open, to which the tasks of `scope` belong from now on."""
        self.accepted += 1
        self.stuck.add(transport)
        if scope is self._root:
            # No task belongs to it: all tasks of the service are inside the root.
            self._unscoped.append(transport)
            if len(self._unscoped) > self._unscoped_limit:
                self._end_unscoped()
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

    def end_connections(self) -> None:
        """End the connections whose transport was gone at the previous call already.

        Called once for each sample, so that the tasks of a connection have an interval to end in.
        """
        self._end_unscoped()
        ending = self._find_ended()
        for scope in ending & self._ending:
            del self._open[scope]
            self._shift(scope, -1)
        self._ending = ending - self._ending

    def _end_unscoped(self) -> None:
        alive = [each for each in self._unscoped if each.alive()]
        self.ended += len(self._unscoped) - len(alive)
        self._unscoped, self._unscoped_limit = alive, 2 * len(alive) + FEW

    def _find_ended(self) -> set[Scope]:
        """Forget ended connections that left no task; return the scopes of those that left some."""
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
        """Add `by` to `of_open` for each task in a scope that opens (1) or ends (-1).

        The scope must not be in `_open`: scopes inside it that are open by themselves are skipped.
        """
        for each in [scope, *scope.inside()]:
            if each.entries and not self._is_open(each):
                for entry in [*each.entries.values()]:
                    entry.row.of_open += by

    def _is_open(self, scope: Scope | None) -> bool:
        while scope is not None:
            if scope in self._open:
                return True
            scope = scope.parent
        return False

    def _row(self, points: Points) -> SiteRow:
        """Return the row of a creation point; without one, of the first line of the coroutine."""
        if points:
            code, instruction = points[0], points[1]
        else:
            code, instruction = getattr(points, "code", None), -1
        key = id(code), instruction
        found = self._keys.get(key)
        if found is not None:
            return found[1]
        # Several instructions share a line, and with it a row. Functions made at run time add keys
        # without end, so the keys are dropped from time to time; the rows stay.
        if len(self._keys) >= _KEYS_PER_ROW * self._max_sites:
            self._keys.clear()
        row = self._named(_text(code, instruction))
        self._keys[key] = code, row
        return row

    def _named(self, site: str) -> SiteRow:
        row = self.rows.get(site)
        if row is None:
            # Once full, always full: a task must be counted out of the row that counted it.
            if len(self.rows) >= self._max_sites:
                return self.other
            row = self.rows[site] = SiteRow(site, self._window)
        return row


def _text(code: CodeType | None, instruction: int) -> str:
    if code is None:
        return "unknown"
    if instruction < 0:
        return str(SiteFrame(code.co_filename, code.co_firstlineno, code.co_qualname))
    return str(Site(((code, instruction),)))
