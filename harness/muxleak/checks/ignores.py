"""Values that exempt tasks and resources from a check, each with a reason, as in Go's goleak.

Patterns are those of the shell (`*`, `?`, `[...]`) and match the whole text.
"""

# A library may keep one watcher for a thread or for the process, by design. The report on a leak
# that a library made, and made once, ends with the value that exempts it (`kept_by_libraries`): as
# a line of the plugin's settings or as a call. It is offered for no function of the user's own,
# whoever started it, and for nothing that was made several times: each request may make another.
#
# An exemption without a reason becomes permanent, so the reason is required, and so is a pattern:
# an empty one would exempt everything.
#
# `ignore_current` has no pattern. Ledgers number tasks and resources in creation order, so an
# object existed at a moment if its number is not above the last one given by then. Numbers mean
# nothing in another ledger, so a value keeps them for the ledger of every scope around the call. A
# record of a root scope names no scope, so its ledger is not known; any of the numbers decides.

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from muxleak.checks.report import Record, creation_frames
from muxleak.introspect.sites import SiteFrame, short_path
from muxleak.introspect.waiting import is_stdlib
from muxleak.ledger.counters import CURRENT, Counters, TaskRecord

_INSTALLED = {"site-packages", "dist-packages"}
_DESTROYED = frozenset({"destroyed"})
FACTORIES = "ignore_created_by, ignore_name, ignore_waiting_in, ignore_current"


@dataclass(frozen=True, slots=True)
class Ignore:
    """One exemption; made by the functions below.

    Attributes:
        by: the text that is matched: "created_by", "name" or "waiting_in"; or "current".
        pattern: the pattern; empty for "current".
        reason: why it is no leak.
        seen: for "current", the counters of each ledger with the numbers of its last task and its
            last resource.
    """

    by: str
    pattern: str
    reason: str
    seen: tuple[tuple[Counters, int, int], ...] = ()

    def covers(self, record: Record) -> bool:
        """Return True if `record` is exempt.

        Args:
            record: of a task, a resource, or an object that only growth can judge.
        """
        if self.by == "current":
            return self._existed(record)
        return any(fnmatchcase(text, self.pattern) for text in _texts(self.by, record))

    @property
    def line(self) -> str:
        """The line for the ini value `leaks_ignore`."""
        return f"{self.by} {self.pattern}  # {self.reason}"

    @property
    def call(self) -> str:
        """The call that makes the value."""
        return f'ignore_{self.by}("{self.pattern}", reason="{self.reason}")'

    def _existed(self, record: Any) -> bool:
        number = getattr(record, "number", None)
        if number is None:
            return False
        task = isinstance(record, TaskRecord)
        return any(
            number <= (tasks if task else resources)
            for counters, tasks, resources in self.seen
            if record.scope is None or record.scope.counters is counters
        )


def ignore_created_by(pattern: str, *, reason: str) -> Ignore:
    """Exempt objects that were created at a matching place.

    Args:
        pattern: for the qualified name of a function ("Client.connect"), a file ("*/pool.py") or a
            line ("app/pool.py:12"), of any of the few frames of the creation site. A task that
            asyncio made, such as a handler of `start_server`, has the place where it begins.
        reason: why it is no leak; must not be empty.

    Returns:
        The value for `no_leaks`, `check_scope` and `measure_growth`.

    Raises:
        ValueError: the pattern or the reason is empty.
    """
    return _made("created_by", pattern, reason)


def ignore_name(pattern: str, *, reason: str) -> Ignore:
    """Exempt objects that have a matching name.

    Args:
        pattern: for the qualified name of a task's coroutine, a task's own name, the qualified name
            of a generator, or of the function of a timer, job or thread.
        reason: why it is no leak; must not be empty.

    Returns:
        The value for `no_leaks`, `check_scope` and `measure_growth`.

    Raises:
        ValueError: the pattern or the reason is empty.
    """
    return _made("name", pattern, reason)


def ignore_waiting_in(pattern: str, *, reason: str) -> Ignore:
    """Exempt tasks that wait in a matching function, at any depth.

    Args:
        pattern: as for `ignore_created_by`.
        reason: why it is no leak; must not be empty.

    Returns:
        The value for `no_leaks`, `check_scope` and `measure_growth`.

    Raises:
        ValueError: the pattern or the reason is empty.
    """
    return _made("waiting_in", pattern, reason)


