"""Recognises the server that a user gives, and starts and stops it."""

# Seven kinds of things can be given:
#
#   handler     `async def handler(reader, writer)`
#   protocol    a class of protocols, or a function that returns one
#   starter     `async def start()` or `async def start(host, port)`, which returns a server
#   context     a function that returns an async context manager, which yields an address
#   running     "host:port", of a server that runs already
#   main        a starter that does not return: it ends with `await server.serve_forever()`
#
# The signature tells most of them apart. `async def f(x, y)` is a handler unless its arguments are
# named as those of a starter. A plain function says only by its result which of the last three it
# is, so it is called, and that is done anew for each run: state that one run has left must not
# reach the next one. For the same reason each run gets a copy of the object of a bound method.
#
# Nothing tells beforehand that a starter will not return. So its first server is noted, by
# replacing `loop.create_server` on the loop's object. A starter that has not returned a while after
# that is a main: its server is used, and it is cancelled to end it.
#
# A context manager is entered and left by one task, `Running._serve`, since cancel scopes of anyio
# and task groups must be left by the task that has entered them.

from __future__ import annotations

import asyncio
import contextlib
import copy
import inspect
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOST = "127.0.0.1"
_HOSTS = frozenset({"host", "address", "addr", "bind", "interface", "ip", "hostname"})
_STREAMS = 2  # arguments of a handler
_MAX_SHOWN = 80
_RETURN = 1.0  # seconds in which a starter returns; virtual ones in the simulation
_LISTEN = 30.0  # seconds in which it makes a server
_EXPECTED = (
    "an async function (reader, writer), a protocol class or factory, an async function that "
    "starts and returns an asyncio.Server, or a function that returns an async context manager "
    "which yields an address"
)

Address = tuple[str, int]


class NoServerError(TypeError):
    """A thing was given as a server that is none."""


class GivenServer(NamedTuple):
    """A server as a user has given it.

    Attributes:
        thing: the function, class or method.
        kind: "handler", "protocol", "starter", "main", "context", "running", or "factory" for a
            function that says by its result which of "protocol", "starter" and "context" it is.
        name: the name in reports, "module:qualified name", or "host:port".
    """

    thing: Any
    kind: str
    name: str

    def fresh(self) -> Callable[..., Any]:
        """Return the thing for one run: of a bound method, with a copy of its object."""
        owner = getattr(self.thing, "__self__", None)
        if not inspect.ismethod(self.thing) or owner is None or inspect.isclass(owner):
            return self.thing  # type: ignore[no-any-return]
        try:
            return getattr(copy.deepcopy(owner), self.thing.__name__)  # type: ignore[no-any-return]
        except Exception:  # noqa: BLE001 - an object may refuse by any exception; then it is shared
            return self.thing


def recognise(thing: Any) -> GivenServer:
    """Return what a user has given, recognised.

    Raises:
        NoServerError: it is no server.
    """
    if is_address(thing):
        return GivenServer(thing, "running", thing)
    return GivenServer(thing, _kind(thing), _name(thing))


def is_address(thing: Any) -> bool:
    """Return True for "host:port", the address of a server that runs already."""
    if not isinstance(thing, str):
        return False
    host, _, port = thing.rpartition(":")
    return bool(host) and port.isdecimal() and "/" not in host


def _kind(thing: Any) -> str:
    if not callable(thing):
        raise NoServerError(_refusal(thing, _advice(thing)))
    if inspect.isclass(thing):
        if issubclass(thing, asyncio.BaseProtocol):
            return "protocol"
        if hasattr(thing, "__aenter__"):
            return "context"
        raise NoServerError(_refusal(thing, "give a class of asyncio.Protocol, or a function"))
    if inspect.isasyncgenfunction(thing):
        raise NoServerError(_refusal(thing, "decorate it with @contextlib.asynccontextmanager"))
    needed = _needed(thing)
    if not _is_async(thing):
        if set(needed) - _HOSTS - {"port"}:
            advice = f"bind {', '.join(needed)} with functools.partial, or wrap it in a function"
            raise NoServerError(_refusal(thing, advice))
        return "factory"
    if not set(needed) - _HOSTS - {"port"}:
        return "starter"
    if len(needed) == _STREAMS:
        return "handler"
    advice = f"it takes {', '.join(needed)}: wrap it in a function that passes them"
    raise NoServerError(_refusal(thing, advice))


