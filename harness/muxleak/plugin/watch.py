"""Every loop of this thread counted in one place, from its beginning to its end.

Whoever makes loops (pytest-asyncio, anyio's plugin, `asyncio.run`, a test of its own) makes them of
one of two classes, and runs and closes them by the same methods. Those are replaced while the watch
stands. Loops of other threads are left alone: nobody could look at them without a race.
"""

import asyncio
import sys
import threading
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

from muxleak.ledger import threads
from muxleak.ledger.factory import counting
from muxleak.ledger.kinds import KINDS
from muxleak.ledger.ledger import Ledger
from muxleak.plugin.triggers import Triggers

_Loop = asyncio.AbstractEventLoop

_WATCHED = "_muxleak_watched"  # in the namespace of a loop
_COUNTING = next(
    each for each in counting.__code__.co_consts if getattr(each, "co_name", "") == "factory"
)


class _Watched:
    """What is known of one loop, which owns it.

    Attributes:
        ledger: installed on it; None once the loop has come to its end.
        young: whether it has not run yet.
    """

    __slots__ = ("ledger", "young")

    def __init__(self, ledger: Ledger) -> None:
        self.ledger: Ledger | None = ledger
        self.young = True


class LoopWatcher:
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
        self._loops: WeakSet[_Loop] = WeakSet()
        self._triggers = Triggers()
        self._replaced: list[tuple[Any, str, Any]] = []
        self._uvloop = False

    def start(self) -> None:
        """See loops from now on; as often as one likes."""
        if not self._replaced:
            base = asyncio.BaseEventLoop
            self._replace(base, "__init__", self._around_init)
            self._replace(base, "run_forever", self._around_run)
            # A runner calls it at its end; there is no public name for that moment.
            self._replace(asyncio.runners, "_cancel_all_tasks", self._around_cancel)
            threads.install(self, self.book.root)
        if not self._uvloop and "uvloop" in sys.modules:
            self._uvloop = True
            self._replace(sys.modules["uvloop"].Loop, "run_forever", self._around_run)

    def stop(self) -> None:
        """Leave everything as it was."""
        if not self._replaced:
            return
        for owner, name, original in reversed(self._replaced):
            setattr(owner, name, original)
        self._replaced.clear()
        self._uvloop = False
        threads.remove(self, self.book.root)
        for loop in list(self._loops):
            self._leave(loop)
            del vars(loop)[_WATCHED]
        self._triggers.remove()

    def open_loops(self) -> list[_Loop]:
        """The loops that can be run now."""
        return [loop for loop in self._loops if _can_run(loop)]

    def blind(self, loop: _Loop) -> tuple[str, ...]:
        """What cannot be seen on `loop`."""
        watched = _watched(loop)
        return watched.ledger.unseen if watched is not None and watched.ledger is not None else ()

    def _replace(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        original = getattr(owner, name)
        self._replaced.append((owner, name, original))
        setattr(owner, name, make(original))

    def _around_init(self, original: Any) -> Any:
        def __init__(loop: Any, *args: Any, **settings: Any) -> None:  # noqa: N807 - it replaces one
            original(loop, *args, **settings)
            if threading.get_ident() == self._thread:
                try:
                    self._adopt(loop)
                except AttributeError:
                    # A subclass is not ready for this; its first run is early enough.
                    self._leave(loop)

        return __init__

    def _around_run(self, original: Any) -> Any:
        def run_forever(loop: Any) -> None:
            if threading.get_ident() == self._thread:
                self._run(loop)
            original(loop)

        return run_forever

    def _around_cancel(self, original: Any) -> Any:
        def cancel_all_tasks(loop: Any) -> None:
            self._end(loop)
            original(loop)

        return cancel_all_tasks

    def _run(self, loop: _Loop) -> None:
        watched = _watched(loop)
        if watched is None:
            watched = self._adopt(loop)
        ledger = watched.ledger if watched.young else None
        if ledger is not None and not _chained(loop.get_task_factory()):
            # Whoever made the loop has set a task factory of its own since.
            ledger.uninstall()
            ledger.install(loop, rest=self._triggers.wait)
        watched.young = False

    def _adopt(self, loop: _Loop) -> _Watched:
        ledger = Ledger(log=True, beside=self.book)
        ledger.install(loop, rest=self._triggers.wait)
        watched = vars(loop)[_WATCHED] = _Watched(ledger)
        self._loops.add(loop)
        original = loop.close

        def close() -> None:
            self._end(loop)
            original()

        loop.close = close  # type: ignore[method-assign]
        return watched

    def _end(self, loop: _Loop) -> None:
        if loop in self._loops and threading.get_ident() == self._thread:
            if _can_run(loop):
                self._ending(loop)
            self._leave(loop)

    def _leave(self, loop: _Loop) -> None:
        watched = _watched(loop)
        self._loops.discard(loop)
        self._triggers.forget(loop)
        vars(loop).pop("close", None)
        if watched is not None and watched.ledger is not None:
            watched.ledger.uninstall()
            watched.ledger = None


def _watched(loop: _Loop) -> _Watched | None:
    return vars(loop).get(_WATCHED)


def _can_run(loop: _Loop) -> bool:
    running = asyncio._get_running_loop()  # noqa: SLF001 - public, says the documentation, despite its name
    return running is None and not (loop.is_closed() or loop.is_running())


def _chained(factory: Any) -> bool:
    """Whether a task factory counts, or passes on to one that does."""
    if getattr(factory, "__code__", None) is _COUNTING:
        return True
    cells = (cell.cell_contents for cell in getattr(factory, "__closure__", None) or ())
    return any(getattr(each, "__code__", None) is _COUNTING for each in cells)
