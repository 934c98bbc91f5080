"""Hooks on one loop that record its new timers, transports, servers, readers and generators.

They replace public methods on the loop object (and the hook that asyncio calls for generators), so
that they work on any loop whose objects take attributes, uvloop's included.
"""

# Replaced, as the kinds of the ledger require:
#
#   timer              `call_at`, or `call_later`, or both: see `_timer_makers`
#   generator          `_asyncgen_firstiter_hook`, which the running loop gives to the interpreter
#   transport          the methods of `_CLIENTS`; the protocol factories of servers
#   server             the methods of `_SERVERS`
#   reader             `add_reader`, `add_writer` and their removals
#   job, thread        `run_in_executor`, only to distinguish the pool of the loop (`threads`)
#
# Attributes are set on the loop *object*, where they shadow the methods of its class; other loops
# pay nothing. `remove` goes through them in reverse order and puts back the attribute that was set
# before, or deletes ours, so that the method of the class is used again. If somebody has replaced
# ours, theirs stays, and ours passes calls on without recording, because the counters are not
# active any more. The former state is found by comparing bound methods, not with `vars(loop)`: up
# to Python 3.12, an object whose dictionary was asked for has slower attributes from then on.
#
# A timer that asyncio sets is not recorded: a sleep, a timeout or a transport owns it, and the task
# in that sleep is counted already. The calling frame shows if asyncio sets it.
#
# An accepted connection has no call that returns its transport. So the protocol factory of a server
# is wrapped, and the protocol it makes gets a `connection_made` of its own, an attribute that
# deletes itself when it is called and then records the transport. The scope is read after the inner
# factory has run: a factory of `Ledger.scoped_factory` enters the scope of the connection, which is
# then charged with its transport, too. asyncio and uvloop run all callbacks of the connection in
# that same context.
#
# A server that was made before the hooks has no wrapped factory, and some classes refuse the
# attribute (aiohttp's `RequestHandler`). On asyncio's loops their transports are recorded where the
# loop makes them (`_MAKERS`); a factory and the maker that follows it run in one step, so one slot
# (`_made`) tells which connections are recorded otherwise. Other loops have no such place: what
# cannot be seen there is named in `unseen`, and growth looks for transports on the heap.
#
# Objects of other people. A hook runs inside a call of the program, so nothing that it does besides
# passing the call on may raise. Every record is made by `Hooks._record`, which names the objects
# that cannot be recorded in `unseen` instead.
#
# Price: about a dozen attributes for each loop. Many loops never make a connection or use an
# executor, so `RARE` can be left to the first call: the plugin sets them up from the loop's class.

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from types import CodeType, FrameType
from typing import Any
from weakref import WeakKeyDictionary

from muxleak.introspect.foreign import ask
from muxleak.introspect.names import attribute, is_a, module_of, type_name
from muxleak.introspect.sites import Points, is_internal, trace
from muxleak.introspect.waiting import callable_name
from muxleak.ledger.connection_scope import pin
from muxleak.ledger.counters import CURRENT, YOUNG, Resource, Scope, charged, compact
from muxleak.ledger.kinds import (
    GeneratorRecord,
    ProcessRecord,
    ReaderRecord,
    ServerRecord,
    TimerRecord,
    TransportRecord,
)

_CLIENTS = {
    "create_connection": "connection",
    "create_unix_connection": "unix connection",
    "create_datagram_endpoint": "datagram endpoint",
    "connect_accepted_socket": "accepted socket",
    "connect_read_pipe": "read pipe",
    "connect_write_pipe": "write pipe",
    "subprocess_exec": "subprocess",
    "subprocess_shell": "subprocess",
}
_SERVERS = {"create_server": "server", "create_unix_server": "unix server"}
_READERS = {"add_reader": "remove_reader", "add_writer": "remove_writer"}
# asyncio's loops make the transport of every connection by these; a test pins them.
_MAKERS = ("_make_socket_transport", "_make_ssl_transport")
# Replaced by `Hooks.install_rest`, which may be called later than `Hooks.install`.
RARE = (*_CLIENTS, *_SERVERS, *_READERS, *_READERS.values(), "run_in_executor")
_TIMER_CODE = asyncio.BaseEventLoop.call_later.__code__

