"""One ledger of every kind for a loop, shared by all the checks that are under way on it."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from harness.kinds import KINDS
from harness.ledger import Ledger

_ledgers: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[Ledger, list[None]]]
_ledgers = WeakKeyDictionary()


@contextmanager
def shared_ledger(loop: asyncio.AbstractEventLoop) -> Iterator[Ledger]:
    """The ledger of `loop`, installed for the length of the longest block that uses it."""
    ledger, users = _ledgers.setdefault(loop, (Ledger(KINDS, log=True), []))
    if not users:
        ledger.install(loop)
    users.append(None)
    try:
        yield ledger
    finally:
        users.pop()
        if not users:
            ledger.uninstall()
            del _ledgers[loop]
