"""The kinds of resources that can leak, and their records.

A resource is recorded where it is made, by weak reference, so that recording keeps nothing alive.
"""

# No loop reports the end of a resource, so a record asks the resource itself, by public methods
# that every loop has, whenever the ledger needs to know (`Resource.alive`). A resource that was
# freed has ended. Else:
#
#   kind        has ended when
#   ---------   --------------------------------------------------------------------------------
#   timer       it is cancelled or due, or its loop is closed
#   transport   it has no protocol: `connection_lost` was called. Closing is not enough, because a
#               transport that still has data to send stays open until the peer has taken them
#   server      it has no sockets
#   reader      the hook saw its removal, or another callback for the same descriptor, or its loop
#               is closed
#   generator   it is exhausted or closed; while it runs or awaits it does not count either, since
#               the task that iterates over it is counted
#   job         its future is done
#   thread      it is not alive
#   error       never: the exception was lost, whatever happens later
#   destroyed   never
#   message     never
#   warning     never
#
# Tasks are no resources; the counters hold them weakly and learn of their end by a callback. Two
# more kinds, finished tasks that are retained and callbacks on a future, are legitimate at any one
# moment, so they are not recorded but counted between repetitions (`checks.retention`).
#
# `end` does what the owner of the resource would do. It is called after the leak was reported, and
# must not wait.

import asyncio
import concurrent.futures
import sys
import threading
from collections.abc import Iterable, Iterator
from types import AsyncGeneratorType, CodeType, FrameType
from typing import Any

from muxleak.introspect.foreign import ask, refer
from muxleak.introspect.names import attribute, module_of
from muxleak.introspect.sites import Points, Site, SiteFrame
from muxleak.introspect.waiting import Waiting, code_place, is_stdlib
from muxleak.ledger.counters import Resource, Scope

NOUNS = {
    "task": ("task", "tasks"),
    "timer": ("timer", "timers"),
    "transport": ("transport", "transports"),
    "server": ("server", "servers"),
    "reader": ("watched descriptor", "watched descriptors"),
    "generator": ("async generator", "async generators"),
    "job": ("executor job", "executor jobs"),
    "thread": ("thread", "threads"),
    "error": ("exception never retrieved", "exceptions never retrieved"),
    "destroyed": ("task destroyed while pending", "tasks destroyed while pending"),
    "message": ("message to the exception handler", "messages to the exception handler"),
    "warning": ("resource warning", "resource warnings"),
    "descriptor": ("open descriptor", "open descriptors"),
    "object": ("entry", "entries"),
    "retained": ("finished task kept", "finished tasks kept"),
    "callback": ("callback on a future", "callbacks on a future"),
}
# Judged by growth only; "descriptor" also by a block that names it (see `checks.descriptors`).
GROWTH_KINDS = frozenset({"retained", "callback", "descriptor", "object"})
# These have no end that a check could wait for.
LASTING = frozenset({"error", "destroyed", "message", "warning"})
KINDS = frozenset(NOUNS)
DEFAULT_KINDS = KINDS - {"object"}  # that one is costly


def valid_kinds(kinds: Iterable[str]) -> frozenset[str]:
    """Return kinds as a set.

    Args:
        kinds: of `KINDS`; a single one may be a string.

    Raises:
        ValueError: one of them is unknown; the message names the known ones.
    """
    if isinstance(kinds, frozenset) and kinds <= KINDS:
        return kinds
    if isinstance(kinds, str):
        kinds = [kinds]
    unknown = sorted(set(kinds) - KINDS)
    if unknown:
        raise ValueError(f"unknown kinds {unknown!r}, expected some of {sorted(KINDS)!r}")
    return frozenset(kinds)


