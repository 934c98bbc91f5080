"""Reports on leaks: groups, largest first, in a few lines that are the same on every run."""

# A leak of a thousand connections must read as one leak. So records are grouped by kind, creation
# site, name and, for tasks, the chain of frames in which they wait; one member of each group is
# described for all. Groups are sorted by size, and sorting is stable, so that groups of one size
# keep the order in which they began.
#
# The text is fit for comparison between runs, processes and machines: it has no addresses, no
# absolute paths and no numbers of asyncio's (see `introspect`). Baselines of the plugin hold
# creation sites as they are printed here, so their form must stay.
#
# A report fits a screen, `MAX_LINES`. Groups beyond that are counted in one line, and notes take at
# most half. The diagnosis walks the heap, so it is made only for as many groups as fit,
# and for all of them together.
#
# `Record` is a protocol, because members are of classes that have nothing else in common: records
# of live tasks, of resources, and of objects that only growth can judge.

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from types import CodeType
from typing import Any, Protocol, Self

from muxleak.introspect.foreign import ask
from muxleak.introspect.names import attribute
from muxleak.introspect.sites import Site, SiteFrame, short_path
from muxleak.introspect.waiting import Waiting
from muxleak.ledger.counters import Scope
from muxleak.ledger.kinds import NOUNS

MAX_LINES = 25
_SCOPES_SHOWN = 3

_Key = tuple[str, Site, str, tuple[str, ...]]


class Record(Protocol):
    """A member of a report: a `TaskRecord`, a `Resource`, or a `GrowthRecord`."""

    @property
    def kind(self) -> str:
        """One of `kinds.KINDS`."""

    @property
    def name(self) -> str:
        """The name in reports."""

    @property
    def site(self) -> Site:
        """The creation site."""

    @property
    def scope(self) -> Scope | None:
        """The scope that is charged; None for the root."""

    def waiting_on(self) -> Waiting:
        """Describe the place where a task is suspended."""

    def state(self) -> str:
        """Describe in one line what it is doing."""

    def thing(self) -> Any:
        """Return the object itself; None if it was freed."""


@dataclass(frozen=True, slots=True)
class LeakGroup:
    """Leaks of one kind made at one place; if they are tasks, they also wait at one place.

    Attributes:
        count: number of them.
        name: the qualified name of a task's coroutine; the name of a resource.
        site: the creation site, as "file:line in function".
        waiting: the suspended frames of one of them, outermost first, in the same form.
        waits_on: for tasks "function (file:line) on object"; for other kinds their state.
        scopes: the names of their scopes, each once.
        kind: one of `kinds.KINDS`.
        notes: the diagnosis, a line each: counts of growth, who can still wake them.
        created: the frames of the creation site as data, innermost first; empty if unknown.
    """

    count: int
    name: str
    site: str
    waiting: tuple[str, ...]
    waits_on: str
    scopes: tuple[str, ...]
    kind: str = "task"
    notes: tuple[str, ...] = ()
    created: tuple[SiteFrame, ...] = ()

    def lines(self) -> list[str]:
        """Return the lines that are printed for the group."""
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
        """Return the group as plain lists, strings and numbers."""
        return {
            "kind": self.kind,
            "count": self.count,
            "name": self.name,
            "site": self.site,
            "created": [
                {"file": short_path(frame.filename), "line": frame.line, "function": frame.function}
                for frame in self.created
            ],
            "waiting": list(self.waiting),
            "waits_on": self.waits_on,
            "scopes": list(self.scopes),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class LeakReport:
    """Leaks in groups, largest first; falsy if there is none.

    Attributes:
        groups: the groups.
        total: number of tasks and resources alive.
        expected: number that may be alive.
        notes: lines at the end about the whole: tasks that resisted the teardown, and kinds that
            cannot be seen on the loop.
        headline: the first line, in place of the one that gives the numbers.
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
        diagnose: Callable[[Sequence[Record]], Sequence[Sequence[str]]] | None = None,
    ) -> Self:
        """Group records by kind, creation site, name and, for tasks, the place where they wait.

        Args:
            records: of live objects, in creation order, as `Ledger.live` gives them.
            expected: number that may be alive; only the verdict mentions it.
            within: the scope that was examined, which the groups do not name.
            diagnose: returns the notes of each group from its first member; called once, with the
                first members of the groups that are shown.

        Returns:
            The report.
        """
        members: dict[_Key, list[Record]] = {}
        total = 0
        for record in records:
            chain = record.waiting_on().chain if record.kind == "task" else ()
            key = record.kind, record.site, record.name, chain
            members.setdefault(key, []).append(record)
            total += 1
        keys = sorted(members, key=lambda key: -len(members[key]))
        first = [members[key][0] for key in keys[: MAX_LINES // 4]]
        notes = iter(diagnose(first) if diagnose is not None else ())
        groups = [_group(key[3], members[key], within, next(notes, ())) for key in keys]
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
        """Return the same report with more notes.

        Args:
            *notes: lines about the whole.
        """
        return replace(self, notes=(*self.notes, *notes))

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain dicts, lists, strings and numbers."""
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
    """Raised when tasks or resources outlive the code that created them.

    The message is the report. It is an `AssertionError`, so that test runners show a failure.

    Attributes:
        report: the `LeakReport`.
    """

    __module__ = "muxleak"  # the name that users import it by

    def __init__(self, report: LeakReport) -> None:
        super().__init__(str(report))
        self.report = report

    def __reduce__(self) -> tuple[type[Self], tuple[LeakReport]]:
        # Test runners send errors between processes, and the default rebuilds them from their text.
        return type(self), (self.report,)


def _group(
    chain: tuple[str, ...],
    records: list[Record],
    within: Scope | None,
    notes: Sequence[str],
) -> LeakGroup:
    first = records[0]
    scopes = [record.scope for record in records]
    names = dict.fromkeys(each.name for each in scopes if each is not None and each is not within)
    if first.kind == "task":
        waiting = first.waiting_on()
        doing = f"{waiting.place} on {waiting.on}"
    else:
        doing = first.state()
    created = creation_frames(first)
    site = str(created[0]) if created else "unknown"
    if created and not first.site.points:
        # Baselines hold this text: changing it would make their entries look like new leaks.
        site += " (there it begins; asyncio made it)"
    return LeakGroup(
        *(len(records), first.name, site, chain, doing, tuple(names)),
        first.kind,
        tuple(notes),
        created,
    )


def creation_frames(record: Record) -> tuple[SiteFrame, ...]:
    """Return the frames of a creation site; the first line of a task that asyncio itself made."""
    if record.site.points:
        return record.site.frames
    code = attribute(ask(record.thing(), "get_coro"), "cr_code")
    if not isinstance(code, CodeType):
        return ()
    return (SiteFrame(code.co_filename, code.co_firstlineno, code.co_qualname),)


def _counted(groups: Iterable[LeakGroup]) -> str:
    """Return the number of each kind, as "2 tasks, 1 timer"."""
    counts: dict[str, int] = {}
    for group in groups:
        counts[group.kind] = counts.get(group.kind, 0) + group.count
    return ", ".join(_noun(count, kind) for kind, count in counts.items())


def _noun(count: int, kind: str) -> str:
    return f"{count} {NOUNS[kind][count != 1]}"
