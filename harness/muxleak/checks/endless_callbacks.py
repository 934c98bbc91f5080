"""Callbacks that schedule themselves again for ever, by `call_soon`, so that no loop settles."""

# Nothing records `call_soon`: it is the hottest call of a loop. A chain of callbacks shows when a
# check ends, by a callback that is ready, in the context of the scope, after the loop has run a few
# iterations. Then, and only then, `call_soon` of the loop is replaced for a while, which gives the
# line that schedules, and the last handle, by which the chain is ended. Where the ready callbacks
# cannot be seen (uvloop, qasync, trio-asyncio), it is replaced for one iteration of each check.
#
# A chain that ends within the budget is no leak, as with a timer. Left out are the steps of tasks,
# since tasks are counted, and what asyncio itself schedules.
#
# A virtual clock does not move while callbacks are ready, so there iterations are counted.

import asyncio
import sys
import time
from contextvars import Context
from typing import Any, Self

from muxleak.checks.settle import shows_callbacks
from muxleak.introspect.names import TASKS, attribute, is_a
from muxleak.introspect.sites import Site, intern, is_internal, trace
from muxleak.introspect.waiting import callable_name
from muxleak.ledger.counters import CURRENT, Resource, Scope, charged
from muxleak.ledger.task_class import TASK

_QUIET = 2  # iterations without a callback, after which a chain has ended
_MOST = 1000  # iterations on virtual time


class EndlessCallbackRecord(Resource):
    """A callback that schedules itself again in each iteration; a timer without delay."""

    __slots__ = ("handle",)
    kind = "timer"

    def __init__(self, handle: asyncio.Handle, name: str, site: Site, owner: Scope) -> None:
        super().__init__(type(self), name, site.points, owner)
        self.handle = handle
        owner.counters.resources_made += 1
        self.number = owner.counters.resources_made

    def open(self, _thing: Any) -> bool:
        """Return True until it was ended."""
        return not self.handle.cancelled()

    def describe(self, _thing: Any) -> str:
        """Say how it comes again."""
        return "is called in each iteration of the loop, by call_soon"

    def end(self) -> None:
        """Cancel the call that is scheduled."""
        self.handle.cancel()


class CallbackWatch:
    """Finds the endless callbacks of a scope on the running loop; a context manager.

    Args:
        scope: the scope that is examined.
    """

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self._loop: Any = asyncio.get_running_loop()
        shown = shows_callbacks(self._loop)
        self._ready: Any = getattr(self._loop, "_ready", None) if shown else None
        self._original: Any = None
        self._previous: Any = None
        self._seen: dict[tuple[str, Site], tuple[int, asyncio.Handle, Scope]] = {}
        self._iteration = 0

    def __enter__(self) -> Self:
        return self

    def begin(self) -> None:
        """Watch the next iteration, if ready callbacks cannot be seen on this loop."""
        if self._ready is None:
            self._replace()

    def __exit__(self, *_error: object) -> None:
        if self._original is None:
            return
        if self._previous is None:
            del self._loop.call_soon
        else:
            self._loop.call_soon = self._previous

    def suspected(self) -> bool:
        """Return True if a callback of the scope is ready that no task or transport explains."""
        if self._original is not None:
            return bool(self._seen)
        return any(map(self._is_ours, list(self._ready))) if self._ready else False

    async def wait(self, budget: float) -> None:
        """Let the loop run until such callbacks have ended, or the budget is spent."""
        if self._original is None:
            self._replace()
        deadline, quiet = time.monotonic() + budget, 0
        virtual = getattr(self._loop, "is_virtual", False)
        while quiet < _QUIET:
            if self._iteration > _MOST if virtual else time.monotonic() > deadline:
                break
            self._iteration += 1
            await asyncio.sleep(0)
            goes_on = any(last == self._iteration for last, *_ in self._seen.values())
            quiet = 0 if goes_on else quiet + 1

    def records(self) -> list[EndlessCallbackRecord]:
        """Return a record of each callback that goes on."""
        return [
            EndlessCallbackRecord(handle, name, site, owner)
            for (name, site), (last, handle, owner) in self._seen.items()
            if self._iteration and last > self._iteration - _QUIET
        ]

    def _replace(self) -> None:
        """Put a `call_soon` in place that notes the calls of the scope."""
        self._original = original = self._loop.call_soon
        self._previous = vars(self._loop).get("call_soon")

        def call_soon(callback: Any, *args: Any, **settings: Any) -> asyncio.Handle:
            handle: asyncio.Handle = original(callback, *args, **settings)
            if type(getattr(callback, "__self__", None)) is TASK:
                return handle  # the usual case, first
            owner = self._owner(settings.get("context"))
            if owner is not None and not _explained(callback, sys._getframe(1).f_code.co_filename):  # noqa: SLF001
                site = callable_name(callback), intern(trace(2))
                self._seen[site] = self._iteration, handle, owner
            return handle

        try:
            self._loop.call_soon = call_soon
        except AttributeError:
            self._original = None

    def _is_ours(self, handle: Any) -> bool:
        callback = attribute(handle, "_callback")
        code = attribute(attribute(callback, "func", callback), "__code__")
        where = code.co_filename if code is not None else ""
        return self._owner(handle._context) is not None and not _explained(callback, where)  # noqa: SLF001

    def _owner(self, context: Context | None) -> Scope | None:
        """Return the scope that a callback is charged to, if it is the examined one or inside."""
        scope = CURRENT.get() if context is None else context.get(CURRENT)
        scope = charged(scope, self.scope.counters)
        return scope if scope is not None and scope.is_inside(self.scope) else None


def _explained(callback: Any, filename: str) -> bool:
    """Return True for the step of a task, and for calls of asyncio's own."""
    return callback is None or is_a(attribute(callback, "__self__"), TASKS) or is_internal(filename)
