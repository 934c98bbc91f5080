"""Keeps the scope of a connection current in its callbacks on every loop."""

# asyncio gives each connection that a server accepts a context of its own, in which the factory and
# all callbacks run, so a scope that is entered in the factory stays current. uvloop and its
# relatives run the callbacks of all connections of a server in one context: a task that the first
# connection starts would be charged to the connection that was accepted last.
#
# There the callbacks of the protocol are hidden by attributes of the object, which enter the scope
# first. A loop looks the callbacks up after the factory has returned, and finds these. They are
# removed at the end of the connection, as each is part of a cycle through the protocol. A protocol
# whose objects take no attributes, and one that takes the place of the first (`set_protocol`), are
# charged by the loop's context.

import asyncio
from typing import Any

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
    if scope is None or isinstance(loop, asyncio.BaseEventLoop):
        return
    put: dict[str, Any] = {}
    try:
        for name in _CALLBACKS:
            call = attribute(protocol, name)
            if call is not None:
                setattr(protocol, name, _entering(scope, call))
                put[name] = call
        lost = attribute(protocol, "connection_lost")
        if lost is not None:
            protocol.connection_lost = _ending(protocol, scope, lost, put)
    except Exception:  # noqa: BLE001 - a class may refuse attributes by any exception
        _remove(protocol, put)


def _entering(scope: Scope, call: Any) -> Any:
    def callback(*args: Any) -> Any:
        CURRENT.set(scope)
        return call(*args)

    return callback


def _ending(protocol: Any, scope: Scope, lost: Any, put: dict[str, Any]) -> Any:
    def connection_lost(error: Any) -> Any:
        CURRENT.set(scope)
        _remove(protocol, {**put, "connection_lost": lost})
        return lost(error)

    return connection_lost


def _remove(protocol: Any, put: dict[str, Any]) -> None:
    """Remove attributes, and put back those that the object itself had."""
    for name, call in put.items():
        try:
            delattr(protocol, name)
            if getattr(protocol, name) != call:
                setattr(protocol, name, call)
        except Exception:  # noqa: BLE001, S110 - the class may hide attributes; then ours stays, harmless
            pass
