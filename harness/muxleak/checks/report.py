"""What leaked, in a few lines that are the same on every run: largest group first."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

from muxleak.introspect.sites import Site, short_path
from muxleak.introspect.waiting import Waiting
from muxleak.ledger.counters import Scope
from muxleak.ledger.kinds import NOUNS

MAX_LINES = 25
_SCOPES_SHOWN = 3

_Key = tuple[str, Site, str, tuple[str, ...]]


class Record(Protocol):
    """Anything that is alive and can be reported: a task's record, a resource, a growing pile."""

    @property
    def kind(self) -> str:
        """One of `kinds.KINDS`."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def site(self) -> Site:
        """Where it was made."""

    @property
    def scope(self) -> Scope | None:
        """Whose it is."""

    def waiting_on(self) -> Waiting:
        """Where it is suspended."""

    def state(self) -> str:
        """What it is doing, in one line."""

    def thing(self) -> Any:
        """The thing itself."""


@dataclass(frozen=True, slots=True)
class LeakGroup:
    """Things of one kind made at one place that, if tasks, wait at one place.

    Attributes:
        count: how many.
        name: the qualified name of a task's coroutine; what other kinds are called.
        site: where they were made, as "file:line in function".
        waiting: the suspended frames of one of them, outermost first, in the same form.
        waits_on: for tasks "function (file:line) on object"; for other kinds what they are doing.
        scopes: the names of the scopes they belong to, each once.
        kind: one of `kinds.KINDS`.
        notes: what else was found out, a line each: growth, who could wake them, who holds them.
    """

    count: int
    name: str
    site: str
    waiting: tuple[str, ...]
    waits_on: str
    scopes: tuple[str, ...]
    kind: str = "task"
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The group as it is printed."""
        what = self.name if self.kind == "task" else f"{NOUNS[self.kind][0]}: {self.name}"
        verb = "waits in " if self.kind == "task" else ""
        lines = [f"  {self.count} x {what}", f"    made at {self.site}"]
        lines.append(f"    {verb}{self.waits_on}")
        lines += [f"    {note}" for note in self.notes]
        if self.scopes:
            more = len(self.scopes) - _SCOPES_SHOWN
            shown = ", ".join(self.scopes[:_SCOPES_SHOWN])
            lines.append(f"    of {shown}" + (f" and {more} more" if more > 0 else ""))
        return lines

    def to_json(self) -> dict[str, Any]:
        """The group as plain values."""
        return {
            "kind": self.kind,
            "count": self.count,
            "name": self.name,
            "site": self.site,
            "waiting": list(self.waiting),
            "waits_on": self.waits_on,
            "scopes": list(self.scopes),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class LeakReport:
    """What leaked, in groups, largest first; falsy when nothing did.

    Attributes:
        groups: the leaks.
        total: how many are alive.
        expected: how many may be alive.
        notes: lines about the whole, at the end: what the teardown met, what cannot be seen.
        headline: the first line, in place of the counted one.
    """

    groups: tuple[LeakGroup, ...]
    total: int
    expected: int = 0
    notes: tuple[str, ...] = ()
    headline: str = ""

    @classmethod
    def of(
        cls,
        records: Iterable[Record],
        *,
        expected: int = 0,
        within: Scope | None = None,
        diagnose: Callable[[Record], Sequence[str]] | None = None,
    ) -> Self:
        """Group records by what they are, where they were made and where they wait.

        Args:
            records: what is alive, in creation order, as `Ledger.live` gives it.
            expected: how many may be alive; only the verdict speaks of it.
            within: the scope that was looked at, which goes without saying.
            diagnose: gives the notes of a group, from its first member; asked for the groups that
                are shown.
        """
        members: dict[_Key, list[Record]] = {}
        total = 0
        for record in records:
            chain = record.waiting_on().chain if record.kind == "task" else ()
            key = record.kind, record.site, record.name, chain
            members.setdefault(key, []).append(record)
            total += 1
        # Sorting is stable: groups of one size stay in the order in which they began.
        keys = sorted(members, key=lambda key: -len(members[key]))
        shown = MAX_LINES // 4 if diagnose is not None else 0
        groups = [
            _group(key[3], members[key], within, diagnose if index < shown else None)
            for index, key in enumerate(keys)
        ]
        return cls(tuple(groups), total, expected)

    @property
    def verdict(self) -> str:
        """The first line."""
        if self.headline:
            return self.headline
        leaked = self.total - self.expected
        what = _counted(self.groups) if self.groups and not self.expected else _noun(leaked, "task")
        return f"{what} leaked (expected {self.expected} alive after close, got {self.total})"

    def noting(self, *notes: str) -> Self:
        """The same report with more lines about the whole."""
        return replace(self, notes=(*self.notes, *notes))

    def to_json(self) -> dict[str, Any]:
        """The report as plain dicts, lists, strings and numbers."""
        return {
            "total": self.total,
            "expected": self.expected,
            "groups": [group.to_json() for group in self.groups],
            "notes": list(self.notes),
        }

    def __bool__(self) -> bool:
        return bool(self.total)

    def __str__(self) -> str:
        notes = [f"  note: {note}" for note in self.notes][: MAX_LINES // 2]
        room = MAX_LINES - len(notes)
        lines = [self.verdict]
        for index, group in enumerate(self.groups):
            block = group.lines()
            last = index == len(self.groups) - 1
            if len(lines) + len(block) > room - (not last):
                rest = self.groups[index:]
                lines.append(f"  groups not shown: {len(rest)}, with {_counted(rest)}")
                break
            lines += block
        return "\n".join([*lines, *notes])


class LeakError(AssertionError):
    """Something outlived what caused it; the message is the report.

    Attributes:
        report: the `LeakReport`.
    """

    __module__ = "muxleak"  # the name that users import it by

    def __init__(self, report: LeakReport) -> None:
        super().__init__(str(report))
        self.report = report

    def __reduce__(self) -> tuple[type[Self], tuple[LeakReport]]:
        # Test runners send errors between processes; the default would rebuild it from its text.
        return type(self), (self.report,)


def _group(
    chain: tuple[str, ...],
    records: list[Record],
    within: Scope | None,
    diagnose: Callable[[Record], Sequence[str]] | None,
) -> LeakGroup:
    first = records[0]
    scopes = [record.scope for record in records]
    names = dict.fromkeys(each.name for each in scopes if each is not None and each is not within)
    notes = tuple(diagnose(first)) if diagnose is not None else ()
    if first.kind == "task":
        waiting = first.waiting_on()
        doing = f"{waiting.place} on {waiting.on}"
    else:
        doing = first.state()
    site = str(first.site) if first.site.points else _made_by_asyncio(first)
    return LeakGroup(
        *(len(records), first.name, site, chain, doing, tuple(names)), first.kind, notes
    )


def _made_by_asyncio(record: Record) -> str:
    """Where the function of a task is, for want of a place where user code made it."""
    coroutine = getattr(record.thing(), "get_coro", lambda: None)()
    code = getattr(coroutine, "cr_code", None)
    if code is None:
        return "unknown"
    where = f"{short_path(code.co_filename)}:{code.co_firstlineno}"
    return f"{where} in {code.co_qualname} (there it begins; asyncio made it)"


def _counted(groups: Iterable[LeakGroup]) -> str:
    """How many of which kind, as "2 tasks, 1 timer"."""
    counts: dict[str, int] = {}
    for group in groups:
        counts[group.kind] = counts.get(group.kind, 0) + group.count
    return ", ".join(_noun(count, kind) for kind, count in counts.items())


def _noun(count: int, kind: str) -> str:
    return f"{count} {NOUNS[kind][count != 1]}"
