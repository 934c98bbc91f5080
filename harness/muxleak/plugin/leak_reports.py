"""Measures the leaks of a check on one loop and reports them; loaded when something is left."""

import asyncio
import gc
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muxleak.checks.failure import failed
from muxleak.checks.ignores import Ignore, kept_by_libraries, remaining
from muxleak.checks.report import LeakGroup, LeakReport
from muxleak.checks.scope_check import diagnosed, left_behind, without_owned
from muxleak.checks.teardown import release
from muxleak.checks.timer_rule import without_excused_timers
from muxleak.introspect.names import attribute, is_a
from muxleak.introspect.sites import Site, short_path
from muxleak.ledger.counters import TaskRecord
from muxleak.ledger.kinds import GROWTH_KINDS, NOUNS, ReaderRecord, TimerRecord
from muxleak.plugin.stalls import WAITED, stuck_connections

if TYPE_CHECKING:
    import pytest

    from muxleak.checks.descriptors import OpenedDescriptors
    from muxleak.ledger.counters import Scope
    from muxleak.plugin.item_checks import Check

END = 2.0  # seconds for each of the two cancellations of the tasks left on a loop that ends

# Kinds that can be ended when their loop has ended: a socket closed, a timer cancelled, a thread or
# a pool stopped. A task, transport or server needs its loop.
_LOOPLESS = frozenset({"reader", "timer", "job", "thread"})
_THREADS = frozenset({"job", "thread"})
_LINE = re.compile(r":\d+ in ")


