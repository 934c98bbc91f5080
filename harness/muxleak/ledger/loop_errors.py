"""What a loop's exception handler is told, as text and as a record."""

from contextvars import Context
from typing import Any

from muxleak.introspect.sites import Site
from muxleak.introspect.waiting import name_of, scrub
from muxleak.ledger.counters import CURRENT, Scope, charged
from muxleak.ledger.kinds import DestroyedRecord, ErrorRecord

_MAX_ERROR = 200  # characters
_NOWHERE = Site(())


def describe(context: dict[str, Any]) -> str:
    """What the handler was told, as one line that is the same in every process."""
    message = str(context.get("message", "unknown error")).split(" at ")[0]
    task = context.get("task") or context.get("future")
    exception = context.get("exception")
    where = f" in {name_of(task)}" if task is not None else ""
    what = f": {type(exception).__name__}: {exception}" if exception is not None else ""
    return scrub(f"{message}{where}{what}", _MAX_ERROR)


def charge(context: dict[str, Any], text: str, root: Scope) -> None:
    """Keep a record of an exception never retrieved, or of a destroyed task, if asked for.

    The scope is that of the task, if the ledger of `root` saw it end or its context is known.
    """
    counters, message = root.counters, str(context.get("message"))
    never = "error" in counters.kinds and message.endswith("never retrieved")
    destroyed = "destroyed" in counters.kinds and "destroyed but it is pending" in message
    if not (never or destroyed):
        return
    # Both messages come with the task or the future they are about.
    future: Any = context.get("task") or context.get("future")
    site, scope = counters.failed.pop(future, (_NOWHERE, None))
    if scope is None:
        scope = charged(_context_of(future).get(CURRENT), counters) or root
    scope.keep((ErrorRecord if never else DestroyedRecord)(text, name_of(future), site, scope))


def _context_of(future: Any) -> Context:
    # Tasks tell their context since 3.12.
    get_context = getattr(future, "get_context", None)
    return get_context() if get_context is not None else Context()
