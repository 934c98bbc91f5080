"""Containers that gain entries with each repetition: session tables, pools, lists of futures."""

# Memory that a server loses for each connection is mostly an entry of something that lives on. So
# the kind "object" counts the entries of every dict, list, set and deque of the process. One grows
# by the rule of all counts (`growth_rule`). Then the report says who holds it, and of which type
# its newest entry is.
#
# The collector lists the containers. Up to Python 3.13 it does not know a dict whose keys and
# values are plain (numbers, texts, bytes). Such a dict is found at the objects that refer to it,
# which the collector knows: the namespace of a module or class, an object with attributes, another
# container, a cell of a closure, a suspended coroutine.
#
# Left out are containers of asyncio, whose entries are tasks and timers and count as such, of
# pytest, logging and mock objects, which record what a test does, and of this package.
#
# Containers are compared by id, so that none is kept alive, and of one whose size has changed the
# sizes are kept. Price: one look at every object of the process at the beginning and after each
# repetition, 25 to 80 ms for 100,000, so the kind counts only if it is named.

import gc
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from muxleak.checks.growth_rule import grows
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
    """The sizes of all containers over a measurement."""

    def __init__(self) -> None:
        self._start = self._last = _sizes()
        # The sizes of containers whose size has changed, with the number of the sample. Lists would
        # be containers that grow themselves.
        self._changes: dict[int, tuple[tuple[int, int], ...]] = {}
        self._samples = 0

    def sample(self) -> None:
        """Take a sample; call it after each repetition."""
        sizes, last = _sizes(), self._last
        for name, size in sizes.items():
            if size != last.get(name):
                self._changes[name] = (*self._changes.get(name, ()), (self._samples, size))
        self._last = sizes
        self._samples += 1

    def grown(self) -> dict[GrowthRecord, tuple[int, int]]:
        """Return the entries gained by half-time and by the end, by container."""
        half = self._samples // 2 - 1
        series = {name: self._series(name) for name in self._changes if name in self._last}
        growing = ((name, counts) for name, counts in series.items() if grows(counts))
        wanted = {name: (counts[half], counts[-1]) for name, counts in growing}
        if not wanted:
            return {}
        things = [each for each, _ in _containers() if id(each) in wanted][:_MOST]
        found: dict[GrowthRecord, tuple[int, int]] = {}
        for thing, holder in zip(things, holders_of(things), strict=True):
            if holder is None or _is_left_out(holder.module) or _is_left_out(module_of(thing)):
                continue
            found[_record(thing, holder)] = wanted[id(thing)]
        return found

    def _series(self, name: int) -> list[int]:
        """Return the entries that a container has gained by each sample."""
        start = size = self._start.get(name, 0)
        changes, counts = dict(self._changes[name]), []
        for number in range(self._samples):
            size = changes.get(number, size)
            counts.append(size - start)
        return counts


def _is_left_out(module: str) -> bool:
    return module.partition(".")[0] in _LEFT_OUT or module == "unittest.mock"


def _sizes() -> dict[int, int]:
    return {id(each): size for each, size in _containers()}


def _containers() -> Iterator[tuple[Any, int]]:
    """Yield every container of the process with the number of its entries."""
    bases: dict[type, Any] = {}
    objects = gc.get_objects()
    for each in chain(objects, _untracked_dicts(objects)):
        kind = type(each)
        try:
            base = bases[kind]
        except KeyError:
            base = bases[kind] = next((one for one in _BASES if one in kind.__mro__), None)
        if base is not None:
            yield each, base.__len__(each)  # a subclass may count otherwise


def _untracked_dicts(objects: list[Any]) -> Iterable[Any]:
    """Return the dicts that the collector does not know, each once."""
    if gc.is_tracked({}):
        return ()
    held = (each for each in gc.get_referents(*objects) if type(each) is dict)
    return {id(each): each for each in held if not gc.is_tracked(each)}.values()


def _record(thing: Any, holder: Holder) -> GrowthRecord:
    entries: Any = list(dict.values(thing)) if isinstance(thing, dict) else list(thing)
    newest = type_name(entries[-1]) if entries else "nothing"
    text = f"held by {type_name(thing)} {holder.path}"
    # The place is in the name, too: records of one name are one group of a report.
    return GrowthRecord(KIND, f"{newest} in {holder.path}", intern([]), text, id(thing))
