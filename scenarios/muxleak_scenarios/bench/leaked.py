"""Many sessions leaked by the bug of sing-box issue #2421, each checked after its close.

The server lives on and the leaks stay alive, as they did there. To be run in a process of its own:
what was once that large leaves its marks, in asyncio's set of tasks for one, which never shrinks.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from muxleak_scenarios.bench.bare import BareServer
from muxleak_scenarios.bench.measure import MAX_LEAKS, Beside, Comparison
from muxleak_scenarios.bench.sequence import recording
from muxleak_vless.bugs.watcher_outlives_connection.buggy import WatchedContext

if TYPE_CHECKING:
    from collections.abc import Iterator

    from muxleak_scenarios.bench.measure import BenchPlan

SIZE = 2_200
"""Bytes that a leaked session should take at most, with its entry in the ledger."""
SENT = 2
"""Steps of the recorded sequence in each session: the header, and a New with its first bytes."""
TENTHS = 10
_WARM = 300
_SCANS = 3
_STATM = Path("/proc/self/statm")


class Leaked(NamedTuple):
    """What so many sessions cost: CPU seconds and bytes for one, seconds for one scan of all."""

    sessions: int
    tenths: tuple[float, ...]
    size: float | None
    scan: float

    @property
    def seconds(self) -> float:
        """CPU for one session."""
        return sum(self.tenths) / len(self.tenths)


def leak(server: BareServer, sessions: int, plan: BenchPlan) -> Leaked:
    """Open, use and close so many sessions, one after the other; each must leave one task.

    The server is left with all that was leaked.

    Raises:
        AssertionError: a session left another number, or the count is not that of all.
    """
    sent = recording().sent[:SENT]
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
    """Cost, flatness and size of a leaked session; nothing is cleaned up, which takes as long."""
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
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def resident() -> int | None:
    """Bytes of this process in memory, or the most there ever were; None if none can be asked."""
    try:
        resource = import_module("resource")
    except ImportError:
        return None
    if _STATM.exists():
        return int(_STATM.read_text().split()[1]) * int(resource.getpagesize())
    most = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return most if sys.platform == "darwin" else most * 1024
