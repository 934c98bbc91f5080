"""The monitor: looks at intervals, tells what climbs, and can be asked."""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable
from http import HTTPStatus
from typing import Self

from muxleak.ledger.ledger import Ledger
from muxleak.monitor import metrics
from muxleak.monitor.census import Census, SiteRow
from muxleak.monitor.endpoint import Endpoint, Page, is_loopback
from muxleak.monitor.profile import profile
from muxleak.monitor.status import Alarm, SiteStatus, Status
from muxleak.monitor.trend import FLAT, Trend, drift_of, floors_rise, trend_of

KINDS = frozenset({"task", "timer", "transport"})
INTERVAL = 10.0
WINDOW = 30
MAX_SITES = 256
THRESHOLD = 1.0
_FEWEST = 9
_DRIFT = 5.0

log = logging.getLogger("muxleak.monitor")


class Monitor:
    """Watches the tasks of a running service; a context manager, or `install` and `close`.

    Every `interval` it takes a look at each line of code that makes tasks: how many of its live
    tasks are left, that is belong to no open connection. A connection is one accepted by a server
    that was made while the monitor was installed; it is open until its transport was found gone by
    two looks. An alarm is raised for a line when, over a full window,

    - the lower bound of the slope is at least `threshold` (Theil and Sen's slope, 99 % one-sided);
    - the lowest count of each third of the window is above that of the third before;
    - the mean step from look to look is above 5 standard errors, more than a count wanders; and
    - connections have ended in each third, if any were accepted ever.

    It recovers when the lower bound is 0 or less. Both are logged as a line of `muxleak.monitor`,
    as a warning and as information, and given to `on_alarm`. For a leak slower than some 25 tasks
    in a window, raise `interval`. What cannot be told from a leak: tasks of no connection that live
    longer than the window, while a service fills up with them.

    A look costs a call for each open connection, transport and timer (not those that asyncio sets
    for a sleep or timeout), and `window` squared / 2 slopes for each site that climbs. Memory: at
    most `max_sites` + 1 rows of `window` numbers. A look is a callback of the loop, not a task.
    Live tasks are held, so that one which nobody else holds is counted, not destroyed by the
    garbage collector. `ledger.unseen` says what cannot be seen on this loop.

    Args:
        ledger: to count by; one that is not installed is installed and uninstalled with this. One
            without the kinds "transport" and "timer" does not see these, nor connections.
        on_alarm: is given each `Alarm`; what it raises is logged.
        interval: seconds between two looks; None to look only when `look` is called.
        window: looks that the slope is taken over, at least 9.
        max_sites: lines told apart; those met later share one row, "other sites".
        threshold: tasks per minute, above 0.
        clock: seconds, in place of the loop's time.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(
        self,
        ledger: Ledger | None = None,
        *,
        on_alarm: Callable[[Alarm], object] | None = None,
        interval: float | None = INTERVAL,
        window: int = WINDOW,
        max_sites: int = MAX_SITES,
        threshold: float = THRESHOLD,
        clock: Callable[[], float] | None = None,
    ) -> None:
        for name, value, least in (("window", window, _FEWEST), ("max_sites", max_sites, 1)):
            if value < least:
                raise ValueError(f"{name}: expected at least {least}, got {value!r}")
        for name, number in (("interval", interval), ("threshold", threshold)):
            if number is not None and not number > 0:
                raise ValueError(f"{name}: expected a number above 0, got {number!r}")
        self._ledger = ledger if ledger is not None else Ledger(KINDS, log=True)
        self._on_alarm, self._interval, self._threshold = on_alarm, interval, threshold
        self._clock = clock
        self._bounds = max_sites, window
        self._census = Census(self._ledger.root, *self._bounds)
        self._times: deque[float] = deque(maxlen=window)
        self._ended: deque[int] = deque(maxlen=window)
        self._counted: Counter[str] = Counter()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._installed_ledger = False
        self._timer: asyncio.TimerHandle | None = None
        self._endpoint: Endpoint | None = None

    @property
    def ledger(self) -> Ledger:
        """What it counts by."""
        return self._ledger

    def install(self) -> None:
        """Watch the running loop from now on.

        Raises:
            RuntimeError: there is none, or it or its ledger has a monitor already.
        """
        loop, counters = asyncio.get_running_loop(), self._ledger.root.counters
        if self._loop is not None or counters.observer is not None:
            raise RuntimeError("expected a ledger without a monitor; close() the one it has first")
        if not counters.active:
            self._ledger.install(loop)
            self._installed_ledger = True
        counters.sweep()
        self._census = Census(self._ledger.root, *self._bounds)
        self._census.adopt()
        self._times.clear()
        self._ended.clear()
        counters.observer = self._census
        self._loop = loop
        self._tick()

    def close(self) -> None:
        """Stop watching and listening; what was found can still be asked for. Idempotent."""
        if self._loop is None:
            return
        self._loop = None
        if self._timer is not None:
            self._timer.cancel()
        if self._endpoint is not None:
            self._endpoint.close()
            self._endpoint = None
        self._ledger.root.counters.sweep()
        self._ledger.root.counters.observer = None
        if self._installed_ledger:
            self._ledger.uninstall()
            self._installed_ledger = False

    def look(self) -> list[Alarm]:
        """Take a sample now; return the alarms that this raises or ends."""
        loop, census = self._loop, self._census
        if loop is None:
            raise RuntimeError("expected an installed monitor, got one that is not; call install()")
        self._ledger.root.counters.sweep()
        if self._installed_ledger:
            # Nobody reads them there, and they have been logged.
            self._ledger.errors.clear()
        census.look()
        self._counted = census.count()
        self._times.append((self._clock or loop.time)())
        self._ended.append(census.ended)
        alarms = []
        for row in census.all_rows():
            row.samples.append(row.left)
            trend = self._trend(row) if row.climbing or self._may_climb(row) else FLAT
            climbs = trend.lower > 0 if row.climbing else trend.lower >= self._threshold
            if climbs != row.climbing:
                row.climbing = climbs
                minutes = (self._times[-1] - self._times[0]) / 60
                alarms.append(Alarm(row.site, row.left, *trend, minutes, recovered=not climbs))
        for alarm in alarms:
            self._tell(alarm)
        return alarms

    def sites(self) -> list[SiteStatus]:
        """Every site, those with most tasks left first."""
        self._ledger.root.counters.sweep()
        found = [
            SiteStatus(
                *(row.site, row.live, row.left, row.made, row.made - row.live),
                *self._trend(row),
                row.climbing,
            )
            for row in self._census.all_rows()
        ]
        return sorted(found, key=lambda each: (-each.left, -each.live))

    def status(self) -> Status:
        """The totals."""
        self._ledger.root.counters.sweep()
        rows, counted = self._census.all_rows(), self._counted
        live, made = sum(row.live for row in rows), sum(row.made for row in rows)
        connections = self._census.accepted, self._census.ended
        return Status(live, made, made - live, *connections, counted["transport"], counted["timer"])

    def climbing(self) -> list[SiteStatus]:
        """The sites whose alarm is on."""
        return [site for site in self.sites() if site.climbing]

    def profile(self) -> str:
        """The live tasks by stack, as Go tells its goroutines; see `muxleak.monitor.profile`."""
        return profile(self._ledger.root, hidden=self._census.own)

    async def listen(
        self, host: str = "127.0.0.1", port: int = 0, *, public: bool = False
    ) -> tuple[str, int]:
        """Serve ``/debug/tasks`` and ``/metrics`` over HTTP until `close`; return the address.

        Args:
            host: of this machine's loopback, unless `public`.
            port: 0 for any free one.
            public: allow any address.

        Raises:
            ValueError: an address that other machines may reach.
            OSError: it cannot be bound.
            RuntimeError: the monitor is not installed, or listens already.
        """
        if not (public or is_loopback(host)):
            raise ValueError(
                f"expected a loopback address, got {host!r}: whoever connects reads, without a"
                " password, what this program does; give public=True if you mean it"
            )
        if self._loop is None or self._endpoint is not None:
            raise RuntimeError("expected an installed monitor that does not listen yet")
        tasks: Callable[[], Page] = lambda: Page(self.profile().encode())  # noqa: E731 - two paths, one page
        pages = {
            "/debug/tasks": tasks,
            "/debug/pprof/goroutine": tasks,
            "/metrics": self._metrics,
        }
        endpoint = Endpoint(self._loop, pages)
        # Accepting makes tasks in some loops; these are then its own.
        with self._census.own:
            address = await endpoint.listen(host, port)
        self._endpoint = endpoint
        return address

    def _metrics(self) -> Page:
        try:
            return metrics.page(self)
        except ImportError as error:
            return Page(f"{error}\n".encode(), status=HTTPStatus.NOT_IMPLEMENTED)

    def _tick(self) -> None:
        loop = self._loop
        if loop is None or self._interval is None:
            return
        self._timer = loop.call_later(self._interval, self._tick)
        self.look()

    def _trend(self, row: SiteRow) -> Trend:
        samples = row.samples
        return trend_of(list(self._times)[-len(samples) :], samples) if samples else FLAT

    def _may_climb(self, row: SiteRow) -> bool:
        samples = row.samples
        if len(samples) < (samples.maxlen or 0) or samples[-1] <= samples[0]:
            return False
        # Without accepted connections the ends of none are waited for.
        if not floors_rise(list(samples)) or drift_of(samples) < _DRIFT:
            return False
        return not self._census.accepted or self._ends()

    def _ends(self) -> bool:
        ended = list(self._ended)
        third = len(ended) // 3
        return all(ended[at] < ended[at + third - 1] for at in range(0, 3 * third, third))

    def _tell(self, alarm: Alarm) -> None:
        log.log(logging.INFO if alarm.recovered else logging.WARNING, "%s", alarm)
        if self._on_alarm is not None:
            try:
                self._on_alarm(alarm)
            except Exception:
                log.exception("on_alarm raised")

    def __enter__(self) -> Self:
        self.install()
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()
