"""Questions to objects of other people, which may answer with anything, an exception included."""

# A check looks at objects of every library that a program uses: transports, protocols, servers,
# loops, tasks, exceptions. It must not matter to the program that somebody looks. So whoever calls
# such an object does it by `ask`, and states the answer that stands for none; `names` has the same
# for attributes, types and texts.
#
# Known answers that a plain question would not survive:
#
#   object                                          question            answer
#   --------------------------------------------    ----------------    -------------------------
#   asyncio's TLS transport, closed twice           `get_protocol()`    AttributeError
#   werkzeug's `LocalProxy` outside a request       `isinstance`        RuntimeError
#   `weakref.proxy` of a freed object               `isinstance`        ReferenceError
#   TLS and subprocess transports of uvloop         `weakref.ref`       TypeError
#
# Only `Exception` is caught: a timeout of pytest, a signal or a cancellation may arrive at any
# line, this module's included, and is meant for the program.

from typing import Any


class Held:
    """Refers to an object that allows no weak reference; called, it returns the object.

    Attributes:
        thing: the object; None once it was let go.
    """

    __slots__ = ("thing",)

    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def __call__(self) -> Any:
        """Return the object, as a weak reference does."""
        return self.thing


def ask(thing: Any, method: str, *arguments: Any, default: Any = None) -> Any:
    """Call a method of an object; return `default` if it is missing or raises."""
    try:
        return getattr(thing, method)(*arguments)
    except Exception:  # noqa: BLE001 - see above
        return default
