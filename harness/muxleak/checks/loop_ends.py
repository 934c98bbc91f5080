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
# `asyncio.run`, so the hooks on `BaseEventLoop` are not called. It still tells asyncio which loop
# runs, by `asyncio.events._set_running_loop`. The loops of trio-asyncio are never run; they are
# known from their making.

import asyncio
import sys
import threading
from collections.abc import Callable
from typing import Any

_CANCELLERS = frozenset({"aiohttp.web", "trio_asyncio._loop"})
_RUN_BY_OTHERS = "trio_asyncio"

Replacement = tuple[Any, str, Callable[[Any], Any]]
"""An object, the name of its attribute, and a function that makes the new value from the old."""


def replacements(
    begin: Callable[[asyncio.AbstractEventLoop], None],
    end: Callable[[asyncio.AbstractEventLoop], None],
) -> list[Replacement]:
    """Return the attributes to replace, so that these moments are seen in the calling thread.

    Args:
        begin: called with a loop as it starts to run; may be called with the same loop again.
        end: called with a loop before a library cancels the tasks left on it.
    """
    thread = threading.get_ident()

    def around_set(original: Any) -> Any:
        def set_running_loop(loop: Any) -> None:
            original(loop)
            if loop is not None and threading.get_ident() == thread:
                begin(loop)

        return set_running_loop

    def around_all(original: Any) -> Any:
        def all_tasks(loop: Any = None) -> Any:
            caller = sys._getframe(1).f_globals.get("__name__")  # noqa: SLF001 - the caller is read, nothing else
            if caller in _CANCELLERS and loop is not None and threading.get_ident() == thread:
                end(loop)
            return original(loop)

        return all_tasks

    return [
        (asyncio.events, "_set_running_loop", around_set),
        (asyncio, "all_tasks", around_all),
    ]


def is_run_by_others(loop: asyncio.AbstractEventLoop) -> bool:
    """Return True for a loop that another library runs, without any call of its methods."""
    return type(loop).__module__.partition(".")[0] == _RUN_BY_OTHERS
