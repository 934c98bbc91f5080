"""The monitor: samples the tasks of a service at intervals and raises alarms for growing counts."""

# Sampling. A sample is a callback of the loop, every `interval`: it sweeps the ledger, ends the
# connections whose transport was gone one sample ago, and appends to each row the number of tasks
# left (`site_counts`). A window is the last `window` samples. A row that is younger than the window
# raises no alarm.
#
# The alarm. The monitor runs for weeks, with some dozens of rows and a sample every ten seconds, so
# that even a rare false alarm comes daily. No single test of growth suffices; a row climbs if all
# of these hold over a full window:
#
# 1. The slope is at least `threshold`, with 99 % confidence. It is Theil and Sen's, the median of
#    the slopes between all pairs of samples, because a burst of load moves a least-squares slope
#    and not a median (`trend`). The bound supposes independent noise.
# 2. The lowest sample of each third is above that of the third before. A load that comes and goes
#    lifts the middle of the counts; a leak lifts the floor, because leaked tasks do not end.
# 3. The mean step between samples is above `_DRIFT` standard errors. A count of jobs that come and
#    go is no independent noise: it wanders, each sample near the one before, and any stretch of a
#    wander has a slope. The price: a leak by single events that raises the count by R in a window
#    has a mean step of about sqrt(R) standard errors, so that R must be above 25.
# 4. Connections have ended in each third, if any were ever accepted. Without ends there is no
#    evidence that the tasks outlive their connections.
#
# Stuck connections (`connections`) are a row of their own, which climbs by the same tests. So are
# the open descriptors that belong to no transport of the loop; without an accepted connection they
# may be those of unseen connections, and raise no alarm.
#
# Messages (`message_counts`) are counted as they come, and raise no alarm: each is a fault already.
# ResourceWarnings have a price, a filter that is asked for each warning of the process, so a ledger
# that is installed already must want them. The monitor's own ledger keeps no record of a message.
#
# Unseen connections. A server that does not listen by the loop's methods (picows, tornado, granian,
# grpc.aio) shows the monitor no connection, so that every task counts as left. As long as none was
# accepted, the fourth test is another one: the open descriptors of the process that belong to no
# transport of the loop have not climbed with the tasks, by the second test. Where they have, the
# tasks may be those of connections. The price: a leak is not reported while such traffic grows.
#
# The tests are ordered by price, the pairs of samples last: they cost window squared / 2 slopes and
# are taken only for rows that pass the others.
#
# The end of an alarm. A row stays climbing until the lower bound of the slope is 0 or less; the
# other tests are for its beginning alone. The gap between 0 and `threshold` keeps a row near the
# threshold from raising one alarm after another. Leaked tasks stay, so the number left does not
# fall when the alarm ends.

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Collection
from http import HTTPStatus
from typing import Self

from muxleak.introspect.names import attribute
from muxleak.ledger.ledger import Ledger
from muxleak.monitor import metrics
from muxleak.monitor.connections import OpenDescriptors, StuckConnections
from muxleak.monitor.endpoint import Endpoint, Page, host_of, is_loopback
from muxleak.monitor.profile import profile
from muxleak.monitor.site_counts import SiteCounts, SiteRow
from muxleak.monitor.status import Alarm, MessageStatus, SiteStatus, Status
from muxleak.monitor.trend import FLAT, Trend, drift_of, floors_rise, trend_of

KINDS = frozenset({"task", "timer", "transport"})
INTERVAL = 10.0
WINDOW = 30
MAX_SITES = 256
THRESHOLD = 1.0
_FEWEST = 9  # samples; three for each third, below which its lowest says little
_DRIFT = 5.0  # standard errors of the mean step

_UNSEEN = (
    "no server has shown a connection in {} samples: those of servers that do not listen by the "
    "loop's create_server are unseen, and tasks count as leaked while open descriptors do not grow"
)

_Row = SiteRow | StuckConnections | OpenDescriptors

log = logging.getLogger("muxleak.monitor")