# The raw creation sites of servers, for connections that another ledger sees.
_servers: WeakKeyDictionary[Any, Points] = WeakKeyDictionary()
# True while a loop makes its own pool, which it shuts down itself.
DEFAULT_POOL: ContextVar[bool] = ContextVar("default_pool", default=False)


class Hooks:
    """The replaced methods of one loop, for one ledger.

    Attributes:
        loop: the loop.
        root: the scope that is charged outside all others.
        counters: those of the ledger.
        unseen: resources that cannot be seen on this loop, as clauses; the values mean nothing.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, root: Scope) -> None:
        self.loop, self.root, self.counters = loop, root, root.counters
        self.unseen: dict[str, None] = {}
        self._replaced: list[tuple[str, Any, Any]] = []
        self._firstiter: tuple[Any, Any] = (None, None)
        self._readers: dict[tuple[str, int], ReaderRecord] = {}
        # The id of the protocol that `_accepting` has just made, and whether it took our attribute.
        self._made = (0, False)
        self._makes = False

    def install(self) -> None:
        """Replace the methods that the kinds of the ledger need, but for `RARE`."""
        kinds = self.counters.kinds
        for name in _timer_makers(self.loop) if "timer" in kinds else ():
            self._replace(name, self._timer)
        if "generator" in kinds:
            self._see_generators()

    def install_rest(self) -> None:
        """Replace those of `RARE` that the kinds of the ledger need; many loops never call them."""
        kinds = self.counters.kinds
        for name in _CLIENTS if "transport" in kinds else ():
            self._replace(name, self._client)
        if kinds & {"server", "transport"}:
            for name in _SERVERS:
                self._replace(name, self._server)
        if "transport" in kinds and isinstance(self.loop, asyncio.BaseEventLoop):
            before = len(self._replaced)
            for name in _MAKERS:
                self._replace(name, self._maker)
            self._makes = len(self._replaced) > before
        if "reader" in kinds:
            for name, undo in _READERS.items():
                self._replace(name, self._watch)
                self._replace(undo, self._unwatch)
        if kinds & {"job", "thread"}:
            self._replace("run_in_executor", self._run_in_executor)

    def remove(self) -> None:
        """Put the methods back, but for those that somebody has replaced since."""
        for name, ours, previous in reversed(self._replaced):
            if getattr(self.loop, name, None) is ours:
                if previous is None:
                    delattr(self.loop, name)
                else:
                    setattr(self.loop, name, previous)
        self._replaced.clear()
        ours, previous = self._firstiter
        if ours is not None and sys.get_asyncgen_hooks().firstiter is ours:
            sys.set_asyncgen_hooks(firstiter=previous)
        self._readers.clear()

    def charge(self, resource: Resource) -> None:
        """Record a new resource, which the next sweep charges to its scope."""
        fresh = self.counters.fresh
        fresh.append(resource)
        if len(fresh) >= YOUNG:
            compact(self.root)

    def _record(
        self,
        record: type[Resource],
        thing: Any,
        name: Any,
        points: Points,
        *more: Any,
        scope: Scope | None = None,
    ) -> Any:
        """Record a new resource; return None, and name it in `unseen`, if that is not possible.

        Args:
            record: the class of the record.
            thing: the resource.
            name: its name, or the function that gives it one.
            points: its raw creation site.
            *more: further arguments of the record.
            scope: the scope to charge; by default the current one.
        """
        try:
            named = name if isinstance(name, str) else callable_name(name)
            resource = record(thing, named, points, scope or self.scope(), *more)
            self.charge(resource)
        except Exception as error:  # noqa: BLE001 - the program must not see it
            reason = "allow no weak reference" if type(error) is TypeError else type_name(error)
            self.unseen[f"{record.kind}s of {type_name(thing)}, which {reason}"] = None
            return None
        return resource

    def scope(self) -> Scope:
        """Return the scope that is charged at this moment."""
        scope = CURRENT.get()
        if scope is None or scope.counters is not self.counters:
            scope = charged(scope, self.counters) or self.root
        return scope

    def _replace(self, name: str, make: Callable[[str, Any], Any]) -> None:
        loop, previous = self.loop, None
        # Done a dozen times for each block of `no_leaks`, so the usual case takes no other call.
        try:
            original = getattr(loop, name)
            inherited = original.__func__ is getattr(type(loop), name)
        except Exception:  # noqa: BLE001 - an attribute may raise anything, or be no method
            original, inherited = attribute(loop, name), False
            if original is None:
                return
        if not inherited:
            previous = own_attribute(loop, name, original)
        ours = make(name, original)
        try:
            setattr(loop, name, ours)
        except Exception:  # noqa: BLE001 - a class may refuse attributes by any exception
            self.unseen[f"{type(self.loop).__name__}.{name} cannot be watched"] = None
        else:
            self._replaced.append((name, ours, previous))

    def _timer(self, _name: str, original: Any) -> Any:
        loop, counters = self.loop, self.counters

        def timer(when: float, callback: Any, *args: Any, **settings: Any) -> asyncio.TimerHandle:
            handle: asyncio.TimerHandle = original(when, callback, *args, **settings)
            if counters.active and not _is_asyncio(sys._getframe(1)):  # noqa: SLF001 - only the calling frame is read
                self._record(TimerRecord, handle, callback, trace(2), loop)
            return handle

        return timer

    def _client(self, name: str, original: Any) -> Any:
        record = ProcessRecord if name.startswith("subprocess") else TransportRecord

        async def connect(*args: Any, **settings: Any) -> Any:
            points = trace(2)
            pair = await original(*args, **settings)
            if self.counters.active:
                transport = pair[0] if type(pair) is tuple and pair else pair
                self._record(record, transport, _CLIENTS[name], points)
            return pair

        return connect

    def _server(self, name: str, original: Any) -> Any:
        async def serve(protocol_factory: Any, *args: Any, **settings: Any) -> Any:
            points = trace(2)
            if "transport" in self.counters.kinds:
                protocol_factory = self._accepting(protocol_factory, points)
            server = await original(protocol_factory, *args, **settings)
            with suppress(TypeError):  # another loop's may allow no weak reference
                _servers.setdefault(server, points)
            if self.counters.active and "server" in self.counters.kinds:
                self._record(ServerRecord, server, _SERVERS[name], points)
            return server

        return serve

    def _accepting(self, protocol_factory: Any, points: Points) -> Any:
        """Wrap a protocol factory, so that each transport is recorded when it is connected."""
        outer = CURRENT.get()

        def accept() -> Any:
            observer = self.counters.observer
            if observer is not None:
                observer.begin(outer)
            protocol = protocol_factory()
            if not self.counters.active:
                return protocol
            scope = self.scope()
            pin(protocol, scope if observer is not None else None)
            announce = attribute(protocol, "connection_made")
            if announce is None:
                # asyncio says what is wrong with it.
                return protocol

            def connection_made(transport: Any) -> None:
                _restore(protocol, announce)
                name = "accepted connection"
                resource = self._record(TransportRecord, transport, name, points, scope=scope)
                if observer is not None and resource is not None:
                    observer.connected(scope, resource)
                announce(transport)

            try:
                protocol.connection_made = connection_made
            except Exception:  # noqa: BLE001 - a class may refuse attributes by any exception
                self._made = id(protocol), False
                if not self._makes:
                    reason = f"{type_name(protocol)}, whose objects take no attribute"
                    self.unseen[f"accepted connections of {reason}"] = None
            else:
                self._made = id(protocol), True
            return protocol

        return accept

    def _maker(self, _name: str, original: Any) -> Any:
        """Record the accepted connections that `_accepting` cannot see."""

        def make(sock: Any, protocol: Any, *args: Any, **settings: Any) -> Any:
            transport = original(sock, protocol, *args, **settings)
            (known, takes), self._made = self._made, (0, False)
            ours = known == id(protocol)
            if settings.get("server") is None or (ours and takes) or not self.counters.active:
                return transport
            # The connections of the package's own servers are nobody's business.
            if module_of(protocol).startswith("muxleak."):
                return transport
            scope, observer = self.scope(), self.counters.observer
            name = f"accepted connection of {type_name(protocol)}"
            points = _servers.get(settings["server"]) or _handler_of(protocol)
            resource = self._record(TransportRecord, transport, name, points, scope=scope)
            if ours and observer is not None and resource is not None:
                observer.connected(scope, resource)
            return transport

        return make

    def _watch(self, name: str, original: Any) -> Any:
        def add(fd: Any, callback: Any, *args: Any) -> Any:
            result = original(fd, callback, *args)
            number = _fileno(fd)
            if self.counters.active and number is not None:
                self._removed(name, number)
                reader = self._record(ReaderRecord, self.loop, callback, trace(2), name, number)
                if reader is not None:
                    self._readers[name, number] = reader
            return result

        return add

    def _unwatch(self, name: str, original: Any) -> Any:
        def remove(fd: Any) -> Any:
            self._removed(name.replace("remove", "add"), _fileno(fd))
            return original(fd)

        return remove

    def _removed(self, name: str, number: int | None) -> None:
        reader = self._readers.pop((name, number), None) if number is not None else None
        if reader is not None:
            reader.removed = True

    def _run_in_executor(self, _name: str, original: Any) -> Any:
        def run_in_executor(executor: Any, func: Any, *args: Any) -> Any:
            token = DEFAULT_POOL.set(executor is None)
            try:
                return original(executor, func, *args)
            finally:
                DEFAULT_POOL.reset(token)

        return run_in_executor

    def _see_generators(self) -> None:
        def wrap(_name: str, original: Any) -> Any:
            def firstiter(generator: Any) -> None:
                if self.counters.active:
                    name = str(attribute(generator, "__qualname__", "asynchronous generator"))
                    self._record(GeneratorRecord, generator, name, trace(2))
                if original is not None:
                    original(generator)

            return firstiter

        self._replace("_asyncgen_firstiter_hook", wrap)
        if asyncio._get_running_loop() is self.loop:  # noqa: SLF001 - documented, despite its name
            # A running loop has given its hook to the interpreter already.
            previous = sys.get_asyncgen_hooks().firstiter
            ours = wrap("", previous)
            self._firstiter = ours, previous
            sys.set_asyncgen_hooks(firstiter=ours)


def _handler_of(protocol: Any) -> Points:
    """Return the first line of the program's that serves a connection, as a raw site, or none.

    It is that of the handler given to `start_server`, or of the protocol's `connection_made`.
    """
    handler = attribute(protocol, "_client_connected_cb") or attribute(protocol, "connection_made")
    code = attribute(attribute(handler, "__func__", handler), "__code__")
    if not is_a(code, CodeType) or is_internal(code.co_filename):
        return []
    return [code, 0]


def own_attribute(loop: Any, name: str, value: Any) -> Any:
    """Return the attribute that is set on a loop object; None if it is a method of its class.

    Args:
        loop: the loop.
        name: the name of the attribute.
        value: its value, as the loop gives it.
    """
    inherited = getattr(type(loop), name, None)
    # The usual case, without making another bound method.
    if inherited is not None and getattr(value, "__func__", None) is inherited:
        return None
    bind = getattr(inherited, "__get__", None)
    return None if bind is not None and value == bind(loop) else value


def _timer_makers(loop: asyncio.AbstractEventLoop) -> list[str]:
    """Return the methods that make timers; of two where one calls the other, only the latter."""
    kind = type(loop)
    if not isinstance(loop, asyncio.BaseEventLoop):
        return ["call_later"]  # uvloop's call_at calls it
    # asyncio's call_later calls call_at; so does that of a simulated loop in debug mode.
    if kind.call_later is asyncio.BaseEventLoop.call_later or loop.get_debug():
        return ["call_at"]
    return ["call_at", "call_later"]


def _is_asyncio(frame: FrameType | None) -> bool:
    """Return True if asyncio sets the timer: then a sleep, a timeout or a transport owns it."""
    if frame is not None and frame.f_code is _TIMER_CODE:
        frame = frame.f_back
    return frame is not None and is_internal(frame.f_code.co_filename)


def _restore(protocol: Any, announce: Any) -> None:
    """Remove the `connection_made` of a hook, and put back one that the object itself had."""
    try:
        del protocol.connection_made
        if protocol.connection_made != announce:
            protocol.connection_made = announce
    except Exception:  # noqa: BLE001, S110 - the class may hide attributes; then ours stays, unused
        pass


def _fileno(fd: Any) -> int | None:
    """Return the number of a descriptor; None if the object has none, as once it is closed."""
    number = fd if isinstance(fd, int) else ask(fd, "fileno")
    return number if isinstance(number, int) else None
