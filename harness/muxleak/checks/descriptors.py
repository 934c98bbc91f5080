"""Descriptors that were opened and are still open, whoever opened them: Python, a C library."""

# No loop and no hook sees a descriptor: a socket without a transport, a pipe, an eventfd, one that
# a C library opens. They belong to the process, so the only fact at hand is the list before and the
# list after. By repetition that is exact: a count that rises each time belongs to the operation. So
# `repeat=` looks for them by default. In a single block a cache that is filled once looks like a
# leak, and so does another thread's work. So a block looks for them only if "descriptor" is named.
#
# A descriptor is new if its number was not open before, or referred to something else. Left out
# are those of transports and servers that a ledger has seen, which are judged as such, of logging's
# handlers, and of helpers that the interpreter starts once and keeps.

import asyncio
import logging
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from muxleak.checks.garbage import collect_garbage
from muxleak.checks.ignores import Ignore, remaining
from muxleak.checks.settle import may_go_on, settle
from muxleak.introspect.descriptors import open_descriptors, type_of
from muxleak.introspect.foreign import ask
from muxleak.introspect.names import attribute
from muxleak.introspect.sites import Site, intern
from muxleak.introspect.waiting import Waiting
from muxleak.ledger.ledger import Ledger

KIND = "descriptor"
_KINDS = frozenset({KIND})
_CACHED = frozenset({"/dev/random", "/dev/urandom", "/dev/null"})


class DescriptorRecord(NamedTuple):
    """An open descriptor, as a record like those of live tasks and resources.

    Equal records are counted, so it has no number.

    Attributes:
        name: its type.
    """

    name: str

    @property
    def kind(self) -> str:
        """The kind, as of a `Resource`."""
        return KIND

    @property
    def site(self) -> Site:
        """No creation site: the system keeps none."""
        return intern([])

    @property
    def scope(self) -> None:
        """No scope: descriptors belong to the process."""

    def waiting_on(self) -> Waiting:
        """Describe its state in the form of a task's; it has no chain of frames."""
        return Waiting((), self.name, self.state())

    def state(self) -> str:
        """Say that it is open, and no more: numbers differ from run to run."""
        return "is open, and was not before"

    def thing(self) -> None:
        """Return None: a number is no object."""


class OpenedDescriptors:
    """The descriptors that were opened since this object was made.

    Args:
        ledger: its transports and servers account for their own; None without one.
    """

    def __init__(self, ledger: Ledger | None) -> None:
        self._ledger = ledger
        self._before = open_descriptors()

    def records(self, ignores: Iterable[Ignore]) -> list[Any]:
        """Return a record of each new descriptor that is still open.

        Args:
            ignores: values that exempt some.
        """
        before, now = self._before, open_descriptors()
        fresh = {number: target for number, target in now.items() if before.get(number) != target}
        if not fresh:
            return []
        records = self._ledger.everything() if self._ledger is not None else ()
        known = {*_owned(records), *_kept()}
        names = [type_of(target) for number, target in fresh.items() if number not in known]
        found = [DescriptorRecord(name) for name in sorted(names) if name not in _CACHED]
        return remaining(found, _KINDS, tuple(ignores))

    async def left(self, ignores: Iterable[Ignore], budget: float) -> list[Any]:
        """Return the same after time to close, and after garbage was collected.

        Args:
            ignores: values that exempt some.
            budget: seconds.
        """
        ignored = tuple(ignores)

        def count() -> int:
            return len(self.records(ignored))

        ran = count() and await collect_garbage(count)
        if count() and (ran or may_go_on(asyncio.get_running_loop(), budget)):
            await settle(limit=budget, horizon=budget, until=lambda: not count(), patient=False)
            if count():
                await collect_garbage(count)
        return self.records(ignored)


def _owned(records: Iterable[Any]) -> Iterator[int]:
    """Yield the descriptors of transports and servers."""
    for record in records:
        thing = record.thing() if record.kind in {"transport", "server"} else None
        if thing is None:
            continue
        owners = [ask(thing, "get_extra_info", name) for name in ("socket", "pipe")]
        for number in range(3):
            pipe = ask(thing, "get_pipe_transport", number)
            owners.append(ask(pipe, "get_extra_info", "pipe") if pipe is not None else None)
        owners += attribute(thing, "sockets") or ()
        for owner in owners:
            number_ = ask(owner, "fileno") if owner is not None else None
            if isinstance(number_, int):
                yield number_


def _kept() -> Iterator[int]:
    """Yield the descriptors of logging's handlers and of helpers of the interpreter."""
    for reference in [*logging._handlerList]:  # type: ignore[attr-defined] # noqa: SLF001 - there is no public list of handlers
        number = ask(attribute(ask(reference, "__call__"), "stream"), "fileno")
        if isinstance(number, int):
            yield number
    tracker = attribute(sys.modules.get("multiprocessing.resource_tracker"), "_resource_tracker")
    number = attribute(tracker, "_fd")
    if isinstance(number, int):
        yield number
