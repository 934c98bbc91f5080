"""The referrers of objects: one walk of the heap answers for many objects, and is remembered."""

# `gc.get_referrers` walks the whole heap, about 10 ms for 40,000 objects, however many objects are
# asked about (up to a few hundred). So a `Heap` is asked about all objects of one level of all
# searches of a report at once, and never twice about one object.
#
# The collector says which objects refer to *any* of those wanted. To which, `gc.get_referents` of
# each tells. Above `_MANY` wanted objects, that alone, asked of every object, is cheaper.
#
# The structures of a search refer to objects of the heap, too, and would be found. So searches hold
# ids, and the objects stand in one list of the `Heap`, which it leaves out. The list also keeps the
# ids from being used again. `gc` is called from plain functions that return lists: a generator
# that runs is listed as a referrer of its own locals from Python 3.14 on.
#
# An object that code in C holds without telling the collector has more references than were found.
# The number is compared with that of a probe, which only this module holds, so that nothing depends
# on how many references the interpreter itself takes for a call.

import asyncio
import gc
import sys
from collections.abc import Callable, Iterable
from typing import Any
from weakref import getweakrefs

_MANY = 200
# Python 3.11's `get_referrers` does not see what a task refers to as a future: its callbacks, its
# result. `get_referents` does.
_TASKS_MISSING = sys.version_info < (3, 12)


class Heap:
    """Referrers by id, for the length of one report.

    Args:
        weak: returns True for objects whose weak references count as references.

    Attributes:
        walks: number of walks made.
    """

    def __init__(self, weak: Callable[[Any], bool] = lambda _thing: False) -> None:
        self.walks = 0
        self._weak = weak
        self._kept: list[Any] = []
        self._index: dict[int, int] = {}
        self._holders: dict[int, tuple[int, ...]] = {}
        self._hidden: set[int] = set()

    def keep(self, thing: Any) -> int:
        """Keep an object alive, and return its id, by which all else here names it."""
        name = id(thing)
        if name not in self._index:
            self._index[name] = len(self._kept)
            self._kept.append(thing)
        return name

    def thing(self, name: int) -> Any:
        """Return the object of an id that `keep` or `holders` gave."""
        return self._kept[self._index[name]]

    def find(self, names: Iterable[int]) -> None:
        """Find the referrers of objects, with one walk for those that are not known yet."""
        missing = [name for name in dict.fromkeys(names) if name not in self._holders]
        if missing:
            self._walk(missing)

    def holders(self, name: int) -> tuple[int, ...]:
        """Return the ids of the referrers of an object that `find` was asked about."""
        return self._holders[name]

    def is_hidden(self, name: int) -> bool:
        """Return True if code that the collector cannot see holds the object."""
        return name in self._hidden

    def _walk(self, missing: list[int]) -> None:
        """Find the referrers of objects, and those of them that are held by code in C."""
        self.walks += 1
        probe = self.keep(object())
        wanted = tuple(map(self.thing, (*missing, probe)))
        seen = dict.fromkeys((*missing, probe), 0)
        found: dict[int, list[int]] = {name: [] for name in missing}
        self._attribute(wanted, seen, found)
        counts = {name: sys.getrefcount(self.thing(name)) - seen[name] for name in seen}
        for name in missing:
            weak = getweakrefs(self.thing(name)) if self._weak(self.thing(name)) else ()
            self._holders[name] = (*map(self.keep, weak), *found[name])
        self._hidden.update(name for name in missing if counts[name] > counts[probe])

    def _attribute(
        self, wanted: tuple[Any, ...], seen: dict[int, int], found: dict[int, list[int]]
    ) -> None:
        """Count in `seen` the references to each wanted object, and list its holders in `found`."""
        if len(wanted) <= _MANY:
            referrers = gc.get_referrers(*wanted)
            if _TASKS_MISSING:
                referrers += asyncio.tasks._all_tasks  # type: ignore[attr-defined]  # noqa: SLF001
        else:
            referrers = gc.get_objects()
        done = {id(wanted), id(self._kept), id(referrers)}
        for holder in referrers:
            if id(holder) in done or _is_copy(holder, wanted):
                continue
            done.add(id(holder))
            for referent in gc.get_referents(holder):
                name = id(referent)
                if name in seen:
                    seen[name] += 1
                    holders = found.get(name)
                    # A holder may refer to it several times.
                    if holders is not None and id(holder) not in holders[-1:]:
                        holders.append(self.keep(holder))


def _is_copy(holder: Any, wanted: tuple[Any, ...]) -> bool:
    """Return True for the tuple of arguments that a call with these objects makes."""
    return (
        type(holder) is tuple
        and len(holder) == len(wanted)
        and all(one is other for one, other in zip(holder, wanted, strict=True))
    )
