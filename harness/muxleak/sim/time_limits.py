"""Limits of virtual time: for the close of a connection, for an operation, and for the program."""

# Virtual time costs nothing, so a close that takes ten minutes looks like one that takes none, and
# everything has ended in the end: no leak. These limits make it a finding.
#
#   limit       measured from                            to
#   ---------   --------------------------------------   -----------------------------------------
#   close       the first end of a connection is lost    nothing that the accepted connection made
#                                                        is alive
#   operation   the block begins                         it has ended, and everything has settled
#   program     the start                                the end of the main task
#
# A close is measured from the loss of the first end, and not while a fault keeps the server from
# hearing of it: the fault would be blamed on the program. A connection that is alive and idle is
# not measured at all. A close that never ends is a leak, and reported as one.
#
# Time passes only by jumps to the next timer, when nothing is ready. So it is enough to look before
# a jump beyond the earliest limit: `VirtualLoop` calls `pass_limit` then, and everything that is
# alive at that moment is alive when the limit is reached. That moment is reported, since it shows
# where the close hangs. From then on it is called before every jump, to learn when the close ended.
# A run within its limits costs one comparison for each jump.
#
# Nothing here changes the course of a run, but an operation that raises. A slow close is the
# verdict at the end, if there is no other error: so a replay from before these limits follows the
# same trace.

from __future__ import annotations

import asyncio
import math
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from muxleak.checks.report import LeakReport
from muxleak.sim.leak_scan import ScannedLoop, alive_in, owners_of_things, task_records

if TYPE_CHECKING:
    from muxleak.checks.ignores import Ignore
    from muxleak.introspect.waiting import AnyTask
    from muxleak.ledger.counters import Scope
    from muxleak.sim.settings import Settings

_NOTHING = LeakReport((), 0)
_MANY = 256  # closes above which those that have ended are dropped: amortised O(1) each


class TimeLimitError(AssertionError):
    """A close, an operation or the program took longer than its limit of virtual time.

    Args:
        what: the thing that took so long.
        took: virtual seconds.
        limit: virtual seconds.
        setting: the name of the setting that is the limit.
        report: everything that was alive when the limit was reached.
        more: number of other closes that took longer than the limit.

    Attributes:
        took: virtual seconds.
        limit: virtual seconds.
        setting: the name of the setting that is the limit.
        report: everything that was alive when the limit was reached.
    """

    def __init__(
        self,
        what: str,
        took: float,
        limit: float,
        setting: str,
        report: LeakReport,
        more: int = 0,
    ) -> None:
        self.took, self.limit, self.setting = took, limit, setting
        enough = math.ceil(took) if took < math.inf else "math.inf"
        headline = (
            f"{what} took {_shown(took)} s, limit {_shown(limit)} s; shorten it, or raise the "
            f"limit with @simulated({setting}={enough}) if it is meant to take so long"
        )
        if report.groups:
            headline += f"; alive after {_shown(limit)} s:"
        if more:
            report = report.noting(f"other closes that took longer than the limit: {more}")
        self.report = replace(report, headline=headline)
        super().__init__(str(self.report))


def _shown(seconds: float) -> str:
    return f"{round(seconds, 3):,}".removesuffix(".0")


@dataclass(slots=True, eq=False)
class _Span:
    """A time that is measured.

    Attributes:
        began: virtual time.
        scope: the scope that is charged with everything that belongs to it.
        task: the task of an operation; None for a close.
        report: everything alive when the limit was reached; falsy before.
    """

    began: float
    scope: Scope
    task: AnyTask | None = None
    report: LeakReport = _NOTHING


class LimitedLoop(ScannedLoop, Protocol):
    """The part of the simulated loop that the limits need.

    Attributes:
        limit: virtual time beyond which the loop calls `pass_limit` before each jump.
    """

    limit: float


