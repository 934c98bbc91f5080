"""Checking a function that runs loops of its own, as `asyncio.run` makes them."""

# When such a function returns, its loop is closed and its leaks are cancelled. So a check has to
# see the loop from within the call:
#
# - The start: `run_forever` of `asyncio.BaseEventLoop` is replaced (and that of `uvloop.Loop`, once
#   uvloop is imported, since it is no subclass), because every way to run a loop calls it. A loop
#   that runs in this thread gets the ledger.
# - The end: a runner calls `asyncio.runners._cancel_all_tasks` as the first step of its own
#   clean-up. That is the last moment at which the leaks are alive and the loop can still run the
#   examination. The name is private; there is no public one for that moment.
# - Libraries that run or end loops in another way: see `loop_ends`.
# - Without a runner, the loop is examined when the next loop begins or when the function returns.
#   If it is closed by then, the leaks are reported without the wait in which they could have ended.
#
# A function may run several loops, one after the other; all are charged to one scope, and the first
# leak found is reported. Loops of other threads are left alone: they cannot be run from here.
#
# This stands apart from `no_leaks` because it is about loops and replaces functions of the process;
# it is given the examination and knows nothing of options.

import asyncio
import gc
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Self
from weakref import WeakSet

from muxleak.checks.failure import failed
from muxleak.checks.late_import import LateImport
from muxleak.checks.loop_ends import LibraryHooks
from muxleak.checks.report import LeakReport
from muxleak.checks.scope_check import diagnosed
from muxleak.ledger.counters import Scope
from muxleak.ledger.kinds import KINDS
from muxleak.ledger.ledger import Ledger

_Examine = Callable[[Scope, Ledger], Coroutine[Any, Any, LeakReport]]


class LoopWatch:
    """A context manager that charges to one scope all work of the loops of this thread.

    Args:
        name: of the scope.
        examine: reports the leaks of a scope, and ends them; runs on the loop.
        select: returns those of given records that count as leaks.

    Attributes:
        report: on the first loop that had a leak; falsy if none had.
    """

    def __init__(
        self, name: str, examine: _Examine, select: Callable[[list[Any]], list[Any]]
    ) -> None:
        self.report = LeakReport((), 0)
        self._examine, self._select = examine, select
        self._ledger = Ledger(KINDS, log=True)
        self._scope = self._ledger.scope(name)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.get_ident()
        self._replaced: list[tuple[Any, str, Any]] = []
        # Loops that the function has made, and with them everything that is ever on them.
        self._made: WeakSet[asyncio.AbstractEventLoop] = WeakSet()

        def see_uvloop(uvloop: Any) -> None:
            self._replace(uvloop.Loop, "run_forever", self._begin)

        others = LibraryHooks(self._put, self._begin, self._examine_on)
        self._late = LateImport({"uvloop": see_uvloop, **others.by_module()})

    def __enter__(self) -> Self:
        self._replace(asyncio.BaseEventLoop, "__init__", self._made.add)
        self._replace(asyncio.BaseEventLoop, "run_forever", self._begin)
        self._late.start()
        self._replace(asyncio.runners, "_cancel_all_tasks", self._examine_on)
        self._scope.__enter__()
        return self

    def __exit__(self, *_error: object) -> None:
        self._scope.__exit__()
        self._late.stop()
        for owner, name, original in reversed(self._replaced):
            setattr(owner, name, original)
        self._end()

    def _replace(self, owner: Any, name: str, before: Callable[[Any], None]) -> None:
        """Call a function before a method of loops, in this thread."""

        def make(original: Any) -> Any:
            def replacement(loop: Any) -> Any:
                if threading.get_ident() == self._thread:
                    before(loop)
                return original(loop)

            return replacement

        self._put(owner, name, make)

    def _put(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        # Put back by `setattr`, also where the class had inherited it, as uvloop's has.
        original = getattr(owner, name)
        self._replaced.append((owner, name, original))
        setattr(owner, name, make(original))

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Record the tasks and resources of a loop that is about to run."""
        # A loop that nest_asyncio runs inside the current one is left alone.
        nested = self._loop is not None and self._loop.is_running()
        if self._loop is not loop and not nested:
            self._end()
            self._loop = loop
            self._ledger.install(loop, home=self._scope if loop in self._made else None)

    def _examine_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run the examination on a loop, unless a leak was found before."""
        if loop is not self._loop or loop.is_closed() or self.report:
            return
        if loop.is_running():
            self._report_now()
        else:
            self.report = loop.run_until_complete(self._examine(self._scope, self._ledger))

    def _report_now(self) -> None:
        """Report the leaks without the wait in which they could end: it is too late for that."""
        if self._scope.certainly_clean:
            return
        gc.collect()
        try:
            self.report = diagnosed(self._select(self._scope.everything()), self._scope)
        except Exception as error:  # noqa: BLE001 - the outcome of the function must stay
            failed(self._scope.name, error)

    def _end(self) -> None:
        """Examine the loop, if that has not been done, and stop recording."""
        loop, self._loop = self._loop, None
        if loop is None:
            return
        if not loop.is_closed() and not loop.is_running():
            self._loop = loop
            self._examine_on(loop)
            self._loop = None
        elif not self.report:
            self._report_now()
        self._ledger.uninstall()
