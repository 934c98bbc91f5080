"""Many sessions leaked by the bug of sing-box issue #2421, each checked after its close.

The server keeps running and the leaked sessions stay alive, as in that issue.
"""

# Three figures come from one run:
#
# - the price of a leaked session with its check. Its baseline, a scan of `asyncio.all_tasks` after
#   every close, costs time in proportion to the leaks so far. Running it would take hours at
#   350,000 leaks, so it is estimated: the scan is timed at the end, and on average it is half as
#   long.
# - the price in the last tenth of the sessions over that in the first. A check that went through
#   all live tasks would show here.
# - the growth of resident memory for each session.
#
# The row needs a process of its own. A process that was once that large keeps structures that never
# shrink, asyncio's set of tasks among them, and every later row would pay for them.

from __future__ import annotations

import asyncio
import gc
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from muxleak_scenarios.bench.bare_server import BareServer
from muxleak_scenarios.bench.measure import MAX_LEAKS, Beside, Comparison, resident
from muxleak_scenarios.bench.sequence import recording
from muxleak_vless.bugs.watcher_outlives_connection.buggy import WatchedContext

if TYPE_CHECKING:
    from collections.abc import Iterator

    from muxleak_scenarios.bench.measure import BenchPlan

SIZE = 2_600
"""Goal: bytes of a leaked session at most, with its entry in the ledger."""
SENT = 2
"""Steps of the recorded sequence in each session: the header, and a New with its first bytes."""
TENTHS = 10
_WARM = 300
_SCANS = 3


class Leaked(NamedTuple):
    """Cost of leaked sessions.

    Attributes:
        sessions: number of leaked sessions.
        tenths: seconds of CPU for one session, in each tenth of them.
        size: bytes of resident memory for one session; None if the platform cannot tell.
        scan: seconds of CPU for one `asyncio.all_tasks` with all of them alive.
    """

    sessions: int
    tenths: tuple[float, ...]
    size: float | None
    scan: float

    @property
    def seconds(self) -> float:
        """Seconds of CPU for one session."""
        return sum(self.tenths) / len(self.tenths)


def leak(server: BareServer, sessions: int, plan: BenchPlan) -> Leaked:
    """Open, use and close sessions, one after the other; each must leave one task.

    The leaked tasks stay in the server.

    Args:
        server: a server with the bug, whose tasks are counted.
        sessions: number of sessions, rounded down to a multiple of `TENTHS`.
        plan: its ``tick`` is called after each tenth.

    Raises:
        AssertionError: a session left another number of tasks, or the ledger's count is wrong.
    """
    sent = recording().sent[:SENT]
    # Imports, code and caches must not count as memory of the first sessions.
    warm = BareServer(WatchedContext(), counted=True)
    _serve(warm, sent, _WARM)
    warm.dispose()
    tenth = sessions // TENTHS
    tenths = []
    with _collector_off():
        before = resident()
        for _ in range(TENTHS):
            began = time.process_time()
            _serve(server, sent, tenth)
            tenths.append((time.process_time() - began) / tenth)
            plan.tick()
        after = resident()
        began = time.process_time()
        for _ in range(_SCANS):
            everything = len(asyncio.all_tasks(server.loop))
        scan = (time.process_time() - began) / _SCANS
    counted = server.ledger.count if server.ledger is not None else None
    if (counted, everything) != (TENTHS * tenth, TENTHS * tenth):
        raise AssertionError(f"expected {TENTHS * tenth} tasks, got {counted}, {everything}")
    size = None if before is None or after is None else (after - before) / everything
    return Leaked(everything, tuple(tenths), size, scan)


def _serve(server: BareServer, sent: tuple[bytes, ...], sessions: int) -> None:
    for _ in range(sessions):
        peer = server.connect()
        for data in sent:
            peer.send(data)
            server.settle()
        peer.close()
        server.settle()
        if peer.scope is None or peer.scope.live != 1:
            raise AssertionError(f"expected the bug to leave 1 task, got {peer.scope}")


def measure(plan: BenchPlan) -> list[Comparison]:
    """Measure the cost and the size of a leaked session, and that the cost stays the same."""
    # The server is not disposed of: that takes as long as the row, and the process ends anyway.
    found = leak(BareServer(WatchedContext(), counted=True), plan.leaks, plan)
    often = found.scan / 2
    first, last = found.tenths[0], found.tenths[-1]
    title = f"a leaked session, of {found.sessions:,}, checked"
    scans = Beside(
        "all_tasks() after every close",
        (found.seconds + often,),
        goal=2_500 if found.sessions == MAX_LEAKS else None,
        note="an estimate: the same, and half of what a scan takes at the end",
    )
    flat = Beside("the same of the first tenth", (first,), floor=True, goal=1.2)
    rows = [
        Comparison(title, (found.seconds,), (scans,), note="one run, the garbage collector off"),
        Comparison("of that, one of the last tenth", (last,), (flat,)),
    ]
    if found.size is not None:
        rows.append(Comparison("memory of a leaked session", (found.size,), unit="B", goal=SIZE))
    return rows


@contextmanager
def _collector_off() -> Iterator[None]:
    # Collections would take longer with every leaked session, and would look like a check that
    # does.
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
