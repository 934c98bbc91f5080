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

from typing import Any, Generic, TypeVar
from weakref import ref

_T = TypeVar("_T")


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


def refer(thing: Any) -> Any:
    """Return a weak reference to an object; one that holds it if it allows no other."""
    try:
        return ref(thing)
    except TypeError:
        return Held(thing)


class ByIdentity(Generic[_T]):
    """Values for objects, such as loops, that may be neither hashable nor weakly referable.

    An object that allows no weak reference is held until its value is removed.
    """

    def __init__(self) -> None:
        self._values: dict[int, tuple[Any, _T]] = {}

    def get(self, thing: object, default: _T) -> _T:
        """Return the value of an object."""
        found = self._values.get(id(thing))
        return found[1] if found is not None and found[0]() is thing else default

    def set(self, thing: object, value: _T) -> None:
        """Set the value of an object."""
        key, values = id(thing), self._values

        def freed(reference: object) -> None:
            # The id may be in use again by then.
            if key in values and values[key][0] is reference:
                del values[key]

        try:
            reference: Any = ref(thing, freed)
        except TypeError:
            reference = Held(thing)
        values[key] = reference, value

    def remove(self, thing: object) -> None:
        """Remove the value of an object, if it has one."""
        self._values.pop(id(thing), None)


def ask(thing: Any, method: str, *arguments: Any, default: Any = None) -> Any:
    """Call a method of an object; return `default` if it is missing or raises."""
    try:
        return getattr(thing, method)(*arguments)
    except Exception:  # noqa: BLE001 - see above
        return default
