"""The place where a task waits, and the object it waits for.

The text is the same in every process: no memory addresses, no absolute paths, no numbers that a
process-wide counter gave.
"""

# A suspended task is a chain of awaitables: its coroutine awaits another coroutine, and so on down
# to a future. `links` follows the chain by the public attributes `cr_await`, `ag_await` and
# `gi_yieldfrom`. Between them stand iterators written in C (of a future, of `async for`) that have
# no such attribute; the garbage collector knows what they refer to, so it is asked for those links
# alone.
#
# The place in a report is the innermost frame outside the standard library: "waits in Client.read"
# says more than "waits in Queue.get". The awaited object is, in this order: the `self` of that
# frame if its class has a `__repr__` of its own; the task that is awaited, by name; the `self` of
# the innermost frame (asyncio's Queue, Event, Lock ...); the bare future. `__repr__` is the only
# user code that runs here, and it may raise: `waiting_of` then says so in place of the text.
#
# `_fut_waiter` is private to asyncio, but both of its task classes and uvloop, which uses them,
# have it; there is no public way to ask a task for it.

import asyncio
import gc
import os
import re
from pathlib import Path
from types import (
    AsyncGeneratorType,
    CodeType,
    CoroutineType,
    FrameType,
    GeneratorType,
    TracebackType,
)
from typing import Any, NamedTuple

from muxleak.introspect.names import (
    FUTURES,
    PLAIN_REPR,
    TASKS,
    attribute,
    is_a,
    qualified_name,
    safe_text,
    type_name,
)
from muxleak.introspect.sites import SiteFrame, short_path

_STDLIB = str(Path(asyncio.__file__).parent.parent) + os.sep
_ADDRESS = re.compile(r" (?:at|object at) 0x[0-9a-fA-F]+")
_MAX_REPR = 80

AnyFuture = asyncio.Future[Any]
AnyTask = asyncio.Task[Any]
_LINKS: tuple[type[Any], ...] = (*FUTURES, CoroutineType, AsyncGeneratorType, GeneratorType)


class Waiting(NamedTuple):
    """The place where a task is suspended.

    Attributes:
        chain: the suspended frames as "file:line in function", outermost first.
        place: the innermost frame of user code as "function (file:line)".
        on: the awaited object, as text.
    """

    chain: tuple[str, ...]
    place: str
    on: str

    def __str__(self) -> str:
        return f"waits in {self.place} on {self.on}"


def waiting_of(task: AnyFuture) -> Waiting:
    """Describe the place where `task` is suspended and the object it waits for.

    It never raises, and runs no user code but `__repr__`.
    """
    try:
        return _waiting_of(task)
    except Exception as exc:  # noqa: BLE001 - a broken object must not break the report on it
        return Waiting((), name_of(task), f"something unreadable ({type_name(exc)})")


def name_of(task: AnyFuture) -> str:
    """Return the qualified name of a task's coroutine; the type's name of any other future."""
    if not is_a(task, TASKS):
        return type_name(task)
    coro = coroutine_of(task)
    if coro is None:
        # An eager task that failed at once has no coroutine any more; its traceback begins there.
        trace = attribute(attribute(task, "_exception"), "__traceback__")
        return trace.tb_frame.f_code.co_qualname if is_a(trace, TracebackType) else "eager task"
    return qualified_name(coro)


def coroutine_of(task: AnyFuture) -> Any:
    """Return a task's coroutine; None for an eager task that has ended at once."""
    # asyncio's own repr of a task reads this attribute, too. Asked in another way, CPython 3.12.1
    # can end the process.
    return attribute(task, "_coro")


def called_by(handle: asyncio.Handle) -> str:
    """Return the name of the coroutine whose task a handle runs, else of its function."""
    return callable_name(handle._callback)  # type: ignore[attr-defined]  # noqa: SLF001 - it has no public name


def callable_name(callback: Any) -> str:
    """Return the qualified name of a callback.

    For the wake-up of a task it is "task" and the name of its coroutine; for an object without a
    qualified name it is the name of the type.
    """
    owner = attribute(callback, "__self__")
    if is_a(owner, TASKS):
        return f"task {name_of(owner)}"
    return qualified_name(attribute(callback, "func", callback))


def is_stdlib(filename: str) -> bool:
    """Return True if a file belongs to Python's standard library."""
    return filename.startswith(_STDLIB) and "site-packages" not in filename


def code_place(code: CodeType, line: int) -> str:
    """Format a line of a function as "function (file:line)"."""
    return f"{code.co_qualname} ({short_path(code.co_filename)}:{line})"


def scrub(text: str, length: int = _MAX_REPR) -> str:
    """Return `text` on one line of at most `length` characters, without memory addresses."""
    text = " ".join(_ADDRESS.sub("", text).split())
    return text if len(text) <= length else text[: length - 3] + "..."


def _waiting_of(task: AnyFuture) -> Waiting:
    frames = suspended(task)
    own = [frame for frame in frames if not is_stdlib(frame.f_code.co_filename)]
    chain = tuple(str(_frame(frame)) for frame in frames)
    awaited = getattr(task, "_fut_waiter", None)
    if not frames:
        return Waiting(chain, name_of(task), _future(awaited, task))
    where = (own or frames)[-1]
    place = code_place(where.f_code, where.f_lineno)
    on = _own_repr(own[-1]) if own and awaited is not None else None
    if on is None and not isinstance(awaited, TASKS) and awaited is not None:
        on = _own_repr(frames[-1])
    return Waiting(chain, place, on or _future(awaited, task))


def suspended(task: AnyFuture) -> list[FrameType]:
    """Return the frames in which `task` is suspended, outermost first."""
    return [frame for frame, _ in links(task) if frame is not None]


def links(task: AnyFuture) -> list[tuple[FrameType | None, Any]]:
    """Return the chain of awaitables of a task, outermost first, each with its frame.

    Returns:
        Pairs of a frame, or None for an iterator written in C, and the coroutine, generator or
        iterator. The awaited future at the end of the chain is left out.
    """
    found: list[tuple[FrameType | None, Any]] = []
    link: Any = coroutine_of(task) if isinstance(task, TASKS) else None
    while link is not None and not isinstance(link, FUTURES):
        frame, following = _step(link)
        found.append((frame, link))
        link = following
    return found


def _frame(frame: FrameType) -> SiteFrame:
    return SiteFrame(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_qualname)


def _step(link: Any) -> tuple[FrameType | None, Any]:
    """Return the frame of one awaitable, and the awaitable that it waits for in turn."""
    if isinstance(link, CoroutineType):
        return link.cr_frame, link.cr_await
    if isinstance(link, AsyncGeneratorType):
        return link.ag_frame, link.ag_await
    if isinstance(link, GeneratorType):
        return link.gi_frame, link.gi_yieldfrom
    return None, next((ref for ref in gc.get_referents(link) if isinstance(ref, _LINKS)), None)


def _own_repr(frame: FrameType) -> str | None:
    owner: Any = frame.f_locals.get("self")
    if owner is None or type(owner).__repr__ is PLAIN_REPR:
        return None
    return scrub(safe_text(owner))


def _future(awaited: AnyFuture | None, task: AnyFuture) -> str:
    if awaited is None:
        return "nothing, it has ended" if task.done() else "nothing, it is ready to run"
    if isinstance(awaited, TASKS):
        return f"task {name_of(awaited)}"
    state = "cancelled" if awaited.cancelled() else "done" if awaited.done() else "pending"
    return f"<{type_name(awaited)} {state}>"
