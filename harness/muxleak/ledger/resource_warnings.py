"""Sees the ResourceWarnings about things that were not closed, and changes no filter's effect."""

# `warnings.warn` is written in C, libraries bind it early, and a filter decides before any hook is
# called that a ResourceWarning is shown to nobody. But the interpreter asks each filter, in order,
# if it matches: it calls `match` of the filter's pattern with the text, and `__subclasscheck__` of
# the filter's class with the category. So one more filter at the head of the list sees every
# warning that no later filter of the program has settled, and never matches. It stays in the list
# only while a ledger that wants warnings is installed. A program that puts a filter before it (in
# `catch_warnings`, `pytest.warns`) deals with those warnings itself, and they are not counted.
#
# Counted are the texts of things that a server loses: transports, streams, connections, processes.
# Files and event loops are not, nor sockets, since many programs leave them to the end of the last
# reference, which closes them; but a socket that only a collection frees was lost until then. No
# more are texts that begin with "Unclosed": aiohttp also sends those to the exception handler.
#
# The finalizer of a transport names its object, by its frame or by its address in the text; that of
# a StreamWriter, which then closes its transport, has it. If the ledger has a record of it, the
# record becomes a leak: "transport", as if it were still open. So the verdict is the same before
# and after a collection. All others are of the kind "warning", and the scope is found as for
# messages (`loop_errors`).
#
# A monitor only counts warnings: its ledger keeps no records of them, and leaves its transports as
# they are. The site is the line that dropped the object, unless a collection freed it.

import asyncio
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import suppress
from types import FrameType
from typing import Any, Protocol

from muxleak.introspect.names import attribute, is_a
from muxleak.introspect.sites import Points, intern, trace
from muxleak.introspect.waiting import scrub
from muxleak.ledger.collector import collecting
from muxleak.ledger.counters import CURRENT, Scope, charged
from muxleak.ledger.kinds import TransportRecord, WarningRecord
from muxleak.ledger.loop_errors import owner_of_current

_COUNTED = re.compile(r"(?!unclosed (file|event loop)\b)unclosed |.*\bis still (running|open)\b")
_SOCKET = re.compile(r"unclosed <(socket|ssl)\.")
_ADDRESS = re.compile(r"0x([0-9a-f]+)>$")
_DETAILS = re.compile(r"<([^\s>]+).*>")
_NUMBERS = re.compile(r"\b\d+\b")
_MAX_TEXT = 160  # characters
_FEW = 8  # lists of filters, one for each `catch_warnings` around another


class Watched(Protocol):
    """A ledger that wants warnings."""

    @property
    def root(self) -> Scope:
        """The root of the ledger."""

    @property
    def home(self) -> Scope | None:
        """The scope in which its loop was made, if it is known."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop that it counts on."""


_watched: list[Watched] = []
_lists: list[list[Any]] = []  # the lists of filters that hold ours


class _Pattern:
    """Takes the place of a filter's compiled pattern."""

    text = ""

    def match(self, text: str) -> bool:
        """Note the text; always say that it matches, so that the category is asked for."""
        self.text = text
        return True


class _Category(type):
    """The metaclass of the filter's category, of which no category is a subclass."""

    def __subclasscheck__(cls, category: type) -> bool:
        if category is ResourceWarning and _COUNTED.match(_pattern.text):
            # A warning must not fail by us. The frame is the finalizer's, if it has one.
            with suppress(Exception):
                _see(_pattern.text, sys._getframe(1))  # noqa: SLF001 - only the calling frame
        return False


class _NoCategory(Warning, metaclass=_Category):
    """No warning's category."""


_pattern = _Pattern()
_filter: Any = ("ignore", _pattern, _NoCategory, None, 0)


def install(ledger: Watched) -> None:
    """Record the warnings of the loop of a ledger, until `remove`."""
    _watched.append(ledger)
    renew()


def remove(ledger: Watched) -> None:
    """Undo one `install`."""
    _watched.remove(ledger)
    if not _watched:
        while _lists:
            filters = _lists.pop()
            if _filter in filters:
                filters.remove(_filter)


def renew() -> None:
    """Put the filter into the list of filters, if a ledger wants warnings and it is not there."""
    filters: Any = warnings.filters
    if _watched and _filter not in filters:
        filters.insert(0, _filter)
        # A list that is not in use any more is not kept for long.
        _lists[:] = [*_lists[-_FEW:], filters]


def _see(text: str, frame: FrameType | None) -> None:
    source = frame.f_locals.get("self") if frame is not None else None
    address = _ADDRESS.search(text)
    # The finalizer of a stream names the stream, not its transport.
    stream = attribute(source, "_transport") if is_a(source, asyncio.StreamWriter) else None
    found = {id(source), id(stream), int(address[1], 16) if address else 0} - {id(None)}
    loop = getattr(source, "_loop", None)
    if _SOCKET.match(text) and not collecting():
        return
    known = set()
    for ledger in [*_watched]:
        root = ledger.root
        if root.counters in known:
            continue
        keeps = "warning" in root.counters.kinds
        transports = _transports(root) if keeps else ()
        record = next((each for each in transports if each.ident in found), None)
        if record is not None:
            record.dropped = True
        else:
            owner = _owner(ledger, loop)
            if owner is None:
                continue
            name = _NUMBERS.sub("...", _DETAILS.sub(r"<\1>", text))
            names = scrub(text, _MAX_TEXT), scrub(name, _MAX_TEXT)
            points = trace(3) if keeps else _dropped_at(trace(3))
            root.counters.note(WarningRecord(*names, intern(points), owner))
        known.add(root.counters)


def _dropped_at(points: Points) -> Points:
    """Return the raw site below the finalizers; none in a collection, whose caller is anybody."""
    while points and points[0].co_name == "__del__":
        points = points[2:]
    return [] if collecting() else points


def _owner(ledger: Watched, loop: Any) -> Scope | None:
    """Return the scope that an object belongs to; None if it is another ledger's.

    Args:
        ledger: the ledger.
        loop: the loop that the object names; None if it names none.
    """
    root = ledger.root
    if loop is not None:
        return owner_of_current(root, ledger.home) if ledger.loop is loop else None
    if collecting():
        # Garbage may be anybody's. Only repetitions can judge it, and they count that of the root.
        return root
    running = asyncio._get_running_loop()  # noqa: SLF001 - documented
    if running is not None and ledger.loop is running:
        return owner_of_current(root, ledger.home)
    return charged(CURRENT.get(), root.counters)


def _transports(root: Scope) -> Iterator[TransportRecord]:
    fresh = root.counters.fresh
    for each in (*fresh, *root.things, *(thing for s in root.inside() for thing in s.things)):
        if isinstance(each, TransportRecord):
            yield each
