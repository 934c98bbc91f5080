"""Tells code that runs inside a garbage collection, such as a finalizer, from other code."""

# A finalizer that runs because its object was dropped runs in the context of the code that dropped
# it. One that runs in a collection runs in the context of whoever allocated an object just then,
# which may be anybody. The interpreter calls `gc.callbacks` before and after each collection. The
# callback is in that list once for each ledger that needs it, since a count would need a lock.

import gc
from collections.abc import Callable
from contextlib import suppress

_collecting = False
_waiting: list[Callable[[], None]] = []


def install() -> None:
    """Watch the collector until `remove`; calls may be nested."""
    gc.callbacks.append(_note)


def remove() -> None:
    """Undo one `install`."""
    global _collecting  # noqa: PLW0603 - one process, one collector
    gc.callbacks.remove(_note)
    if _note not in gc.callbacks:
        _collecting = False


def collecting() -> bool:
    """Return True if a collection is under way, so that the current context says nothing."""
    return _collecting


def at_end(call: Callable[[], None]) -> None:
    """Call a function once the collection that is under way has run every finalizer."""
    _waiting.append(call)


def _note(phase: str, _info: dict[str, int]) -> None:
    global _collecting  # noqa: PLW0603 - as above
    _collecting = phase == "start"
    while _waiting and not _collecting:
        with suppress(Exception):  # nobody could catch it here
            _waiting.pop(0)()
