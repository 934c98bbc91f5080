"""Containers that gain entries with each repetition: session tables, pools, lists of futures."""

# Memory that a server loses for each connection is mostly an entry of something that lives on. So
# the kind "object" counts the entries of every dict, list, set and deque of the process. One grows
# by the rule of all counts (`growth`): it has more entries at the end than at half-time, and
# rose in most of the steps between. Then the report says who holds it, and of which type its newest
# entry is.
#
# Left out are containers of asyncio, whose entries are tasks and timers and count as such, of
# pytest, logging and mock objects, which record what a test does, and of this package.
#
# Containers are compared by id, so that none is kept alive. Price: one look at every object of the
# process at the beginning and after each repetition of the second half, about 10 ms for 100,000, so
# the kind counts only if it is named.

import gc
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any

from muxleak.checks.retention import GrowthRecord
from muxleak.introspect.holders import Holder, holders_of
from muxleak.introspect.names import module_of, type_name
from muxleak.introspect.sites import intern

KIND = "object"
_MOST = 200  # containers whose holder is searched
_BASES = (dict, list, set, deque)
_LEFT_OUT = frozenset(
    [
        "_pytest",
        "pytest",
        "pluggy",
        "mock",
        "logging",
        "muxleak",
        "asyncio",
        "uvloop",
        "selectors",
        "warnings",
        "linecache",
        "coverage",
        "hypothesis",
    ]
)


class GrowingContainers:
    """The sizes of all containers over the second half of a measurement."""

    def __init__(self) -> None:
        self._start = _sizes()
        self._first: dict[int, int] = {}
        self._last: dict[int, int] = {}
        self._rises: Counter[int] = Counter()
        self._samples = 0

    def sample(self) -> None:
        """Take a sample; call it after each repetition of the second half, the first included."""
        sizes, last = _sizes(), self._last
        if not self._samples:
            self._first = sizes
        else:
            self._rises.update(name for name, n in sizes.items() if n > last.get(name, n))
        self._last = sizes
        self._samples += 1

    def grown(self) -> dict[GrowthRecord, tuple[int, int]]:
        """Return the entries gained by the first sample and by the last, by container."""
        first, last, most = self._first, self._last, self._samples - 1
        rising = [name for name, rises in self._rises.items() if 2 * rises > most]
        wanted = {name: last[name] for name in rising if last.get(name, 0) > first.get(name, 0)}
        if not wanted:
            return {}
        things = [each for each, _ in _containers() if id(each) in wanted][:_MOST]
        found: dict[GrowthRecord, tuple[int, int]] = {}
        for thing, holder in zip(things, holders_of(things), strict=True):
            if holder is None or _is_left_out(holder.module) or _is_left_out(module_of(thing)):
                continue
            start = self._start.get(id(thing), 0)
            counts = first.get(id(thing), 0) - start, wanted[id(thing)] - start
            found[_record(thing, holder)] = counts
        return found


def _is_left_out(module: str) -> bool:
    return module.partition(".")[0] in _LEFT_OUT or module == "unittest.mock"


def _sizes() -> dict[int, int]:
    return {id(each): size for each, size in _containers()}


def _containers() -> Iterator[tuple[Any, int]]:
    """Yield every container of the process with the number of its entries."""
    bases: dict[type, Any] = {}
    for each in gc.get_objects():
        kind = type(each)
        try:
            base = bases[kind]
        except KeyError:
            base = bases[kind] = next((one for one in _BASES if one in kind.__mro__), None)
        if base is not None:
            yield each, base.__len__(each)  # a subclass may count otherwise


def _record(thing: Any, holder: Holder) -> GrowthRecord:
    entries: Any = list(dict.values(thing)) if isinstance(thing, dict) else list(thing)
    newest = type_name(entries[-1]) if entries else "nothing"
    text = f"held by {type_name(thing)} {holder.path}"
    # The place is in the name, too: records of one name are one group of a report.
    return GrowthRecord(KIND, f"{newest} in {holder.path}", intern([]), text, id(thing))
