"""What a loop's exception handler is told, as text and as a record."""

from contextvars import Context
from typing import Any

from harness.resources import Destroyed, Failure
from harness.scope import CURRENT, Scope, charged
from harness.sites import Site
from harness.waiting import name_of, scrub

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
    tally, message = root.tally, str(context.get("message"))
    never = "error" in tally.kinds and message.endswith("never retrieved")
    destroyed = "destroyed" in tally.kinds and "destroyed but it is pending" in message
    if not (never or destroyed):
        return
    # Both messages come with the task or the future they are about.
    future: Any = context.get("task") or context.get("future")
    site, scope = tally.failed.pop(future, (_NOWHERE, None))
    if scope is None:
        scope = charged(_context_of(future).get(CURRENT), tally) or root
    scope.keep((Failure if never else Destroyed)(text, name_of(future), site, scope))


def _context_of(future: Any) -> Context:
    # Tasks tell their context since 3.12.
    get_context = getattr(future, "get_context", None)
    return get_context() if get_context is not None else Context()