def ignore_current(*, reason: str) -> Ignore:
    """Exempt objects that were created up to now, in every check that is under way.

    A check never reports objects from before its beginning, so this is for use inside one:
    `check.ignore(ignore_current(reason="the fixture's client"))`.

    Args:
        reason: why it is no leak; must not be empty.

    Returns:
        The value for `LeakCheck.ignore`.

    Raises:
        ValueError: the reason is empty.
    """
    ledgers: list[Counters] = []
    scope = CURRENT.get()
    while scope is not None:
        if scope.counters not in ledgers:
            ledgers.append(scope.counters)
        scope = scope.outer
    for counters in ledgers:
        counters.sweep()
    seen = tuple((counters, counters.created, counters.resources_made) for counters in ledgers)
    return Ignore("current", "", _reasoned(reason), seen)


def kept_by_libraries(found: Iterable[Any]) -> list[Ignore]:
    """Return values that exempt leaks which a library made, each of them once.

    Args:
        found: records of leaks.
    """
    made = Counter(record.site.frames[:1] for record in found)
    values = [
        _of_library(frame)
        for record in found
        for frame in record.site.frames[:1]
        if made[frame,] == 1 and _runs_no_user_code(record)
    ]
    return [*dict.fromkeys(value for value in values if value is not None)]


def _runs_no_user_code(record: Any) -> bool:
    """Return True if the function of a task, timer or thread is a library's."""
    thing = record.thing()
    if record.kind == "task":
        code = getattr(thing.get_coro(), "cr_code", None)
    elif record.kind in {"timer", "thread"}:
        name = "_callback" if record.kind == "timer" else "_target"
        function = getattr(thing, name, None) or getattr(thing, "run", None)
        function = getattr(function, "func", function)
        code = getattr(getattr(function, "__func__", function), "__code__", None)
    else:
        return False
    file = getattr(code, "co_filename", "")
    return is_stdlib(file) or not _INSTALLED.isdisjoint(Path(file).parts)


def _of_library(frame: SiteFrame) -> Ignore | None:
    """Return the value for the place in a library where something was made."""
    if _INSTALLED.isdisjoint(Path(frame.filename).parts):
        return None
    # A function without a class has a name that others may have, too, and a file may hold one that
    # starts the user's code. A line is the next best: it changes with the release.
    line = f"{short_path(frame.filename)}:{frame.line}"
    pattern = frame.function if "." in frame.function else line
    # A line of settings ends the pattern at "#", and `fnmatch` reads these as wildcards.
    if any(sign in pattern for sign in '#*?["\\'):
        return None
    return ignore_created_by(pattern, reason="the library keeps one for the process")


def valid_ignores(ignores: object) -> tuple[Ignore, ...]:
    """Return one or several `Ignore` values as a tuple.

    Raises:
        TypeError: something else was given; the message names the functions that make them.
    """
    found = (ignores,) if not isinstance(ignores, Iterable) else tuple(ignores)
    for each in found:
        if not isinstance(each, Ignore):
            raise TypeError(f"expected ignore values, got {each!r}; make them with {FACTORIES}")
    return found


def remaining(
    records: Iterable[Any], kinds: frozenset[str], ignores: Sequence[Ignore]
) -> list[Any]:
    """Return the records of given kinds that no value exempts.

    A task that a collection has destroyed counts as a task, too: whether it is alive when a check
    looks depends on the collector.
    """
    if "task" in kinds:
        kinds |= _DESTROYED
    return [
        record
        for record in records
        if record.kind in kinds and not any(ignore.covers(record) for ignore in ignores)
    ]


def _made(by: str, pattern: str, reason: str) -> Ignore:
    if not (pattern and _is_text(pattern)):
        raise ValueError(f"expected a pattern, got {pattern!r}")
    return Ignore(by, pattern, _reasoned(reason))


def _reasoned(reason: str) -> str:
    if not (_is_text(reason) and reason.strip()):
        raise ValueError(f"expected a reason why it is no leak, got {reason!r}")
    return reason


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _texts(by: str, record: Any) -> list[str]:
    if by == "created_by":
        return [text for frame in creation_frames(record) for text in _frame_texts(frame)]
    if by == "name":
        own = [record.task.get_name()] if isinstance(record, TaskRecord) else []
        return [record.name, *own]
    chain = record.waiting_on().chain
    return [text for line in chain for text in _chain_texts(line)]


def _frame_texts(frame: SiteFrame) -> list[str]:
    path = short_path(frame.filename)
    return [frame.function, frame.filename, path, f"{path}:{frame.line}"]


def _chain_texts(line: str) -> list[str]:
    where, _, function = line.partition(" in ")
    return [function, where, where.rpartition(":")[0]]
