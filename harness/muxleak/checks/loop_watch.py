"""Checking a function that runs loops of its own, as `asyncio.run` makes them.

Such a loop is gone when the function returns, and what was left on it was cancelled. So the loop is
noticed when it begins to run, and looked at when the runner is about to cancel what is left.
"""

import asyncio
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Self

from muxleak.checks.report import LeakReport
from muxleak.checks.scope_check import diagnosed
from muxleak.ledger.counters import Scope
from muxleak.ledger.kinds import KINDS
from muxleak.ledger.ledger import Ledger

_Examine = Callable[[Scope, Ledger], Coroutine[Any, Any, LeakReport]]


class LoopWatch:
    """While entered, charges to one scope what this thread's loops make inside it.

    Args:
        name: of the scope.
        examine: reports what a scope left behind, and ends it.
        select: of what is alive, what counts as a leak.

    Attributes:
        report: the first leak found; falsy if there was none.
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

    def __enter__(self) -> Self:
        self._replace(asyncio.BaseEventLoop, "run_forever", self._adopt)
        uvloop = sys.modules.get("uvloop")
        if uvloop is not None:
            self._replace(uvloop.Loop, "run_forever", self._adopt)
        # A runner calls it at its end; there is no public name for that moment.
        self._replace(asyncio.runners, "_cancel_all_tasks", self._look)
        self._scope.__enter__()
        return self

    def __exit__(self, *_error: object) -> None:
        self._scope.__exit__()
        for owner, name, original in reversed(self._replaced):
            setattr(owner, name, original)
        self._leave()

    def _replace(self, owner: Any, name: str, before: Callable[[Any], None]) -> None:
        original = getattr(owner, name)

        def replacement(loop: Any) -> Any:
            if threading.get_ident() == self._thread:
                before(loop)
            return original(loop)

        # uvloop's own class has the method from the one below it.
        self._replaced.append((owner, name, original))
        setattr(owner, name, replacement)

    def _adopt(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not loop:
            self._leave()
            self._loop = loop
            self._ledger.install(loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop is self._loop and not loop.is_closed() and not self.report:
            self.report = loop.run_until_complete(self._examine(self._scope, self._ledger))

    def _leave(self) -> None:
        loop, self._loop = self._loop, None
        if loop is None:
            return
        if not loop.is_closed() and not loop.is_running():
            self._loop = loop
            self._look(loop)
            self._loop = None
        elif not self.report and not self._scope.clean:
            # Too late to wait, but not to tell.
            self.report = diagnosed(self._select(self._scope.everything()), self._scope)
        self._ledger.uninstall()
