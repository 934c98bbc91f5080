"""The leak report: its lines, which are the same on every run."""

import asyncio
import json
import os
import pickle
import subprocess
import sys

from muxleak.checks.report import MAX_LINES, LeakError, LeakGroup, LeakReport
from muxleak.ledger.ledger import Ledger
from muxleak.sim.virtual_loop import VirtualLoop
from tasks import spawn


class Done:
    """A shared end that nobody announces."""

    def __repr__(self) -> str:
        return "<Done 'server'>"

    async def wait(self) -> None:
        """Wait for nothing."""
        await asyncio.get_running_loop().create_future()


async def watcher(done: Done) -> None:
    """Wait for an end that never comes."""
    await done.wait()


def leak(loop: VirtualLoop, ledger: Ledger, connections: int) -> None:
    """Leave one watcher behind per connection."""
    for number in range(1, connections + 1):
        with ledger.scope(f"connection {number}"):
            _ = loop.create_task(watcher(Done()))
    loop.run_until_quiescent()


def made_up(count: int) -> LeakReport:
    """Return a report of so many groups, the largest first."""
    groups = (LeakGroup(count - n, f"g{n}", "s", (), "w", ()) for n in range(count))
    return LeakReport(tuple(groups), sum(range(count + 1)))


def test_report_groups_by_site_and_wait(loop: VirtualLoop, ledger: Ledger) -> None:
    """Tasks made and waiting at the same places are one group, with verdict, site and scopes."""
    leak(loop, ledger, 5)
    spawn(loop, asyncio.Event().wait())
    loop.run_until_quiescent()

    report = LeakReport.of(ledger.live())
    made = leak.__code__.co_firstlineno + 4
    waits = Done.wait.__code__.co_firstlineno + 2
    assert str(report).splitlines()[:5] == [
        "6 tasks leaked (expected 0 alive after close, got 6)",
        "  5 x watcher",
        f"    made at tests/harness/test_report.py:{made} in leak",
        f"    waits in Done.wait (tests/harness/test_report.py:{waits}) on <Done 'server'>",
        "    of connection 1, connection 2, connection 3 and 2 more",
    ]
    assert [group.count for group in report.groups] == [5, 1]
    assert report.groups[0].scopes == tuple(f"connection {n}" for n in range(1, 6))


def test_report_is_empty_once_the_leak_is_released(loop: VirtualLoop, ledger: Ledger) -> None:
    """The same ledger reports a leak, and after its release none."""
    leak(loop, ledger, 1)
    assert LeakReport.of(ledger.live())

    for task in ledger.tasks():
        task.cancel()
    loop.run_until_quiescent()
    assert not LeakReport.of(ledger.live())


def test_report_verdict_counts_against_the_expected(loop: VirtualLoop, ledger: Ledger) -> None:
    """Tasks that may be alive are not called leaked."""
    leak(loop, ledger, 3)

    report = LeakReport.of(ledger.live(), expected=2)
    assert report.verdict == "1 task leaked (expected 2 alive after close, got 3)"


def test_report_is_at_most_a_screen() -> None:
    """However many groups there are, the text stays short and says what it left out."""
    lines = str(made_up(100)).splitlines()

    assert len(lines) <= MAX_LINES
    assert lines[-1] == "  groups not shown: 93, with 4371 tasks"
    assert str(made_up(8)).count("made at") == 8


def test_report_is_plain_json(loop: VirtualLoop, ledger: Ledger) -> None:
    """to_json gives values that json can write and read back."""
    leak(loop, ledger, 2)

    data = LeakReport.of(ledger.live()).to_json()
    assert json.loads(json.dumps(data)) == data
    assert (data["total"], data["groups"][0]["name"]) == (2, "watcher")
    assert data["groups"][0]["scopes"] == ["connection 1", "connection 2"]


def test_leak_error_is_an_assertion_that_travels(loop: VirtualLoop, ledger: Ledger) -> None:
    """The error fails a test, shows the report, and survives pickling between processes."""
    leak(loop, ledger, 1)
    error = LeakError(LeakReport.of(ledger.live()))

    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert isinstance(error, AssertionError)
    assert str(error) == str(error.report) == str(copy)
    assert copy.report == error.report


SCRIPT = """
import asyncio
from muxleak import LeakReport, Ledger, VirtualLoop

async def hold(*wanted):
    await asyncio.wait([asyncio.ensure_future(each.wait()) for each in wanted])

with VirtualLoop() as loop, Ledger().watching(loop) as ledger:
    for name in {"a", "b", "c"}:
        with ledger.scope("one"):
            loop.create_task(hold(asyncio.Event(), asyncio.Event(), asyncio.Event()))
    loop.call_soon(print, object)
    loop.run_until_quiescent()
    print(LeakReport.of(ledger.live()))
    print(loop.timers(), ledger.errors)
"""


def test_report_is_the_same_in_fresh_processes() -> None:
    """Two interpreters under two hash seeds print the same text."""
    runs = [
        subprocess.Popen(  # noqa: S603 - our own script
            [sys.executable, "-W", "error", "-c", SCRIPT],
            env=os.environ | {"PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "4242")
    ]
    first, second = (run.communicate()[0] for run in runs)

    assert [run.returncode for run in runs] == [0, 0]
    assert first.startswith("<class 'object'>\n12 tasks leaked")
    assert first == second
