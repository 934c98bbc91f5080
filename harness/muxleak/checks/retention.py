"""Counts of two kinds that only growth can judge: retained finished tasks, callbacks on futures.

One of them is no leak; more of them after each repetition are.
"""

# Neither kind has an end that a ledger could wait for. A program may hold a finished task for its
# result, and any number of callbacks may wait on a future. So they are not recorded as they are
# made; `growth` counts them when it takes a sample.
#
# Retained tasks. While a measurement is under way, the counters keep a weak reference to each task
# that they see end (`Counters.finished`). The references that are still alive, when all ledgers
# have been swept and garbage has been collected, are tasks that the program holds. Several
# measurements can be under way on one ledger, so they are counted (`_users`).
#
# Transports. A loop that is not asyncio's makes the transports of a server from before the ledger
# where no hook sees them, so they are counted on the same walk as the callbacks.
#
# Callbacks. asyncio has no list of futures, so every object that the garbage collector knows is
# looked at, which is why `growth` takes only two samples. Left out are wake-ups of tasks, since the
# waiting task is counted itself, and the callbacks of ledgers: two ledgers put two on each task. A
# callback has no creation site, so the first line of its function takes that place; those sites are
# interned by their text, as `sites.intern` knows only sites of stacks.

import asyncio
import gc
from collections import Counter
from collections.abc import Iterable
from types import CodeType
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from muxleak.introspect.foreign import ask
from muxleak.introspect.names import FUTURES, TASKS, attribute, is_a, type_name
from muxleak.introspect.sites import Site, intern
from muxleak.introspect.waiting import Waiting, callable_name, name_of
from muxleak.ledger.counters import Entry, Scope

if TYPE_CHECKING:
    from muxleak.ledger.counters import Counters

_users: WeakKeyDictionary["Counters", int] = WeakKeyDictionary()


class GrowthRecord(NamedTuple):
    """A retained task or a callback, as a record like those of live tasks and resources.

    Equal records are counted, so it has no reference to the object itself.

    Attributes:
        kind: "retained" or "callback".
        name: its name in reports.
        site: the creation site; for a callback, the place where its function is defined.
        holder: a clause that says where it is held.
        future: the id of the future that holds a callback, else 0.
    """

    kind: str
    name: str
    site: Site
    holder: str
    future: int = 0

    @property
    def scope(self) -> None:
        """No scope: objects of several are counted together."""

    def waiting_on(self) -> Waiting:
        """Describe its holder in the form of a task's place; it has no chain of frames."""
        return Waiting((), self.name, self.holder)

    def state(self) -> str:
        """Say where it is held."""
        return self.holder

    def thing(self) -> None:
        """Return None: a report must not keep it alive."""


def follow_finished(counters: "Counters") -> None:
    """Keep weak references to tasks that end from now on, until `unfollow_finished`."""
    counters.sweep()
    _users[counters] = _users.get(counters, 0) + 1
    if counters.finished is None:
        counters.finished = []


def unfollow_finished(counters: "Counters") -> None:
    """Undo one `follow_finished`."""
    _users[counters] -= 1
    if not _users[counters]:
        counters.finished = None


def retained(scope: Scope) -> Counter[GrowthRecord]:
    """Count the finished tasks that are still referenced.

    Args:
        scope: restricts them to this scope, the scopes inside it, and the root.
    """
    finished = scope.counters.finished or []
    finished[:] = alive = [each for each in finished if each[0]() is not None]
    return Counter(
        GrowthRecord("retained", "finished task", site, "has ended and is still referenced")
        for _, site, owner in alive
        if owner.parent is None or owner.is_inside(scope)
    )


def on_heap(
    loop: asyncio.AbstractEventLoop, kinds: frozenset[str], known: Iterable[Any]
) -> Counter[GrowthRecord]:
    """Count the callbacks on each pending future of a loop, and transports that no hook has seen.

    It walks through the whole heap, once.

    Args:
        loop: the running loop.
        kinds: of `kinds.KINDS`; nothing else than callbacks and transports is counted.
        known: transports that are counted otherwise.
    """
    # On asyncio's loops the hooks see every transport.
    transports = "transport" in kinds and not isinstance(loop, asyncio.BaseEventLoop)
    if not transports and "callback" not in kinds:
        return Counter()
    objects = gc.get_objects()
    found = _callbacks(loop, objects) if "callback" in kinds else Counter()
    if transports:
        found += _transports(_package(type(loop)), objects, {id(each) for each in known})
    return found


def _package(kind: type) -> str:
    return str(attribute(kind, "__module__")).partition(".")[0]


def _transports(package: str, objects: list[Any], known: set[int]) -> Counter[GrowthRecord]:
    """Count the open transports of a package, such as uvloop, by class."""
    kinds = {each for each in set(map(type, objects)) if _package(each) == package}
    kinds = {each for each in kinds if hasattr(each, "get_protocol")}
    return Counter(
        GrowthRecord("transport", type_name(each), intern([]), "is open, no call here made it")
        for each in objects
        if type(each) in kinds and id(each) not in known and ask(each, "get_protocol") is not None
    )


def _callbacks(loop: asyncio.AbstractEventLoop, objects: list[Any]) -> Counter[GrowthRecord]:
    """Count the callbacks on pending futures, without wake-ups of tasks and those of ledgers."""
    found: Counter[GrowthRecord] = Counter()
    for future in objects:
        # Every object of the process passes here, so none may be asked for more than its type.
        if is_a(future, FUTURES) and ask(future, "get_loop") is loop and not future.done():
            for pair in getattr(future, "_callbacks", None) or ():
                callback: Any = pair[0]
                if not is_a(attribute(callback, "__self__"), (*TASKS, Entry)):
                    found[_callback_record(callback, future)] += 1
    return found


def _callback_record(callback: Any, future: Any) -> GrowthRecord:
    function = attribute(callback, "func", callback)
    code = attribute(attribute(function, "__func__", function), "__code__")
    site = Site(((code, 0),) if isinstance(code, CodeType) else ())
    holder = f"waits on one future ({name_of(future)})"
    return GrowthRecord("callback", callable_name(callback), _interned(site), holder, id(future))


_sites: dict[str, Site] = {}


def _interned(site: Site) -> Site:
    return _sites.setdefault(str(site), site)