class TimeLimits:
    """Measures the closes and operations of one run.

    Args:
        loop: the loop of the run; its attribute `limit` is kept here.
        settings: the settings of the run.

    Attributes:
        ignores: values that exempt things from the closes, and from the search for leaks.
    """

    def __init__(self, loop: LimitedLoop, settings: Settings) -> None:
        self.ignores: tuple[Ignore, ...] = ()
        self._loop, self._settings = loop, settings
        self._running = True
        self._closes: deque[_Span] = deque()  # oldest first
        self._most = _MANY
        self._slow: list[_Span] = []  # beyond their limit, and not ended
        self._operations: list[_Span] = []
        self._found: list[tuple[float, _Span]] = []
        loop.limit = settings.time_limit

    def counted(self, records: list[Any]) -> list[Any]:
        """Return those records that no value exempts."""
        if not self.ignores:
            return records
        return [each for each in records if not any(one.covers(each) for one in self.ignores)]

    def connection_ends(self, scope: Scope) -> None:
        """Measure the close of a connection from now on.

        Args:
            scope: the scope of the accepted connection.
        """
        if self._settings.close_limit == math.inf:
            return
        self._closes.append(_Span(self._loop.time(), scope))
        if len(self._closes) == 1:
            self._set()
        elif len(self._closes) > self._most:
            self._drop_ended()
            self._most = 2 * len(self._closes) + _MANY

    def begin(self, scope: Scope) -> _Span:
        """Measure an operation from now on."""
        span = _Span(self._loop.time(), scope, asyncio.current_task())
        if self._settings.operation_limit < math.inf:
            self._operations.append(span)
            self._set()
        return span

    def end(self, span: _Span) -> None:
        """Measure an operation no longer."""
        if span in self._operations:
            self._operations.remove(span)
            self._set()

    def check(self, span: _Span) -> None:
        """Check the time that an operation took.

        Raises:
            TimeLimitError: it took too long.
        """
        took, limit = self._loop.time() - span.began, self._settings.operation_limit
        if took > limit:
            what = f"operation {span.scope.name}"
            raise TimeLimitError(what, took, limit, "operation_limit", span.report)

    def program_ended(self) -> None:
        """Measure the program no longer; closes go on."""
        self._running = False
        if self._closes or self._slow or self._operations:
            self._set()
        else:
            self._loop.limit = math.inf

    def verdict(self) -> TimeLimitError | None:
        """Return the error of the slowest close, or None if none was too slow."""
        if not self._slow and not self._found:
            return None
        self._measure_slow()
        if not self._found:
            return None
        took, span = max(self._found, key=lambda each: each[0])
        what, limit = f"close of {span.scope.name}", self._settings.close_limit
        more = len(self._found) - 1
        return TimeLimitError(what, took, limit, "close_limit", span.report, more)

    def pass_limit(self, when: float) -> None:
        """Look at everything whose limit lies before a virtual time to which the loop will jump.

        Raises:
            TimeLimitError: the program takes too long.
        """
        settings = self._settings
        if self._running and when > settings.time_limit:
            report = LeakReport.of(task_records(self._loop))
            raise TimeLimitError("the program", when, settings.time_limit, "time_limit", report)
        self._measure_slow()
        self._find_slow(when - settings.close_limit)
        for span in self._operations:
            if not span.report and span.began + settings.operation_limit < when:
                own = [each for each in task_records(self._loop) if each.task is span.task]
                span.report = LeakReport.of([*own, *self._alive(span.scope)])
        self._set()

    def _set(self) -> None:
        """Set the time beyond which the loop asks before it jumps."""
        settings = self._settings
        if self._slow:
            self._loop.limit = -math.inf
            return
        limits = [settings.time_limit if self._running else math.inf]
        if self._closes:
            limits.append(self._closes[0].began + settings.close_limit)
        waiting = [span.began for span in self._operations if not span.report]
        if waiting:
            limits.append(min(waiting) + settings.operation_limit)
        self._loop.limit = min(limits)

    def _find_slow(self, began: float) -> None:
        """Find the closes that began before a virtual time and have not ended."""
        due: list[_Span] = []
        while self._closes and self._closes[0].began < began:
            due.append(self._closes.popleft())
        for span in self._not_ended(due):
            span.report = LeakReport.of(self._alive(span.scope))
            if span.report:
                self._slow.append(span)

    def _measure_slow(self) -> None:
        """Note the time that each slow close took, if it has ended by now."""
        if not self._slow:
            return
        alive = self._not_ended(self._slow)
        ended = [span for span in self._slow if span not in alive or not self._alive(span.scope)]
        now = self._loop.time()
        self._found += [(now - span.began, span) for span in ended]
        self._slow = [span for span in self._slow if span not in ended]

    def _drop_ended(self) -> None:
        self._closes = deque(self._not_ended(list(self._closes)))

    def _not_ended(self, spans: list[_Span]) -> list[_Span]:
        """Return those in whose scope something may be alive, in one walk through everything."""
        owners = owners_of_things(self._loop, self._kinds()) if spans else set()
        return [each for each in spans if not each.scope.clean or id(each.scope) in owners]

    def _alive(self, scope: Scope) -> list[Any]:
        return self.counted(alive_in(self._loop, self._kinds(), scope))

    def _kinds(self) -> frozenset[str]:
        return self._settings.counted - {"error", "destroyed", "callback"}