def _refusal(thing: Any, advice: str) -> str:
    shown = (
        thing.__qualname__ if inspect.isroutine(thing) or inspect.isclass(thing) else repr(thing)
    )
    shown = shown if len(shown) <= _MAX_SHOWN else f"{shown[: _MAX_SHOWN - 1]}…"
    kind = "class" if inspect.isclass(thing) else type(thing).__name__
    return f"expected {_EXPECTED}, got {shown} ({kind}); {advice}"


def _advice(thing: Any) -> str:
    if isinstance(thing, str):
        return "give its function, or host and port if it runs already, such as '127.0.0.1:8000'"
    if inspect.iscoroutine(thing):
        thing.close()
        return "give the function itself, without calling it"
    if isinstance(thing, asyncio.BaseProtocol):
        return "give its class"
    if isinstance(thing, asyncio.AbstractServer):
        return "give the function that starts it, since it is started anew for each sequence"
    return "give a function"


def _is_async(thing: Any) -> bool:
    call = getattr(type(thing), "__call__", None)  # noqa: B004 - asked for what it is, not whether
    return inspect.iscoroutinefunction(thing) or inspect.iscoroutinefunction(call)


def _parameters(thing: Any) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(thing).parameters.values())
    except (TypeError, ValueError):  # some functions in C have none
        return []


def _needed(thing: Any) -> list[str]:
    kinds = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    return [
        each.name
        for each in _parameters(thing)
        if each.default is each.empty and each.kind not in kinds
    ]


def _name(thing: Any) -> str:
    function = getattr(thing, "func", thing)  # of functools.partial
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{getattr(function, '__module__', '')}:{name}"


def needs_address(thing: Any) -> bool:
    """Return True if a starter takes host and port."""
    return {"host", "port"} <= {each.name for each in _parameters(thing)}


def _call(thing: Callable[..., Any]) -> Any:
    """Call a starter or factory, with host and port where it takes them."""
    names = [each.name for each in _parameters(thing)]
    given: dict[str, Any] = {name: HOST for name in names if name in _HOSTS}
    if "port" in names:
        given["port"] = 0
    return thing(**given)


