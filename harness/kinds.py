"""The kinds of things that can be left behind, and what a record of one tells.

A resource is recorded where it is made, by weak reference, so that recording keeps nothing alive;
whether it is still there is asked of the thing itself, by public methods that every loop has.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import ref

from harness.sites import Points, Site, intern
from harness.waiting import Waiting, scrub

if TYPE_CHECKING:
    from harness.scope import Scope

_MAX_STATE = 160  # characters

NOUNS = {
    "task": ("task", "tasks"),
    "timer": ("timer", "timers"),
    "transport": ("transport", "transports"),
    "server": ("server", "servers"),
    "reader": ("watched descriptor", "watched descriptors"),
    "generator": ("async generator", "async generators"),
    "job": ("executor job", "executor jobs"),
    "thread": ("thread", "threads"),
    "error": ("exception never retrieved", "exceptions never retrieved"),
    "destroyed": ("task destroyed while pending", "tasks destroyed while pending"),
    "retained": ("finished task kept", "finished tasks kept"),
    "callback": ("callback on a future", "callbacks on a future"),
}
GROWTH_KINDS = frozenset({"retained", "callback"})  # judged by growth only
KINDS = frozenset(NOUNS)


class Resource:
    """Something that ought to end: what it is, who caused it and where.

    Attributes:
        kind: one of `KINDS`.
        name: what it is called in reports.
        points: where it was made, as `sites.trace` gave it.
        owner: the scope that is charged.
        number: in order of creation; 0 until the ledger has seen it.
    """

    __slots__ = ("_ref", "name", "number", "owner", "points")
    kind: ClassVar[str]

    def __init__(self, thing: Any, name: str, points: Points, owner: "Scope") -> None:
        self._ref = ref(thing)
        self.name = name
        self.points = points
        self.owner = owner
        self.number = 0

    @property
    def site(self) -> Site:
        """Where it was made."""
        return intern(self.points)

    @property
    def scope(self) -> "Scope | None":
        """Whose it is; None outside every scope."""
        return self.owner if self.owner.parent is not None else None

    def thing(self) -> Any:
        """The thing itself, or None if it is gone."""
        return self._ref()

    def alive(self) -> bool:
        """Whether it is still there."""
        thing = self._ref()
        return thing is not None and self.open(thing)

    def open(self, thing: Any) -> bool:
        """Whether the thing, which exists, is still in use."""
        raise NotImplementedError

    def state(self) -> str:
        """What it is doing, in one line; never raises."""
        try:
            return scrub(self.describe(self._ref()), _MAX_STATE)
        except Exception as exc:  # noqa: BLE001 - a report must not fail over what it reports on
            return f"is unreadable ({type(exc).__name__})"

    def describe(self, thing: Any) -> str:
        """What `state` says."""
        raise NotImplementedError

    def waiting_on(self) -> Waiting:
        """As of a task; a resource has no chain of frames."""
        return Waiting((), self.name, self.state())

    def end(self) -> None:
        """Close it, as far as that is possible from outside and at once."""


def valid_kinds(kinds: Iterable[str]) -> frozenset[str]:
    """The kinds as a set.

    Raises:
        ValueError: one of them is unknown; the message says which are known.
    """
    if isinstance(kinds, frozenset) and kinds <= KINDS:
        return kinds
    if isinstance(kinds, str):
        kinds = [kinds]
    unknown = sorted(set(kinds) - KINDS)
    if unknown:
        raise ValueError(f"unknown kinds {unknown!r}, expected some of {sorted(KINDS)!r}")
    return frozenset(kinds)
