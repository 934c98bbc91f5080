"""What leaked, in a few lines that are the same on every run: largest group first."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from harness.scope import TaskRecord
from harness.sites import Site

MAX_LINES = 25
_SCOPES_SHOWN = 3

_Key = tuple[Site, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class LeakGroup:
    """Tasks made at one place that wait at one place.

    Attributes:
        count: how many.
        name: the qualified name of their coroutine.
        site: where they were made, as "file:line in function".
        waiting: the suspended frames of one of them, outermost first, in the same form.
        waits_on: "function (file:line) on object", for the first of them.
        scopes: the names of the scopes they belong to, each once.
    """

    count: int
    name: str
    site: str
    waiting: tuple[str, ...]
    waits_on: str
    scopes: tuple[str, ...]

    def lines(self) -> list[str]:
        """The group as it is printed."""
        lines = [f"  {self.count} x {self.name}", f"    made at {self.site}"]
        lines.append(f"    waits in {self.waits_on}")
        if self.scopes:
            more = len(self.scopes) - _SCOPES_SHOWN
            shown = ", ".join(self.scopes[:_SCOPES_SHOWN])
            lines.append(f"    of {shown}" + (f" and {more} more" if more > 0 else ""))
        return lines


@dataclass(frozen=True, slots=True)
class LeakReport:
    """Leaked tasks in groups, largest first; falsy when there are none."""

    groups: tuple[LeakGroup, ...]
    total: int
    expected: int = 0

    @classmethod
    def of(cls, records: Iterable[TaskRecord], *, expected: int = 0) -> Self:
        """Group records by where they were made and where they wait.

        Args:
            records: what is alive, in creation order, as `Ledger.live` gives it.
            expected: how many may be alive; only the verdict speaks of it.
        """
        members: dict[_Key, list[TaskRecord]] = {}
        waits: dict[_Key, str] = {}
        total = 0
        for record in records:
            waiting = record.waiting_on()
            key = record.site, waiting.chain
            members.setdefault(key, []).append(record)
            waits.setdefault(key, f"{waiting.place} on {waiting.on}")
            total += 1
        # Sorting is stable: groups of one size stay in the order in which they began.
        keys = sorted(members, key=lambda key: -len(members[key]))
        return cls(tuple(_group(key[1], waits[key], members[key]) for key in keys), total, expected)

    @property
    def verdict(self) -> str:
        """The first line."""
        leaked = self.total - self.expected
        noun = "task" if leaked == 1 else "tasks"
        return (
            f"{leaked} {noun} leaked (expected {self.expected} alive after close, got {self.total})"
        )

    def to_json(self) -> dict[str, Any]:
        """The report as plain dicts, lists, strings and numbers."""
        groups = [
            {
                "count": group.count,
                "name": group.name,
                "site": group.site,
                "waiting": list(group.waiting),
                "waits_on": group.waits_on,
                "scopes": list(group.scopes),
            }
            for group in self.groups
        ]
        return {"total": self.total, "expected": self.expected, "groups": groups}

    def __bool__(self) -> bool:
        return bool(self.total)

    def __str__(self) -> str:
        lines = [self.verdict]
        for index, group in enumerate(self.groups):
            block = group.lines()
            last = index == len(self.groups) - 1
            if len(lines) + len(block) > MAX_LINES - (not last):
                rest = self.groups[index:]
                tasks = sum(each.count for each in rest)
                lines.append(f"  groups not shown: {len(rest)}, with tasks: {tasks}")
                break
            lines += block
        return "\n".join(lines)


class LeakError(AssertionError):
    """Something outlived what caused it; the message is the report.

    Attributes:
        report: the `LeakReport`.
    """

    def __init__(self, report: LeakReport) -> None:
        super().__init__(str(report))
        self.report = report

    def __reduce__(self) -> tuple[type[Self], tuple[LeakReport]]:
        # Test runners send errors between processes; the default would rebuild it from its text.
        return type(self), (self.report,)


def _group(chain: tuple[str, ...], waits_on: str, records: list[TaskRecord]) -> LeakGroup:
    first = records[0]
    names = dict.fromkeys(record.scope.name for record in records if record.scope is not None)
    return LeakGroup(len(records), first.name, str(first.site), chain, waits_on, tuple(names))
