"""Keeps the scope of a connection current in its callbacks on every loop."""

# asyncio gives each connection that a server accepts a context of its own, in which the factory and
# all callbacks run, so a scope that is entered in the factory stays current. uvloop and its
# relatives run the callbacks of all connections of a server in one context: a task that the first
# connection starts would be charged to the connection that was accepted last.
#
# There the callbacks of the protocol are hidden by attributes of the object, which enter the scope
# first. A loop looks the callbacks up after the factory has returned, and finds these. They are
# removed at the end of the connection, as each is part of a cycle through the protocol.
#
# A callback may put another protocol in place (`set_protocol`), as servers do for WebSocket. When
# it has returned, that one gets the attributes instead, and is set once more, as the loop looked
# its callbacks up before. One that a task puts in place, and protocols whose objects take no
# attributes, are charged by the loop's context.

import asyncio
from typing import Any

from muxleak.introspect.foreign import ask
from muxleak.introspect.names import attribute
from muxleak.ledger.counters import CURRENT, Scope

_CALLBACKS = ("connection_made", "data_received", "buffer_updated", "eof_received")


def pin(protocol: Any, scope: Scope | None) -> None:
    """Run the callbacks of a new protocol in a scope, where the running loop does not see to it.

    Args:
        protocol: as the factory of a server has made it.
        scope: that of its connection; None if it has none of its own.
    """
    loop = asyncio._get_running_loop()  # noqa: SLF001 - documented for loop implementations
    if scope is not None and not isinstance(loop, asyncio.BaseEventLoop):
        _Pin(protocol, scope, None).put()


class _Pin:
    """The attributes of one protocol.

    Attributes:
        protocol: the protocol.
        scope: that of its connection.
        transport: None until it is connected.
        hidden: the callbacks that the attributes hide.
    """

    __slots__ = ("hidden", "protocol", "scope", "transport")

    def __init__(self, protocol: Any, scope: Scope, transport: Any) -> None:
        self.protocol, self.scope, self.transport = protocol, scope, transport
        self.hidden: dict[str, Any] = {}

    def put(self) -> bool:
        """Put the attributes in place; return False if the protocol takes none."""
        try:
            for name in _CALLBACKS:
                call = attribute(self.protocol, name)
                if call is not None:
                    setattr(self.protocol, name, self._entering(name, call))
                    self.hidden[name] = call
            lost = attribute(self.protocol, "connection_lost")
            if lost is not None:
                self.protocol.connection_lost = self._ending(lost)
                self.hidden["connection_lost"] = lost
        except Exception:  # noqa: BLE001 - a class may refuse attributes by any exception
            self._remove()
            return False
        return True

    def _entering(self, name: str, call: Any) -> Any:
        def callback(*args: Any) -> Any:
            CURRENT.set(self.scope)
            if name == "connection_made":
                self.transport = args[0]
            result = call(*args)
            try:
                replaced = self.transport.get_protocol() is not self.protocol
            except Exception:  # noqa: BLE001 - a transport may raise anything once it is closed
                replaced = False
            if replaced:
                self._follow()
            return result

        return callback

    def _follow(self) -> None:
        """Pin the protocol that has taken the place of this one."""
        protocol, transport = ask(self.transport, "get_protocol"), self.transport
        if protocol is not None and self.hidden:
            self._remove()
            if _Pin(protocol, self.scope, transport).put():
                ask(transport, "set_protocol", protocol)

    def _ending(self, lost: Any) -> Any:
        def connection_lost(error: Any) -> Any:
            CURRENT.set(self.scope)
            self._remove()
            return lost(error)

        return connection_lost

    def _remove(self) -> None:
        """Remove the attributes, and put back those that the object itself had."""
        hidden, self.hidden = self.hidden, {}
        for name, call in hidden.items():
            try:
                delattr(self.protocol, name)
                if getattr(self.protocol, name) != call:
                    setattr(self.protocol, name, call)
            except Exception:  # noqa: BLE001, S110 - the class may hide attributes; then ours stays, harmless
                pass