class IgnoreOtherLoops(Ignore):
    """Ignores the objects of all loops but one.

    A scope holds the objects of every loop on which its owner ran; only those of the running loop
    can be waited for and ended.
    """

    __slots__ = ("loop",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__("loop", "", "another loop's")
        object.__setattr__(self, "loop", loop)

    def covers(self, record: Any) -> bool:
        """Return True if the object belongs to another loop; False if its loop is unknown."""
        home = loop_of(record)
        return home is not None and home is not self.loop  # type: ignore[attr-defined]


async def measure(
    check: "Check",
    unseen: Iterable[str],
    root: Path,
    later: Sequence[str] = (),
    shared: Sequence[Any] = (),
) -> None:
    """Add the leaks of a check on the running loop to its reports; in strict mode, end them.

    Args:
        check: the test or fixture.
        unseen: a line for each kind that cannot be counted on this loop; they become notes.
        root: folder of the project, to which places are relative.
        later: names of the plain fixtures that are torn down when the loop has ended, and "_body"
            for a plain test that goes on. Objects that they can end without a loop are held, for
            `judge_held`.
        shared: values of fixtures that the test shares with others; their timers are theirs.
    """
    plan = check.plan
    kinds, ignores = _options(check, asyncio.get_running_loop())
    found = await left_behind(check.scope, kinds, ignores, plan.budget)
    found = without_excused_timers(found, shared)
    if not found:
        return
    held = [each for each in found if each.kind in _LOOPLESS] if later else []
    check.held += [(each, _evidence(each)) for each in held]
    if held:
        found = [each for each in found if each.kind not in _LOOPLESS]
    if found:
        await _report(check, found, [*unseen, *_too_late(later)], root)
    _ignore_reported(check)


class OwnLoop(asyncio.SelectorEventLoop):
    """A loop of the plugin's own, which is not watched."""

    judges_itself = True


def has_threads(check: "Check") -> bool:
    """Return True if a check has left threads or jobs that are in no report yet."""
    return bool(_threads(check.scope.everything(), check))


async def measure_threads(check: "Check", root: Path) -> None:
    """Add the threads and jobs of a check that has no loop to its reports.

    A daemon thread that a library has made, and that runs the library's code, is taken for one that
    it keeps for the process.

    Args:
        check: the test or fixture.
        root: as for `measure`.
    """
    plan = check.plan
    found = await left_behind(check.scope, plan.kinds & _THREADS, plan.ignores, plan.budget)
    found = [each for each in _threads(found, check) if not _is_kept(each)]
    if found:
        await _report(check, found, [], root)


def _threads(records: Iterable[Any], check: "Check") -> list[Any]:
    """Return those of records that a check without a loop is charged for."""
    held = {id(record) for record, _ in check.held}
    ignores = (*check.plan.ignores, *check.reported)
    found = remaining(records, check.plan.kinds & _THREADS, ignores)
    return [each for each in found if id(each) not in held]


def _is_kept(record: Any) -> bool:
    return bool(getattr(record.thing(), "daemon", False) and kept_by_libraries([record]))


async def _report(check: "Check", found: Sequence[Any], notes: Sequence[str], root: Path) -> None:
    """Add leaks to the reports of a check; in strict mode, end them."""
    _add(check, diagnosed(found, check.scope).noting(*notes), found, root)
    if check.plan.strict:
        try:
            ends = await release(found, check.plan.budget)
        except Exception as error:  # noqa: BLE001 - the report must not be lost
            ends = [failed(f"the end of the leaks of {check.owner}", error)]
        check.reports[-1] = check.reports[-1].noting(*ends)


def measure_now(
    check: "Check", loop: asyncio.AbstractEventLoop, unseen: Iterable[str], root: Path
) -> None:
    """Add the leaks of a check on a loop that cannot be run, without time for them to end.

    Args:
        check: the test or fixture.
        loop: runs inside another library's loop, which ends the leaks next.
        unseen: as for `measure`.
        root: as for `measure`.
    """
    kinds, ignores = _options(check, loop)
    found = without_owned(remaining(check.scope.everything(), kinds, ignores))
    if found:
        _add(check, diagnosed(found, check.scope).noting(*unseen), found, root)
        _ignore_reported(check)


def report_stall(
    check: "Check",
    loop: asyncio.AbstractEventLoop,
    server: asyncio.Server,
    alive: Sequence[Any],
    root: Path,
) -> bool:
    """Add the connections for which a server waits in vain to the reports, and abort them.

    Args:
        check: the test or fixture that waits.
        loop: the running loop.
        server: is in `wait_closed`.
        alive: records of everything that is alive.
        root: as for `measure`.

    Returns:
        True if there were any that cannot end by themselves.
    """
    if "transport" not in check.plan.kinds:
        return False
    found = stuck_connections(alive, loop, server)
    if found:
        note = f"Server.wait_closed waited {WAITED:g} s in vain for these connections; aborted"
        _add(check, diagnosed(found, check.scope).noting(note), found, root)
        for record in found:
            record.end()
    return bool(found)


def _options(
    check: "Check", loop: asyncio.AbstractEventLoop
) -> tuple[frozenset[str], tuple[Ignore, ...]]:
    """Return the kinds that a measurement on a loop looks for, and the values that exempt."""
    plan = check.plan
    return plan.kinds - GROWTH_KINDS, (*plan.ignores, *check.reported, IgnoreOtherLoops(loop))


def _ignore_reported(check: "Check") -> None:
    # With `warn` they stay alive, and a later measurement on the same loop would find them again.
    counters = check.scope.counters
    counters.sweep()
    numbers = (counters, counters.created, counters.resources_made)
    check.reported = (Ignore("current", "", "reported already", (numbers,)),)


def judge_opened(check: "Check", opened: "OpenedDescriptors", root: Path) -> None:
    """Report the descriptors that the call of a test has opened and its fixtures have not closed.

    Args:
        check: the test.
        opened: those opened since the call began.
        root: as for `measure`.
    """
    if opened.records(check.plan.ignores):
        gc.collect()
    found = opened.records(check.plan.ignores)
    if found:
        _add(check, LeakReport.of(found), found, root)


def judge_held(check: "Check", root: Path) -> None:
    """Report the held objects of a check that its fixtures have not ended; end them.

    Args:
        check: a test, after the teardown of its own fixtures.
        root: as for `measure`.
    """
    held, check.held = check.held, []
    found = [record for record, evidence in held if not _ended(record, evidence)]
    if not found:
        return
    _add(check, diagnosed(found, check.scope), found, root)
    for record in found if check.plan.strict else ():
        with suppress(Exception):
            record.end()


async def end_tasks(scope: "Scope", ignores: Iterable[Ignore]) -> None:
    """Cancel the tasks of a scope on the running loop, and give up those that do not end.

    Args:
        scope: with the scopes inside it.
        ignores: cover the tasks to leave alone.
    """
    loop, spared = asyncio.get_running_loop(), tuple(ignores)
    tasks = [
        record
        for record in scope.everything()
        if isinstance(record, TaskRecord)
        and loop_of(record) is loop
        and not any(ignore.covers(record) for ignore in spared)
    ]
    await release(tasks, END)


def _add(check: "Check", report: LeakReport, found: Sequence[Any], root: Path) -> None:
    check.places |= {str(record.site): place(record.site, root) for record in found}
    kept = kept_by_libraries(found)
    lines = (f"if it is meant to stay, add to leaks_ignore: {each.line}" for each in kept)
    check.reports.append(report.noting(*lines))


def _too_late(later: Sequence[str]) -> list[str]:
    """Return a note on the fixtures that are torn down when the loop has ended, or none."""
    names = ", ".join(name for name in later if not name.startswith("_"))
    return [f"the loop ended before the teardown of the plain fixtures: {names}"] if names else []


def _evidence(record: Any) -> Any:
    """Return the file behind a watched descriptor; for other kinds the object, so that it stays."""
    return _file(record.descriptor) if isinstance(record, ReaderRecord) else record.thing()


def _ended(record: Any, evidence: Any) -> bool:
    """Return True if a held object has ended, although its loop has ended."""
    if isinstance(record, ReaderRecord):
        # The loop watches it no more; a leak is a descriptor that is open still.
        return evidence is None or _file(record.descriptor) != evidence
    if isinstance(record, TimerRecord):
        return bool(evidence.cancelled())
    return not record.alive()


def _file(descriptor: int) -> tuple[int, int] | None:
    """Identify the open file of a descriptor, whose number may be given to another one."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def report_of(check: "Check") -> LeakReport:
    """Return the leaks of a check on all loops as one report."""
    reports = check.reports
    groups = tuple(group for report in reports for group in report.groups)
    notes = dict.fromkeys(note for report in reports for note in report.notes)
    return LeakReport(groups, sum(group.count for group in groups), notes=tuple(notes))


def only(report: LeakReport, groups: Iterable[LeakGroup]) -> LeakReport:
    """Return the same report with some of its groups."""
    chosen = tuple(groups)
    report = replace(report, groups=chosen, total=sum(group.count for group in chosen))
    return replace(report, headline=f"{counted(report)} left behind")


def counted(report: LeakReport) -> str:
    """Return the number of objects of each kind, as in "2 tasks, 1 timer"."""
    counts: dict[str, int] = {}
    for group in report.groups:
        counts[group.kind] = counts.get(group.kind, 0) + group.count
    return ", ".join(f"{count} {NOUNS[kind][count != 1]}" for kind, count in counts.items())


def leak_of(group: LeakGroup, places: dict[str, str]) -> str:
    """Return the kind and the place of a group, as the baseline writes them."""
    return f"{group.kind} {places.get(group.site) or _LINE.sub(' in ', group.site, count=1)}"


def values_of(
    owner: str, group: LeakGroup, places: dict[str, str], *, new: bool, explicit: bool = False
) -> dict[str, Any]:
    """Return a group in plain values, for the process that sums up.

    Args:
        owner: the test or fixture.
        group: the leak.
        places: maps creation sites to places without line numbers.
        new: True if the leak fails its test because the baseline does not list it.
        explicit: True if an explicit `no_leaks` failed the test, so that no entry can excuse it.
    """
    leak = leak_of(group, places)
    values = {"owner": owner, "leak": leak, "new": new, "explicit": explicit}
    return values | {"kind": group.kind, "site": group.site, "count": group.count}


def add_properties(item: "pytest.Item", report: LeakReport) -> None:
    """Add each group to the properties of a test, which JUnit's file and other reports show."""
    number = sum(name.endswith(".kind") for name, _ in item.user_properties)
    for each in report.groups:
        number += 1
        name = f"muxleak.{number}"
        item.user_properties.append((f"{name}.kind", each.kind))
        item.user_properties.append((f"{name}.site", each.site))
        item.user_properties.append((f"{name}.count", each.count))


def loop_of(record: Any) -> asyncio.AbstractEventLoop | None:
    """Return the loop of an object, or None if the object does not show it."""
    if isinstance(record, TaskRecord):
        return record.task.get_loop()
    thing = record.thing()
    if is_a(thing, asyncio.AbstractEventLoop):
        return thing  # type: ignore[no-any-return]
    loop = attribute(thing, "_loop")
    return loop if is_a(loop, asyncio.AbstractEventLoop) else None


def place(site: Site, root: Path) -> str:
    """Return a site without its line: "file in function", the file relative to `root`."""
    if not site.frames:
        return str(site)
    frame = site.frames[0]
    path = Path(frame.filename)
    inside = path.is_relative_to(root) and "site-packages" not in path.parts
    shown = path.relative_to(root).as_posix() if inside else short_path(frame.filename)
    return f"{shown} in {frame.function}"
