"""Finding what is left behind, and telling of it; loaded when a test leaves something."""

import asyncio
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muxleak.checks.ignores import Ignore
from muxleak.checks.report import LeakGroup, LeakReport
from muxleak.checks.scope_check import diagnosed, left_behind
from muxleak.checks.teardown import release
from muxleak.introspect.sites import Site, short_path
from muxleak.ledger.counters import TaskRecord
from muxleak.ledger.kinds import GROWTH_KINDS, NOUNS

if TYPE_CHECKING:
    import pytest

    from muxleak.ledger.counters import Scope
    from muxleak.plugin.check import Check

END = 2.0  # seconds that whatever is left on a loop that ends may take, twice

_LINE = re.compile(r":\d+ in ")


class Elsewhere(Ignore):
    """Overlooks what belongs to another loop than the one that is looked at."""

    __slots__ = ("loop",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__("loop", "", "another loop's")
        object.__setattr__(self, "loop", loop)

    def covers(self, record: Any) -> bool:
        """Whether it is known to belong elsewhere."""
        home = loop_of(record)
        return home is not None and home is not self.loop  # type: ignore[attr-defined]


async def examine(check: "Check", blind: Iterable[str], root: Path) -> None:
    """Look, on the running loop, at what a check finds there; in strict mode, end it."""
    plan, loop = check.plan, asyncio.get_running_loop()
    kinds = plan.kinds - GROWTH_KINDS
    ignores = (*plan.ignores, *check.seen, Elsewhere(loop))
    found = await left_behind(check.scope, kinds, ignores, plan.budget)
    if not found:
        return
    report = diagnosed(found, check.scope).noting(*blind)
    check.places |= {str(record.site): place(record.site, root) for record in found}
    if plan.strict:
        report = report.noting(*await release(found, plan.budget))
    check.reports.append(report)
    counters = check.scope.counters
    counters.sweep()
    numbers = (counters, counters.created, counters.resources_made)
    check.seen = (Ignore("current", "", "reported already", (numbers,)),)


async def end_tasks(scope: "Scope", ignores: Iterable[Ignore]) -> None:
    """Cancel what is left on the running loop, whoever made it, without waiting for ever."""
    loop, spared = asyncio.get_running_loop(), tuple(ignores)
    tasks = [
        record
        for record in scope.everything()
        if isinstance(record, TaskRecord)
        and loop_of(record) is loop
        and not any(ignore.covers(record) for ignore in spared)
    ]
    await release(tasks, END)


def report_of(check: "Check") -> LeakReport:
    """All that was found, on whatever loop."""
    reports = check.reports
    groups = tuple(group for report in reports for group in report.groups)
    notes = dict.fromkeys(note for report in reports for note in report.notes)
    return LeakReport(groups, sum(group.count for group in groups), notes=tuple(notes))


def only(report: LeakReport, groups: Iterable[LeakGroup]) -> LeakReport:
    """The same report with some of its groups."""
    chosen = tuple(groups)
    report = replace(report, groups=chosen, total=sum(group.count for group in chosen))
    return replace(report, headline=f"{counted(report)} left behind")


def counted(report: LeakReport) -> str:
    """How much of what, as in "2 tasks, 1 timer"."""
    counts: dict[str, int] = {}
    for group in report.groups:
        counts[group.kind] = counts.get(group.kind, 0) + group.count
    return ", ".join(f"{count} {NOUNS[kind][count != 1]}" for kind, count in counts.items())


def leak_of(group: LeakGroup, places: dict[str, str]) -> str:
    """Kind and place of a group, as the file of known leaks has it."""
    return f"{group.kind} {places.get(group.site) or _LINE.sub(' in ', group.site, count=1)}"


def evidence(
    blamed: str, group: LeakGroup, places: dict[str, str], *, new: bool, explicit: bool = False
) -> dict[str, Any]:
    """A group in plain values, for the process that sums up.

    Args:
        blamed: the test or fixture.
        group: what was found.
        places: for each site, its place without line numbers.
        new: whether it fails for not being known.
        explicit: whether it failed by an explicit `no_leaks`, and so cannot be known.
    """
    what = {"kind": group.kind, "site": group.site, "count": group.count}
    return {
        "blamed": blamed,
        "leak": leak_of(group, places),
        "new": new,
        "explicit": explicit,
        **what,
    }


def add_properties(item: "pytest.Item", report: LeakReport) -> None:
    """Tell of each group in JUnit's file and to whoever reads reports."""
    number = sum(name.endswith(".kind") for name, _ in item.user_properties)
    for each in report.groups:
        number += 1
        name = f"muxleak.{number}"
        item.user_properties.append((f"{name}.kind", each.kind))
        item.user_properties.append((f"{name}.site", each.site))
        item.user_properties.append((f"{name}.count", each.count))


def loop_of(record: Any) -> asyncio.AbstractEventLoop | None:
    """The loop of a record, where that is told."""
    if isinstance(record, TaskRecord):
        return record.task.get_loop()
    thing = record.thing()
    if isinstance(thing, asyncio.AbstractEventLoop):
        return thing
    loop = getattr(thing, "_loop", None)
    return loop if isinstance(loop, asyncio.AbstractEventLoop) else None


def place(site: Site, root: Path) -> str:
    """A site without its line: "file in function", the file relative to the project's root."""
    if not site.frames:
        return str(site)
    frame = site.frames[0]
    path = Path(frame.filename)
    inside = path.is_relative_to(root) and "site-packages" not in path.parts
    shown = path.relative_to(root).as_posix() if inside else short_path(frame.filename)
    return f"{shown} in {frame.function}"
