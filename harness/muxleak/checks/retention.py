"""Two kinds of leak that no single moment shows: finished tasks that are kept, callbacks that pile.

Neither is wrong in itself; only their growth from one repetition to the next is.
"""

import asyncio
import gc
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from muxleak.introspect.sites import Site
from muxleak.introspect.waiting import Waiting, callable_name, name_of
from muxleak.ledger.counters import Scope

if TYPE_CHECKING:
    from muxleak.ledger.counters import Counters

_users: WeakKeyDictionary["Counters", int] = WeakKeyDictionary()


class Pile(NamedTuple):
    """One thing of a pile; a record like those of live things.

    Attributes:
        kind: "retained" or "callback".
        name: what is piled up.
        site: where it was made; of a callback, where its function is defined.
        holder: what holds it, in one line.
        future: the id of the future that holds a callback, else 0.
    """

    kind: str
    name: str
    site: Site
    holder: str
    future: int = 0

    @property
    def scope(self) -> None:
        """A pile belongs to nobody."""

    def waiting_on(self) -> Waiting:
        """As of a task; it has no chain."""
        return Waiting((), self.name, self.holder)

    def state(self) -> str:
        """What holds it."""
        return self.holder

    def thing(self) -> None:
        """Not told: a report must not keep it."""


def follow_finished(counters: "Counters") -> None:
    """Have `counters` remember finished tasks, by weak reference, until `unfollow_finished`."""
    counters.sweep()
    _users[counters] = _users.get(counters, 0) + 1
    if counters.finished is None:
        counters.finished = []


def unfollow_finished(counters: "Counters") -> None:
    """Undo one `follow_finished`."""
    _users[counters] -= 1
    if not _users[counters]:
        counters.finished = None


def retained(scope: Scope) -> Counter[Pile]:
    """The finished tasks that somebody keeps: those of `scope`, of those inside it, of no scope."""
    finished = scope.counters.finished or []
    finished[:] = alive = [each for each in finished if each[0]() is not None]
    return Counter(
        Pile("retained", "finished task", site, "has ended, and is held by somebody still")
        for _, site, owner in alive
        if owner.parent is None or owner.is_inside(scope)
    )


def callbacks(loop: asyncio.AbstractEventLoop) -> Counter[Pile]:
    """The callbacks on each pending future of `loop` but tasks' wake-ups and the ledgers' own.

    Goes through everything that the garbage collector knows: asyncio has no list of futures.
    """
    found: Counter[Pile] = Counter()
    for future in gc.get_objects():
        if isinstance(future, asyncio.Future) and not future.done() and future.get_loop() is loop:
            for pair in getattr(future, "_callbacks", None) or ():
                callback: Any = pair[0]
                if not isinstance(getattr(callback, "__self__", None), asyncio.Task | Scope):
                    found[_callback(callback, future)] += 1
    return found


def _callback(callback: Any, future: Any) -> Pile:
    function = getattr(callback, "func", callback)
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    site = Site(((code, 0),) if code is not None else ())
    holder = f"waits on one future ({name_of(future)})"
    return Pile("callback", callable_name(callback), _same(site), holder, id(future))


_sites: dict[str, Site] = {}


def _same(site: Site) -> Site:
    # Sites made here are not interned by their code; one text, one object.
    return _sites.setdefault(str(site), site)
