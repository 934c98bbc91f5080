"""Errors that reach a loop's exception handler, as text and as records."""

# asyncio calls the handler with a dictionary. Two of its messages are leaks: an exception that was
# never retrieved, and a task that was destroyed while pending. asyncio has no class or code for
# them, so they are recognised by their text. Both come when the garbage collector frees the task,
# which may be long after its end and in any context. So the scope to charge is looked up, not read
# from the current context: in `Counters.failed`, where a sweep or a done callback of the ledger has
# put it; else in the context of the task, which Python 3.12 and later give; else it is the root.

from contextvars import Context
from typing import Any

from muxleak.introspect.foreign import ask
from muxleak.introspect.names import is_a, safe_text
from muxleak.introspect.sites import Site
from muxleak.introspect.waiting import name_of, scrub
from muxleak.ledger.counters import CURRENT, Scope, charged
from muxleak.ledger.kinds import DestroyedRecord, ErrorRecord

_MAX_ERROR = 200  # characters
_NOWHERE = Site(())


def describe(context: dict[str, Any]) -> str:
    """Describe an error in one line that is the same in every process.

    Args:
        context: as asyncio passes it to an exception handler.
    """
    message = safe_text(context.get("message", "unknown error"), str).split(" at ")[0]
    task = context.get("task") or context.get("future")
    exception = context.get("exception")
    where = f" in {name_of(task)}" if task is not None else ""
    what = ""
    if exception is not None:
        what = f": {type(exception).__name__}: {safe_text(exception, str)}"
    return scrub(f"{message}{where}{what}", _MAX_ERROR)


def charge(context: dict[str, Any], text: str, root: Scope) -> None:
    """Record an exception never retrieved, or a destroyed task, if the ledger wants that kind.

    The scope of the task is charged if the ledger saw its end or the context is known, else `root`.

    Args:
        context: as asyncio passes it to an exception handler.
        text: the line of `describe`.
        root: the root of the ledger.
    """
    counters, message = root.counters, safe_text(context.get("message"), str)
    never = "error" in counters.kinds and message.endswith("never retrieved")
    destroyed = "destroyed" in counters.kinds and "destroyed but it is pending" in message
    # Both messages of asyncio come with the task or the future they are about.
    future: Any = context.get("task") or context.get("future")
    if not (never or destroyed) or future is None:
        return
    failure = counters.failure_of(future)
    if failure is not None:
        site, scope = failure.site, failure.scope
    else:
        site, scope = _NOWHERE, charged(_context_of(future).get(CURRENT), counters) or root
    scope.keep((ErrorRecord if never else DestroyedRecord)(text, name_of(future), site, scope))


def _context_of(future: Any) -> Context:
    # New in Python 3.12.
    context = ask(future, "get_context")
    return context if is_a(context, Context) else Context()
