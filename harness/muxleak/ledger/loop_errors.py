"""Messages to a loop's exception handler: seen whichever handler is set, as text and as records."""

# asyncio calls `loop.call_exception_handler` with a dictionary. A ledger replaces that method on
# the loop object, passes every call on, and leaves the handler itself alone: a program may set its
# own at any time, and asks for it in vain for ours.
#
# asyncio has no class or code for its messages, so they are recognised by their text:
#
#   message                                   kind
#   ---------------------------------------   ----------------------------------------------------
#   "... exception was never retrieved"       "error", of tasks and of futures
#   "... destroyed but it is pending"         "destroyed", unless a finalizer has cancelled it
#   any other                                 "message": "Unclosed client session", a callback, a
#                                             protocol or a stream handler that raised
#
# A message about an exception that the program's own handler was given is none: the program has
# dealt with it. That something was not closed, or not retrieved, is a leak all the same. Nor is a
# message about one of `_NO_FAULTS`:
#
# - a cancellation: asyncio of 3.11 passes that of every stream handler on, since its own callback
#   asks the task for an exception (StreamReaderProtocol.connection_made; mended in 3.12)
# - a connection that its peer has reset, which a stream handler need not expect: asyncio closes it
#
# The scope to charge. Several messages come from a finalizer, which may run long after the end of
# its object and in any context. So the scope is, the first that is known:
#
# 1. of a task: the one that was charged for it (`Counters.made_at`), or that of its context, which
#    Python 3.12 and later give
# 2. of a callback: that of its handle's context
# 3. outside a garbage collection, that of the current context: of the code that runs, or that
#    dropped the object; but if the next one is known, only a scope inside it
# 4. `Ledger.home`: the scope in which the loop itself was made, for then it has made the object too
# 5. the root
#
# So nobody is charged for an object that a collection frees on a loop of several scopes.

import asyncio
import functools
import re
from contextvars import Context
from functools import partial
from types import CodeType, TracebackType
from typing import Any
from weakref import ref

from muxleak.introspect.foreign import ask
from muxleak.introspect.names import attribute, has_method, is_a, safe_text
from muxleak.introspect.sites import Points, Site, intern, is_internal, trace
from muxleak.introspect.waiting import coroutine_of, name_of, scrub, waiting_of
from muxleak.ledger.collector import at_end, collecting
from muxleak.ledger.counters import CURRENT, Counters, Scope, charged
from muxleak.ledger.kinds import DestroyedRecord, ErrorRecord, MessageRecord

_MAX_ERROR = 200  # characters
_NO_FAULTS = (asyncio.CancelledError, ConnectionError)
_MADE_AT = "_muxleak_made_at"  # an attribute, as a collection clears weak references first
_RECORDS = {"error": ErrorRecord, "destroyed": DestroyedRecord, "message": MessageRecord}


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


def charge(
    context: dict[str, Any], text: str, root: Scope, home: Scope | None, *, handled: bool
) -> None:
    """Record a message, if the ledger wants its kind, and charge the scope that it comes from.

    Args:
        context: as asyncio passes it to an exception handler.
        text: the line of `describe`.
        root: the root of the ledger.
        home: the scope in which the loop was made, if it is known.
        handled: True if the program has set an exception handler.
    """
    counters, kind = root.counters, _kind_of(context, handled=handled)
    destroyed = kind == "destroyed"
    if not (kind in counters.kinds or (kind and counters.observer is not None)):
        return
    future: Any = context.get("task") or context.get("future")
    # The data of failed tasks are kept only if their kind is wanted.
    known = destroyed or (kind == "error" and counters.wants_errors)
    made_at = counters.made_at(future) if known else None
    if made_at is not None:
        site, scope, name = intern(made_at[0]), made_at[1], name_of(future)
    else:
        site, scope = _site_of(context), _scope_of(context, root, home)
        name = name_of(future) if kind != "message" and future is not None else _name_of(context)
    record = _RECORDS[kind](text, name, site, scope)
    if isinstance(record, DestroyedRecord):
        waiting, code = waiting_of(future), attribute(coroutine_of(future), "cr_code")
        record.waiting = waiting if waiting.chain else None
        record.code = code if is_a(code, CodeType) else None
    if destroyed and collecting():
        at_end(partial(_note_destroyed, ref(future), record, made_at, counters))
    elif destroyed:
        _note_destroyed(ref(future), record, made_at, counters)
    else:
        counters.note(record)