class Running:
    """A server that is started for one run.

    Args:
        given: the server as the user has given it.

    Attributes:
        address: the address to connect to.
        kind: the kind of the thing: "handler", "protocol", "starter", "main" or "context", once it
            has started.
        form: the kind of value that tells the address: "server", "tuple", "text" or "port".
        stopped: True once `stop` was called.
    """

    def __init__(self, given: GivenServer) -> None:
        self._given = given
        self._thing = given.fresh()
        self.kind = given.kind
        self.form = ""
        self._task: asyncio.Task[None] | None = None
        self._called = False  # True once a starter or factory has returned
        self.address: Address = (HOST, 0)
        self.stopped = False

    async def start(self) -> None:
        """Start the server, for the first time or again after `stop`.

        Raises:
            NoServerError: the thing has returned, or yielded, something else than expected.
            BaseException: whatever the thing raises.
        """
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[Address] = loop.create_future()
        self._end: asyncio.Future[None] = loop.create_future()
        self.stopped = self._called = False
        self._made: asyncio.Future[Any] = loop.create_future()
        self._task = loop.create_task(self._serve(ready, self._end))
        either: list[asyncio.Future[Any]] = [self._task, ready]
        if self.kind in {"starter", "factory", "main"}:
            await self._await_return(either, ready)
        else:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            ready.cancel()
            await self._task
            raise NoServerError(f"{self._given.name} ended before it served")
        self.address = ready.result()

    async def _await_return(
        self, either: list[asyncio.Future[Any]], ready: asyncio.Future[Address]
    ) -> None:
        """Wait until a starter has returned, or will not, but has made a server.

        Raises:
            NoServerError: it has done neither.
        """
        if self.kind == "main":
            await asyncio.wait([*either, self._made], return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(0)  # for a server that only `serve_forever` lets listen
        else:
            await asyncio.wait(either, timeout=_RETURN, return_when=asyncio.FIRST_COMPLETED)
        if not (self._called or self._made.done() or any(each.done() for each in either)):
            both = [*either, self._made]
            await asyncio.wait(both, timeout=_LISTEN, return_when=asyncio.FIRST_COMPLETED)
        if self._called or any(each.done() for each in either):
            # A context manager may take its time.
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            return
        if not self._made.done():
            either[0].cancel()
            raise NoServerError(
                f"{self._given.name} has neither returned nor made a server by loop.create_server "
                f"within {_LISTEN:g} s; return the server that it has started"
            )
        self.kind = "main"
        ready.set_result(address_of(self._made.result(), self._given.name))

    def stop(self) -> None:
        """Begin to stop the server, as its own function does."""
        self.stopped = True
        if self.kind == "main" and not self._called and self._task is not None:
            self._task.cancel()
        if not self._end.done():
            self._end.set_result(None)

    @property
    def ending(self) -> bool:
        """True while the server takes time to stop."""
        return self._task is not None and not self._task.done()

    @property
    def can_restart(self) -> bool:
        """True if the same handler or protocol can serve again after the server has stopped."""
        return self.kind in {"handler", "protocol"}

    def result(self) -> None:
        """Raise the exception with which the server has stopped, if there is one."""
        if self._task is not None and self._task.done() and not self._task.cancelled():
            self._task.result()

    async def _serve(self, ready: asyncio.Future[Address], end: asyncio.Future[None]) -> None:
        thing, loop = self._thing, asyncio.get_running_loop()
        if self.kind == "handler":
            served: Any = await asyncio.start_server(thing, HOST, 0)
        elif self.kind == "protocol":
            served = await loop.create_server(thing, HOST, 0)
        else:
            served = _call(thing)
            if inspect.isawaitable(served) and not hasattr(served, "__aenter__"):
                with self._noting_servers():
                    served = await served
            elif isinstance(served, asyncio.BaseProtocol):
                # It was made to see what it is; the loop makes one for each connection.
                self.kind = "protocol"
                served = await loop.create_server(thing, HOST, 0)
        if self.kind == "main" and self.stopped:
            return  # it has taken the cancellation for its end
        self._called = True
        if is_server(served):
            if self.kind in {"factory", "main"}:
                self.kind = "starter"
            self._announce(ready, served)
            await end
            served.close()
        elif hasattr(served, "__aenter__") and hasattr(served, "__aexit__"):
            self.kind = "context"
            async with served as value:
                self._announce(ready, value)
                await end
        else:
            raise NoServerError(
                f"expected an asyncio.Server, a protocol or an async context manager from "
                f"{self._given.name}, got {served!r}; return the server that it has started"
            )

    @contextlib.contextmanager
    def _noting_servers(self) -> Iterator[None]:
        """Note the first server that the loop makes in a block."""
        loop: Any = asyncio.get_running_loop()
        create, made = loop.create_server, self._made

        async def noting(*args: Any, **settings: Any) -> Any:
            server = await create(*args, **settings)
            if not made.done():
                made.set_result(server)
            return server

        loop.create_server = noting
        try:
            yield
        finally:
            loop.create_server = create

    def _announce(self, ready: asyncio.Future[Address], value: Any) -> None:
        """Note the address that a value tells, and the form of the value."""
        if not ready.done():  # else it is a main that has returned in the end
            ready.set_result(address_of(value, self._given.name))
        if is_server(value):
            self.form = "server"
        elif isinstance(value, str):
            self.form = "text" if "/" not in value else "other"
        else:
            self.form = "port" if isinstance(value, int) else "tuple"


def is_server(thing: Any) -> bool:
    """Return True if a thing is a listening server, as `asyncio.start_server` returns it."""
    return isinstance(thing, asyncio.AbstractServer) or (
        hasattr(thing, "sockets") and hasattr(thing, "close") and hasattr(thing, "wait_closed")
    )


def address_of(value: Any, name: str) -> Address:
    """Return the address that a server has, or that a context manager has yielded.

    Args:
        value: a server, "host:port", a port, or a tuple that begins with host and port.
        name: of the function that gave it, for the message.

    Raises:
        NoServerError: it is something else.
    """
    if is_server(value):
        sockets = list(value.sockets or ())
        if not sockets:
            raise NoServerError(
                f"expected a server that listens from {name}, got one without sockets"
            )
        value = sockets[0].getsockname()
    if isinstance(value, int) and not isinstance(value, bool):
        return HOST, value
    if isinstance(value, str):
        host, _, port = value.rpartition("://")[2].partition("/")[0].rpartition(":")
        if port.isdigit():
            return _reachable(host.strip("[]")), int(port)
        if value.startswith(("/", "\0")):
            raise NoServerError(
                f"expected a server on TCP from {name}, got one on the Unix socket {value!r}; let "
                "it listen on a host and a port"
            )
    with contextlib.suppress(TypeError, ValueError, IndexError):
        host, port = value[0], value[1]
        if isinstance(host, str) and isinstance(port, int):
            return _reachable(host), port
    raise NoServerError(
        f"expected an address from {name}, such as ('127.0.0.1', 8000) or '127.0.0.1:8000', "
        f"got {value!r}"
    )


def _reachable(host: str) -> str:
    """Return the address at which a client reaches a server on this host."""
    return {"": HOST, "0.0.0.0": HOST, "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