class TimerRecord(Resource):
    """A handle of `call_later` or `call_at` that is neither due nor cancelled."""

    __slots__ = ("loop",)
    kind = "timer"
    # A timer that is due keeps its arguments, and nothing says that it is due.
    holds = False

    def __init__(
        self,
        thing: asyncio.TimerHandle,
        name: str,
        points: Points,
        owner: Scope,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(thing, name, points, owner)
        self.loop = refer(loop)

    def open(self, thing: asyncio.TimerHandle) -> bool:
        """Return True if it is due in the future: the loop drops it once it is due."""
        loop = self.loop()
        if loop is None or thing.cancelled() or loop.is_closed():
            return False
        return bool(thing.when() > loop.time())

    def describe(self, thing: asyncio.TimerHandle) -> str:
        """Say when it is due."""
        loop = self.loop()
        return f"is due in {thing.when() - loop.time():.3g} s" if loop else "is due"

    def end(self) -> None:
        """Cancel it."""
        thing = self._ref()
        if thing is not None:
            thing.cancel()


class TransportRecord(Resource):
    """A connection, datagram endpoint, pipe or process; it drops its protocol at its end.

    Attributes:
        ident: the id of the transport, by which its finalizer is recognised.
        dropped: True if the transport was freed without being closed; it stays a leak then.
    """

    __slots__ = ("dropped", "ident")
    kind = "transport"

    def __init__(self, thing: Any, name: str, points: Points, owner: Scope) -> None:
        super().__init__(thing, name, points, owner)
        self.ident, self.dropped = id(thing), False

    def alive(self) -> bool:
        """Return True if it is open, or was dropped without being closed."""
        return self.dropped or super().alive()

    def open(self, thing: Any) -> bool:
        """Return True until `connection_lost`; one that is closing may still have data to send."""
        try:
            return thing.get_protocol() is not None
        except AttributeError:
            # A TLS transport of asyncio that was closed twice.
            return False

    def describe(self, thing: Any) -> str:
        """Say if it is closing, and name the peer or its own address."""
        if self.dropped:
            return "was dropped, and freed without being closed"
        state = "is open"
        if ask(thing, "is_closing"):
            state = "is closing"
            if ask(thing, "get_extra_info", "sslcontext") is not None:
                # The peer may stay silent, so the loop limits the wait for its end.
                limit = attribute(attribute(thing, "_ssl_protocol"), "_ssl_shutdown_timeout", 30.0)
                loop = "uvloop" if module_of(thing).startswith("uvloop") else "asyncio"
                state += f", {loop} ends it after {limit:g} s"
        peer = ask(thing, "get_extra_info", "peername") or ask(thing, "get_extra_info", "sockname")
        return f"{state}, to {peer}" if peer else state

    def end(self) -> None:
        """Abort it."""
        thing = self._ref()
        if thing is not None:
            (getattr(thing, "abort", None) or thing.close)()


class ProcessRecord(TransportRecord):
    """A process and its pipes; uvloop's keeps its protocol after its end."""

    __slots__ = ()

    def open(self, thing: Any) -> bool:
        """Return True until the process has ended and its pipes are closed."""
        if not super().open(thing):
            return False
        if isinstance(thing, asyncio.BaseTransport) or ask(thing, "get_returncode") is None:
            return True
        pipes = [ask(thing, "get_pipe_transport", fd) for fd in range(3)]
        return any(pipe is not None and not ask(pipe, "is_closing") for pipe in pipes)


class ServerRecord(Resource):
    """A listening server; it has no sockets once closed."""

    __slots__ = ()
    kind = "server"

    def open(self, thing: asyncio.Server) -> bool:
        """Return True if it has sockets."""
        sockets = attribute(thing, "sockets")
        return bool(sockets) if sockets is not None else bool(thing.is_serving())

    def describe(self, thing: asyncio.Server) -> str:
        """Name the addresses it listens on."""
        names = (ask(each, "getsockname") for each in attribute(thing, "sockets") or ())
        return f"listens on {', '.join(map(str, names))}"

    def end(self) -> None:
        """Close it."""
        thing = self._ref()
        if thing is not None:
            thing.close()


class ReaderRecord(Resource):
    """A descriptor given to `add_reader` or `add_writer`; the hook on its removal marks its end.

    Attributes:
        call: "add_reader" or "add_writer".
        descriptor: the file descriptor.
        removed: True once the descriptor is not watched any more.
    """

    __slots__ = ("call", "descriptor", "removed")
    kind = "reader"

    def __init__(
        self, thing: Any, name: str, points: Points, owner: Scope, call: str, descriptor: int
    ) -> None:
        super().__init__(thing, name, points, owner)
        self.call, self.descriptor, self.removed = call, descriptor, False

    def open(self, thing: asyncio.AbstractEventLoop) -> bool:
        """Return True until it is removed or the loop closes."""
        return not self.removed and not thing.is_closed()

    def describe(self, _thing: asyncio.AbstractEventLoop) -> str:
        """Name the call and the descriptor."""
        return f"is called by {self.call} for descriptor {self.descriptor}"

    def end(self) -> None:
        """Remove it."""
        loop = self._ref()
        if loop is not None and self.alive():
            getattr(loop, self.call.replace("add", "remove"))(self.descriptor)


class GeneratorRecord(Resource):
    """An asynchronous generator that was started and not finished."""

    __slots__ = ()
    kind = "generator"

    def open(self, thing: AsyncGeneratorType[Any, Any]) -> bool:
        """Return True if it is suspended at a yield; while it runs or awaits, its task counts."""
        return thing.ag_frame is not None and not thing.ag_running

    def describe(self, thing: AsyncGeneratorType[Any, Any]) -> str:
        """Name the line where it is suspended."""
        frame: FrameType | None = thing.ag_frame
        line = frame.f_lineno if frame is not None else thing.ag_code.co_firstlineno
        return f"is suspended in {code_place(thing.ag_code, line)}"


class JobRecord(Resource):
    """A function given to an executor that has not returned."""

    __slots__ = ()
    kind = "job"

    def open(self, thing: concurrent.futures.Future[Any]) -> bool:
        """Return True while it is queued or running."""
        return not thing.done()

    def describe(self, thing: concurrent.futures.Future[Any]) -> str:
        """Say if it runs or is queued."""
        return "runs in an executor" if thing.running() else "is queued in an executor"

    def end(self) -> None:
        """Remove it from the queue; a function that runs in a thread cannot be stopped."""
        thing = self._ref()
        if thing is not None:
            thing.cancel()


class ThreadRecord(Resource):
    """A thread that was started and has not ended."""

    __slots__ = ()
    kind = "thread"

    def open(self, thing: threading.Thread) -> bool:
        """Return True while it runs."""
        return thing.is_alive()

    def describe(self, thing: threading.Thread) -> str:
        """Name its innermost frame outside the standard library, else its innermost frame."""
        frame = sys._current_frames().get(thing.ident or 0)  # noqa: SLF001 - documented
        if frame is None:
            return "runs"
        shown = next(
            (each for each in _stack(frame) if not is_stdlib(each.f_code.co_filename)), frame
        )
        return f"runs in {code_place(shown.f_code, shown.f_lineno)}"


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


class ErrorRecord(Resource):
    """An exception that nobody retrieved.

    Args:
        text: the line of `loop_errors.describe`.
        name: of the task.
        site: of the task.
        owner: the scope of the task.
    """

    __slots__ = ("text",)
    kind = "error"

    def __init__(self, text: str, name: str, site: Site, owner: Scope) -> None:
        super().__init__(type(self), name, site.points, owner)
        self.text = text

    def open(self, _thing: Any) -> bool:
        """Return True: a lost exception stays lost."""
        return True

    def describe(self, _thing: Any) -> str:
        """Return the loop's message."""
        return self.text


class DestroyedRecord(ErrorRecord):
    """A task that the garbage collector destroyed before its end.

    Attributes:
        waiting: the place where it waited; None if that is not known.
        code: that of its coroutine, which the collector may have closed first; None if it has none.
    """

    __slots__ = ("code", "waiting")
    kind = "destroyed"

    def __init__(self, text: str, name: str, site: Site, owner: Scope) -> None:
        super().__init__(text, name, site, owner)
        self.waiting: Waiting | None = None
        self.code: CodeType | None = None

    def waiting_on(self) -> Waiting:
        """Describe the place where it waited, or at least where its coroutine begins."""
        if self.waiting is None and self.code is not None:
            line = self.code.co_firstlineno
            frame = str(SiteFrame(self.code.co_filename, line, self.code.co_qualname))
            return Waiting((frame,), code_place(self.code, line), "an object that is freed")
        return self.waiting or super().waiting_on()


class MessageRecord(ErrorRecord):
    """Another message to the loop's exception handler, such as "Unclosed client session"."""

    __slots__ = ()
    kind = "message"


class WarningRecord(ErrorRecord):
    """A ResourceWarning about something that was not closed."""

    __slots__ = ()
    kind = "warning"