def _note_destroyed(
    task: ref[Any], record: ErrorRecord, made_at: tuple[Points, Scope] | None, counters: Counters
) -> None:
    """Note a destroyed task, unless a finalizer in the same garbage has cancelled it."""
    # Such a task is saved: its cancellation wakes it, and it ends in order. Its future alone tells
    # little: `Queue.get`, for one, cancels its future when the collection closes the coroutine.
    saved: Any = task()
    closed = attribute(coroutine_of(saved), "cr_frame", default=saved) is None
    woken = not closed and ask(attribute(saved, "_fut_waiter"), "cancelled")
    if attribute(saved, "_must_cancel") or ask(saved, "cancelling") or woken:
        return
    if made_at is not None and counters.observer is not None:
        counters.observer.destroyed(made_at[0])
    if record.kind in counters.kinds:
        counters.fresh.append(record)


def owner_of_current(root: Scope, home: Scope | None) -> Scope:
    """Return the scope to charge for an object that is finalized now; see the rules above.

    Args:
        root: the root of the ledger.
        home: as for `charge`.
    """
    scope = None if collecting() else charged(CURRENT.get(), root.counters)
    # pytest and Hypothesis drop the locals of a failed test during a later one, which has another
    # loop.
    if home is not None and (scope is None or not scope.is_inside(home)):
        return home
    return scope or root


def _kind_of(context: dict[str, Any], *, handled: bool) -> str:
    message = safe_text(context.get("message"), str)
    # These messages of asyncio come with the task or the future that they are about.
    future = context.get("task") or context.get("future")
    if has_method(future, "_asyncio_future_blocking"):
        if message.endswith("never retrieved"):
            return "error"
        if "destroyed but it is pending" in message:
            return "destroyed"
    if is_a(context.get("exception"), _NO_FAULTS):
        return ""
    return "" if handled and not message.startswith("Unclosed") else "message"


def _scope_of(context: dict[str, Any], root: Scope, home: Scope | None) -> Scope:
    future, handle = context.get("task") or context.get("future"), context.get("handle")
    # `get_context` is new in Python 3.12. A handle of uvloop hides its context, and calls in it.
    own: Any = ask(future, "get_context") if future is not None else attribute(handle, "_context")
    scope = charged(own.get(CURRENT), root.counters) if is_a(own, Context) else None
    return scope or owner_of_current(root, home)


def noting_sessions(original: Any) -> Any:
    """Return an `__init__` of aiohttp's sessions that notes the line which makes one.

    The message of a session's finalizer says nothing about that.
    """

    @functools.wraps(original)
    def __init__(session: Any, *args: Any, **settings: Any) -> None:  # noqa: N807 - it replaces one
        vars(session)[_MADE_AT] = trace(2)
        original(session, *args, **settings)

    return __init__


def _site_of(context: dict[str, Any]) -> Site:
    """Return the place where an exception was raised, or where the object of a message was made."""
    raised = Site(tuple(_raised_at(context)))
    made_at: Any = attribute(context.get("client_session"), _MADE_AT)
    return raised if raised.points or not made_at else intern(made_at)


def _raised_at(context: dict[str, Any]) -> Points:
    """Return the innermost line of the program in the traceback of an exception, as points."""
    trace, found = attribute(context.get("exception"), "__traceback__"), []
    while is_a(trace, TracebackType):
        if not is_internal(trace.tb_frame.f_code.co_filename):
            found = [(trace.tb_frame.f_code, trace.tb_lasti)]
        trace = trace.tb_next
    return found


def _name_of(context: dict[str, Any]) -> str:
    """Return a message without the parts that differ from run to run."""
    message = safe_text(context.get("message", "unknown error"), str)
    return scrub(re.split(r" at |\(", message, maxsplit=1)[0].rstrip("."), _MAX_ERROR)
