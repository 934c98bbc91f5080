"""Recognises the last moment of a loop that a library ends by itself, and loops run by others."""

# `asyncio.run` and the runners built like it (uvicorn, hypercorn, anyio, uvloop) call
# `asyncio.runners._cancel_all_tasks` at their end, when the leaks are still alive. Two libraries
# cancel the leftovers by themselves, and both ask `asyncio.all_tasks` for them first:
#
#   library                             at that moment the loop
#   ---------------------------------   ------------------------------------------------------------
#   aiohttp: `web.run_app`              is stopped, so that an examination can be run on it
#   trio-asyncio: `open_loop`, `run`    runs inside trio's: leaks are reported without time to end
#
# The callers are named. A program of the user's may ask for the tasks of a stopped loop as well, to
# look at them or to end those it knows, and no check may end them before.
#
# nest_asyncio replaces `run_forever` and `run_until_complete` of a loop's own class, and
# `asyncio.run`, and qasync has methods of its own, so the hooks on `BaseEventLoop` are not called.
# Both still tell asyncio which loop runs, by `asyncio.events._set_running_loop`. The loops of
# trio-asyncio are never run; they are known from their making.
#
# One more hook of a library is here, as it comes with its import, too: sessions of aiohttp note the
# line that makes them, which the message "Unclosed client session" does not say.
#
# Programs without these libraries pay nothing: the hooks come with the import of the library.

import asyncio
import sys
import threading
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from muxleak.ledger.loop_errors import noting_sessions

_CANCELLERS = frozenset({"aiohttp.web", "trio_asyncio._loop"})
_RUN_BY_OTHERS = "trio_asyncio"

Replace = Callable[[Any, str, Callable[[Any], Any]], None]
"""Takes an object, the name of its attribute, and a function that makes the new value."""
Moment = Callable[[asyncio.AbstractEventLoop], None]


class LibraryHooks:
    """The hooks on these libraries, for loops of the thread that makes them.

    Args:
        replace: replaces an attribute, until the hooks are not needed any more.
        begin: called with a loop as it starts to run; may be called with the same loop again.
        end: called with a loop before a library cancels the tasks left on it.
    """

    def __init__(self, replace: Replace, begin: Moment, end: Moment) -> None:
        self._replace, self._begin, self._end = replace, begin, end
        self._thread = threading.get_ident()

    def by_module(self) -> Mapping[str, Callable[[ModuleType], None]]:
        """Return functions that put hooks in place for a library, by the name of its module."""
        running = self._see_running
        return {
            "nest_asyncio": running,
            "nest_asyncio2": running,
            "qasync": running,
            "aiohttp.web": self._see_cancelling,
            "aiohttp.client": self._see_sessions,
            _RUN_BY_OTHERS: self._see_trio,
        }

    def _see_running(self, _module: ModuleType) -> None:
        self._replace(asyncio.events, "_set_running_loop", self._around_set)

    def _see_cancelling(self, _module: ModuleType) -> None:
        self._replace(asyncio, "all_tasks", self._around_all)

    def _see_sessions(self, module: ModuleType) -> None:
        self._replace(vars(module)["ClientSession"], "__init__", noting_sessions)

    def _see_trio(self, module: ModuleType) -> None:
        self._see_cancelling(module)
        self._replace(asyncio.BaseEventLoop, "__init__", self._around_init)

    def _around_set(self, original: Any) -> Any:
        def set_running_loop(loop: Any) -> None:
            original(loop)
            if loop is not None and threading.get_ident() == self._thread:
                self._begin(loop)

        return set_running_loop

    def _around_all(self, original: Any) -> Any:
        def all_tasks(loop: Any = None) -> Any:
            caller = sys._getframe(1).f_globals.get("__name__")  # noqa: SLF001 - the caller is read, nothing else
            own = loop is not None and threading.get_ident() == self._thread
            if own and caller in _CANCELLERS:
                self._end(loop)
            return original(loop)

        return all_tasks

    def _around_init(self, original: Any) -> Any:
        def __init__(loop: Any, *args: Any, **settings: Any) -> None:  # noqa: N807 - it replaces one
            original(loop, *args, **settings)
            package = type(loop).__module__.partition(".")[0]
            if package == _RUN_BY_OTHERS and threading.get_ident() == self._thread:
                self._begin(loop)

        return __init__