class Monitor:
    """Watches the tasks of a running service; a context manager, or `install` and `close`.

    Every `interval` it samples each line of code that makes tasks: how many of its live tasks are
    left, that is, belong to no open connection. A connection is one accepted by a server that was
    made while the monitor was installed; it is open until two samples found its transport gone. An
    alarm is raised for a line when, over a full window,

    - the lower bound of the slope is at least `threshold` (Theil and Sen's slope, 99 % one-sided);
    - the lowest count of each third of the window is above that of the third before;
    - the mean step between samples is above 5 standard errors, more than a count wanders; and
    - connections have ended in each third; if none was ever accepted, since the server does not
      listen by the loop's methods, the descriptors of unseen connections have not grown as well.

    The same holds for the accepted connections that are stuck: their peer has ended its direction,
    or the server does not read, and for an interval no byte has passed. It also holds for the open
    descriptors that belong to no transport of the loop, once a connection was accepted.

    Exceptions that nobody retrieves, other messages to the loop's exception handler, and
    ResourceWarnings about things that were not closed are counted by line; see `messages`.

    An alarm ends when the lower bound is 0 or less. Beginning and end are logged by the logger
    `muxleak.monitor`, as a warning and as information, and passed to `on_alarm`. For a leak slower
    than some 25 tasks in a window, raise `interval`. One false alarm is possible:
    tasks of no connection that live longer than the window, while a service fills up with them.

    A sample costs about 3 microseconds for each open connection, a call for each other transport
    and timer (not those that asyncio sets for a sleep or timeout), and `window` squared / 2 slopes
    for each site that climbs. Memory: at most `max_sites` + 1 rows of `window` numbers, and a small
    object for each open connection. A sample is a callback of the loop, not a task. The monitor
    holds no task: one that nothing else holds is destroyed by the garbage collector, as without the
    monitor, and `destroyed` counts these. `ledger.unseen` lists the objects that this loop hides.

    Args:
        ledger: counts; one that is not installed is installed and uninstalled with the monitor.
            A ledger without the kinds "transport" and "timer" counts none of these, and sees no
            connections.
        on_alarm: called with each `Alarm`; an exception that it raises is logged.
        interval: seconds between two samples; None to sample only when `sample` is called.
        window: number of samples that the slope is taken over, at least 9.
        max_sites: number of lines with a row of their own; later ones share the row "other sites".
        threshold: tasks per minute, above 0.
        clock: returns seconds, in place of the loop's time.

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
        self._counts = SiteCounts(self._ledger.root, *self._bounds)
        self._times: deque[float] = deque(maxlen=window)
        self._ended: deque[int] = deque(maxlen=window)
        self._descriptors = OpenDescriptors(window)
        self._said = False
        self._counted: Counter[str] = Counter()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._installed_ledger = False
        self._timer: asyncio.TimerHandle | None = None
        self._endpoint: Endpoint | None = None

    @property
    def ledger(self) -> Ledger:
        """The ledger that counts."""
        return self._ledger

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop that is watched; None while the monitor is not installed."""
        return self._loop

    def install(self) -> None:
        """Watch the running loop from now on.

        Raises:
            RuntimeError: no loop is running, or the ledger or this monitor is in use already.
        """
        loop, counters = asyncio.get_running_loop(), self._ledger.root.counters
        if self._loop is not None or counters.observer is not None:
            raise RuntimeError("expected a ledger without a monitor; close() the one it has first")
        if not counters.active:
            counters.wants_warnings = True
            self._ledger.install(loop)
            self._installed_ledger = True
        counters.sweep()
        self._counts = SiteCounts(self._ledger.root, *self._bounds)
        self._counts.adopt()
        self._times.clear()
        self._ended.clear()
        self._descriptors = OpenDescriptors(self._bounds[1])
        counters.observer = self._counts
        self._loop = loop
        self._tick()

    def close(self) -> None:
        """Stop watching and listening. The last figures can still be read. Idempotent."""
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
            counters = self._ledger.root.counters
            counters.wants_warnings = "warning" in counters.kinds

    def sample(self) -> list[Alarm]:
        """Take a sample now; return the alarms that begin or end with it.

        Raises:
            RuntimeError: the monitor is not installed.
        """
        loop, counts = self._loop, self._counts
        if loop is None:
            raise RuntimeError("expected an installed monitor, got one that is not; call install()")
        self._ledger.root.counters.sweep()
        if self._installed_ledger:
            # They have been logged, and would pile up. In a ledger that was passed in they stay.
            self._ledger.errors.clear()
        counts.end_connections()
        self._counted = counts.count_resources()
        self._times.append((self._clock or loop.time)())
        self._ended.append(counts.ended)
        if not counts.accepted and len(self._times) == self._bounds[1] and not self._said:
            self._said = True
            log.info("%s", _UNSEEN.format(self._bounds[1]))
        counts.stuck.sample()
        if not attribute(loop, "is_virtual", default=False):  # its connections have none
            own = self._endpoint.connections if self._endpoint is not None else 0
            self._descriptors.sample(self._counted["transport"] + own)
        alarms = []
        rows: list[_Row] = [self._descriptors, *counts.all_rows(), counts.stuck]
        for row in rows:
            row.samples.append(row.left)
            trend = self._trend(row) if row.climbing or self._may_climb(row) else FLAT
            climbs = trend.lower > 0 if row.climbing else trend.lower >= self._threshold
            if climbs != row.climbing:
                row.climbing = climbs
                minutes = (self._times[-1] - self._times[0]) / 60
                unseen = not counts.accepted
                alarms.append(Alarm(row.site, row.left, *trend, minutes, not climbs, unseen))
        for alarm in alarms:
            self._report(alarm)
        return alarms

    look = sample  # the name of earlier versions

    def sites(self) -> list[SiteStatus]:
        """Return every site, those with most tasks left first."""
        self._ledger.root.counters.sweep()
        found = [
            SiteStatus(
                *(row.site, row.live, row.left, row.made, row.made - row.live),
                *self._trend(row),
                *(row.climbing, row.destroyed),
            )
            for row in self._counts.all_rows()
        ]
        return sorted(found, key=lambda each: (-each.left, -each.live))

    def messages(self) -> list[MessageStatus]:
        """Return the lost exceptions, messages and warnings by line, the most numerous first."""
        return [MessageStatus(*key, count) for key, count in self._counts.messages.all_counts()]

    def status(self) -> Status:
        """Return the totals."""
        self._ledger.root.counters.sweep()
        rows, counted = self._counts.all_rows(), self._counted
        live, made = sum(row.live for row in rows), sum(row.made for row in rows)
        connections = self._counts.accepted, self._counts.ended
        kinds = counted["transport"], counted["timer"]
        stuck, unseen = self._counts.stuck.left, not self._counts.accepted
        destroyed = sum(row.destroyed for row in rows)
        totals = live, made, made - live
        total = self._counts.messages.total
        messages = total("error"), total("message"), total("warning")
        return Status(
            *(*totals, *connections, *kinds),
            stuck,
            unseen,
            destroyed,
            *messages,
            self._descriptors.left,
        )

    @property
    def connections_climb(self) -> bool:
        """True while the alarm of the stuck connections is on."""
        return self._counts.stuck.climbing

    @property
    def descriptors_climb(self) -> bool:
        """True while the alarm of the open descriptors is on."""
        return self._descriptors.climbing

    def climbing(self) -> list[SiteStatus]:
        """Return the sites whose alarm is on."""
        return [site for site in self.sites() if site.climbing]

    def profile(self) -> str:
        """Return the live tasks by stack, in Go's form; see `muxleak.monitor.profile`."""
        return profile(self._ledger.root, hidden=self._counts.own)

    async def listen(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        public: bool = False,
        hosts: Collection[str] = (),
    ) -> tuple[str, int]:
        """Serve ``/debug/tasks`` and ``/metrics`` over HTTP until `close`.

        Requests whose Host or Origin is another than localhost, the address that was bound, the one
        that the client connected to, or one of `hosts` are refused with 403: a web page could read
        the figures through a browser on this machine otherwise.

        Args:
            host: a loopback address, unless `public`.
            port: 0 for any free one.
            public: True to allow addresses that other machines may reach.
            hosts: further names by which clients may call the service, such as "metrics.example".

        Returns:
            The host and port in use.

        Raises:
            TypeError: `hosts` is a text, not a collection of names.
            ValueError: the address is not a loopback address, without `public`; or one of `hosts`
                is no name or address.
            OSError: the address cannot be bound.
            RuntimeError: the monitor is not installed, or listens already.
        """
        if not (public or is_loopback(host)):
            raise ValueError(
                f"expected a loopback address, got {host!r}: anybody who connects can read, without"
                " a password, the code paths of this program; pass public=True to allow it"
            )
        if isinstance(hosts, str):
            raise TypeError(f"hosts: expected a list of names, got the text {hosts!r}")
        for each in hosts:
            if not host_of(each):
                raise ValueError(f"hosts: expected names such as metrics.example, got {each!r}")
        if self._loop is None or self._endpoint is not None:
            raise RuntimeError("expected an installed monitor that does not listen yet")
        tasks: Callable[[], Page] = lambda: Page(self.profile().encode())  # noqa: E731 - two paths, one page
        pages = {
            "/debug/tasks": tasks,
            "/debug/pprof/goroutine": tasks,
            "/metrics": self._metrics,
        }
        endpoint = Endpoint(self._loop, pages, hosts)
        # Some loops make tasks to accept; these are then the monitor's own.
        with self._counts.own:
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
        try:
            self.sample()
        except Exception:
            log.exception("a sample of the monitor failed; please report this error of muxleak")

    def _trend(self, row: _Row) -> Trend:
        samples = row.samples
        return trend_of(list(self._times)[-len(samples) :], samples) if samples else FLAT

    def _may_climb(self, row: _Row) -> bool:
        """Return True if a row passes every test for an alarm but the slope; cheapest first."""
        samples = row.samples
        if len(samples) < (samples.maxlen or 0) or samples[-1] <= samples[0]:
            return False
        if not floors_rise(list(samples)) or drift_of(samples) < _DRIFT:
            return False
        if self._counts.accepted:
            stuck = self._counts.stuck
            return self._ends() or (row is stuck and floors_rise(list(stuck.abandoned)))
        return row is not self._descriptors and not floors_rise(list(self._descriptors.samples))

    def _ends(self) -> bool:
        """Return True if connections have ended in each third of the window."""
        ended = list(self._ended)
        third = len(ended) // 3
        return all(ended[at] < ended[at + third - 1] for at in range(0, 3 * third, third))

    def _report(self, alarm: Alarm) -> None:
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
