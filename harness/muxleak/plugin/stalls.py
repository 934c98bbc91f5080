"""Notices a `Server.wait_closed` that can never return, so that a test fails and does not hang."""

# From Python 3.12 on `Server.wait_closed` waits for the connections of the server. So the commonest
# leak of a test, a connection that nobody closes, shows as a hang in a teardown. pytest-timeout and
# Ctrl-C end it, and the leaks are reported then; without them nothing does.
#
# `asyncio.Server.wait_closed` is replaced by a function that returns the same coroutine. If that is
# blocked two iterations later, the loop is looked at every `_PERIOD` seconds. A look that finds
# every task waiting for the same future as before, and no timer that is due soon, has seen no
# progress. After `_LOOKS` such looks in a row the wait is given up: it is reported, and the
# connections are aborted. Anything that moves, such as a heartbeat, begins the count anew. So does
# a connection whose peer is in another thread or process: nobody knows when it will move.
#
# A call that returns at once costs two iterations' callbacks, and no timer.

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from muxleak.introspect.foreign import ask
from muxleak.introspect.names import attribute, is_a
from muxleak.introspect.timers import called, due

_PERIOD = 0.5  # seconds
_LOOKS = 10
_SOON = 60.0  # seconds
WAITED = _PERIOD * _LOOKS
"""Seconds without progress after which a wait is given up."""

Stalled = Callable[[asyncio.AbstractEventLoop, asyncio.Server], bool]


def watching(original: Any, stalled: Stalled) -> Any:
    """Return a `wait_closed` that notices a wait without progress.

    Args:
        original: the method of `asyncio.Server`.
        stalled: is called in the loop with the loop and the server; returns False to wait on.
    """

    def wait_closed(self: asyncio.Server) -> Coroutine[Any, Any, None]:
        coroutine: Coroutine[Any, Any, None] = original(self)
        loop = asyncio._get_running_loop()  # noqa: SLF001 - documented for loop implementations
        if loop is not None and not getattr(loop, "is_virtual", False):
            _Wait(loop, self, coroutine, stalled).begin()
        return coroutine

    return wait_closed


class _Wait:
    """One call of `wait_closed`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        server: asyncio.Server,
        coroutine: Coroutine[Any, Any, None],
        stalled: Stalled,
    ) -> None:
        self._loop, self._server, self._coroutine = loop, server, coroutine
        self._stalled = stalled
        self._looks, self._last = 0, frozenset[Any]()

    def begin(self) -> None:
        """Look again in two iterations."""
        self._loop.call_soon(self._loop.call_soon, self._look)

    def _look(self) -> None:
        if inspect.getcoroutinestate(self._coroutine) != inspect.CORO_SUSPENDED:
            return
        present = self._state()
        moves = present != self._last or self._timer_is_near()
        self._looks = 0 if moves else self._looks + 1
        self._last = present
        if self._looks >= _LOOKS:
            if self._stalled(self._loop, self._server):
                return
            self._looks = 0
        self._loop.call_later(_PERIOD, self._look)

    def _state(self) -> frozenset[Any]:
        """Return ids that change if a task moves."""
        tasks = asyncio.all_tasks(self._loop)
        return frozenset((id(task), id(attribute(task, "_fut_waiter"))) for task in tasks)

    def _timer_is_near(self) -> bool:
        """Return True if a timer fires soon, which may end a connection; those of waits do not."""
        handles = [each for each in attribute(self._loop, "_scheduled", ()) if not each.cancelled()]
        return any(
            (due(each) or 0.0) < _SOON
            for each in handles
            if not is_a(attribute(called(each)[0], "__self__"), _Wait)
        )


def stuck_connections(
    records: Iterable[Any], loop: asyncio.AbstractEventLoop, server: asyncio.Server
) -> list[Any]:
    """Return the records of a server's connections and of their peers, if none can end alone.

    Args:
        records: of everything that is alive.
        loop: the loop of the server.
        server: waits for its connections.

    Returns:
        The records; none if the peer of one may be in another thread or process.
    """
    transports = [each for each in records if each.kind == "transport" and each.thing() is not None]
    found = [each for each in transports if attribute(each.thing(), "_server") is server]
    peers = [ask(each.thing(), "get_extra_info", "peername") for each in found]
    others = {ask(each.thing(), "get_extra_info", "sockname"): each for each in transports}
    for each, peer in list(zip(found, peers, strict=True)):
        other = others.get(peer) if peer else None
        if other is not None:
            found.append(other)
        elif _is_read(loop, each.thing()):
            return []
    return found


def _is_read(loop: asyncio.AbstractEventLoop, transport: Any) -> bool:
    """Return True if the loop waits for bytes, or for the end, of a connection."""
    watched = ask(attribute(loop, "_selector"), "get_map") or {}
    return ask(ask(transport, "get_extra_info", "socket"), "fileno") in watched
