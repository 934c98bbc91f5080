"""Every loop of this thread counted in one place, from its beginning to its end.

Whoever makes loops (pytest-asyncio, anyio's plugin, `asyncio.run`, a test of its own) makes them of
one of two classes, and runs and closes them by the same methods. Those are replaced while the watch
stands. Loops of other threads are left alone: nobody could look at them without a race.
"""

import asyncio
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary, WeakSet, ref

from harness.factory import counting
from harness.kinds import KINDS
from harness.ledger import Ledger

_Loop = asyncio.AbstractEventLoop

_COUNTING = next(
    each for each in counting.__code__.co_consts if getattr(each, "co_name", "") == "factory"
)


class Watch:
    """The ledger of a session, installed on one loop after another.

    Args:
        ending: is given a loop that can still run, before what is left on it is cancelled.

    Attributes:
        book: the ledger whose scopes are charged, whatever the loop.
    """

    def __init__(self, ending: Callable[[_Loop], None]) -> None:
        self.book = Ledger(KINDS, log=True)
        self._ending = ending
        self._thread = threading.get_ident()
        # A loop owns its ledger through the hooks; here it must not be kept alive.
        self._ledgers: WeakKeyDictionary[_Loop, ref[Ledger]] = WeakKeyDictionary()
        # Loops that have not run yet.
        self._young: WeakSet[_Loop] = WeakSet()
        self._replaced: list[tuple[Any, str, Any]] = []
        self._uvloop = False

    def start(self) -> None:
        """See loops from now on; as often as one likes."""
        if not self._replaced:
            base = asyncio.BaseEventLoop
            self._replace(base, "__init__", after=self._born)
            self._replace(base, "run_forever", before=self._run)
            # A runner calls it at its end; there is no public name for that moment.
            self._replace(asyncio.runners, "_cancel_all_tasks", before=self._look)
        if not self._uvloop and "uvloop" in sys.modules:
            self._uvloop = True
            self._replace(sys.modules["uvloop"].Loop, "run_forever", before=self._run)

    def stop(self) -> None:
        """Leave everything as it was."""
        for owner, name, original in reversed(self._replaced):
            setattr(owner, name, original)
        self._replaced.clear()
        self._uvloop = False
        for loop in list(self._ledgers):
            self._leave(loop)

    def open_loops(self) -> list[_Loop]:
        """The loops that can be run now."""
        return [loop for loop in self._ledgers if _can_run(loop)]

    def blind(self, loop: _Loop) -> tuple[str, ...]:
        """What cannot be seen on `loop`."""
        ledger = self._ledger(loop)
        return ledger.blind if ledger is not None else ()

    def _replace(
        self,
        owner: Any,
        name: str,
        *,
        before: Callable[[Any], None] | None = None,
        after: Callable[[Any], None] | None = None,
    ) -> None:
        original = getattr(owner, name)

        def replacement(loop: Any, *args: Any, **settings: Any) -> Any:
            if before is not None and threading.get_ident() == self._thread:
                before(loop)
            result = original(loop, *args, **settings)
            if after is not None and threading.get_ident() == self._thread:
                after(loop)
            return result

        self._replaced.append((owner, name, original))
        setattr(owner, name, replacement)

    def _born(self, loop: _Loop) -> None:
        # A subclass may not be ready for this yet; then its first run is early enough.
        with suppress(AttributeError):
            self._adopt(loop)

    def _run(self, loop: _Loop) -> None:
        ledger = self._ledger(loop)
        if ledger is None:
            self._adopt(loop)
        elif loop in self._young and not _chained(loop.get_task_factory()):
            # Whoever made the loop has set a task factory of its own since.
            ledger.uninstall()
            ledger.install(loop)
        self._young.discard(loop)

    def _adopt(self, loop: _Loop) -> None:
        ledger = Ledger(log=True, beside=self.book)
        ledger.install(loop)
        self._ledgers[loop] = ref(ledger)
        self._young.add(loop)
        original = loop.close

        def close() -> None:
            self._look(loop)
            self._leave(loop)
            original()

        with suppress(AttributeError):
            loop.close = close  # type: ignore[method-assign]

    def _look(self, loop: _Loop) -> None:
        if loop in self._ledgers and _can_run(loop):
            self._ending(loop)

    def _leave(self, loop: _Loop) -> None:
        ledger = self._ledger(loop)
        self._ledgers.pop(loop, None)
        if ledger is not None:
            ledger.uninstall()
        with suppress(AttributeError):
            del loop.close

    def _ledger(self, loop: _Loop) -> Ledger | None:
        found = self._ledgers.get(loop)
        return found() if found is not None else None


def _can_run(loop: _Loop) -> bool:
    running = asyncio._get_running_loop()  # noqa: SLF001 - public, says the documentation, despite its name
    return running is None and not (loop.is_closed() or loop.is_running())


def _chained(factory: Any) -> bool:
    """Whether a task factory counts, or passes on to one that does."""
    cells = [cell.cell_contents for cell in getattr(factory, "__closure__", None) or ()]
    return any(getattr(each, "__code__", None) is _COUNTING for each in [factory, *cells])
