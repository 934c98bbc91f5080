"""The variable or attribute that holds a container, as a path: "Server.sessions", "app.TABLE"."""

# The search climbs from a container to whatever refers to it. It ends at the first holder that has
# a name for it:
#
#   a module, a class                "app.SESSIONS", "Server.sessions"
#   an object                        its class and the attribute: "Server.sessions"
#   a function that closes over it   "sessions of main.<locals>.handler"
#   a running or suspended function  "sessions in app.py:12 in main"
#
# Containers in between are written "[...]". Price: one walk of the heap for each level, for all
# containers of a report together (`heap`).

from collections import deque
from collections.abc import Sequence
from types import (
    AsyncGeneratorType,
    CellType,
    CoroutineType,
    FrameType,
    FunctionType,
    GeneratorType,
)
from typing import Any, NamedTuple

from muxleak.introspect.heap import Heap
from muxleak.introspect.names import attribute, class_name, is_a, module_of, namespace
from muxleak.introspect.referrers import modules_by_dict, running_locals
from muxleak.introspect.waiting import code_place

_LEVELS = 6
_MOST = 300  # objects met in one search
_CONTAINERS = (dict, list, tuple, set, frozenset, deque)
_SUSPENDED = (CoroutineType, GeneratorType, AsyncGeneratorType)


class Holder(NamedTuple):
    """The holder of a container.

    Attributes:
        path: its name, as above.
        module: the module of the variable, class or function.
    """

    path: str
    module: str


def holders_of(things: Sequence[Any]) -> list[Holder | None]:
    """Return the holder of each container; None if no variable or attribute is found."""
    heap, search = Heap(), _Names()
    found: list[Holder | None] = [None] * len(things)
    levels = [[(heap.keep(thing), "")] for thing in things]
    seen = [{id(thing)} for thing in things]
    for _ in range(_LEVELS):
        heap.find(name for level in levels for name, _ in level)
        for index, level in enumerate(levels):
            above: list[tuple[int, str]] = []
            for name, rest in level:
                for holder in heap.holders(name):
                    thing = heap.thing(holder)
                    # This package observes, as with the lists of an earlier search.
                    if found[index] is None and holder not in seen[index] and not _ours(thing):
                        seen[index].add(holder)
                        found[index] = search.name_in(thing, heap.thing(name), rest, seen[index])
                        above.append((holder, f"[...]{rest}" if _holds_many(thing) else rest))
                found[index] = found[index] or search.local(name, rest)
            stop = found[index] is not None or len(seen[index]) > _MOST
            levels[index] = [] if stop else above
        if not any(levels):
            break
    return found


class _Names:
    """The names that modules and running functions have for objects."""

    def __init__(self) -> None:
        self._modules, self._locals = modules_by_dict(), running_locals()

    def local(self, name: int, rest: str) -> Holder | None:
        """Return the local variable of a running function that holds the object of an id."""
        where = self._locals.get(name)
        return Holder(f"{where}{rest}", "") if where is not None else None

    def name_in(self, thing: Any, held: Any, rest: str, seen: set[int]) -> Holder | None:
        """Return the name that a holder has for an object; None if it has none.

        Args:
            thing: the holder.
            held: the object.
            rest: the path from the object to the container.
            seen: ids of the objects that lead to the container.
        """
        if type(thing) is dict:
            module = self._modules.get(id(thing))
            key = _key_of(thing, held) if module is not None else None
            return Holder(f"{module}.{key}{rest}", module or "") if key is not None else None
        if is_a(thing, type):
            names = type.__dict__["__dict__"].__get__(thing)
            return _attribute_of(thing, names, held, rest, seen)
        if is_a(thing, FunctionType):
            return _closure(thing, rest, seen)
        if is_a(thing, _SUSPENDED):
            return _suspended(thing, held, rest)
        if is_a(thing, (*_CONTAINERS, CellType, FrameType)):
            return None
        return _attribute_of(type(thing), _attributes(thing), held, rest, seen)


def _attribute_of(kind: type, names: Any, held: Any, rest: str, seen: set[int]) -> Holder | None:
    """Return the attribute of a class, or of an object of it, that leads to the container."""
    key = _key_of(names, held)
    if key is None and type(held) is dict:
        # The dictionary of attributes itself was met before its owner.
        key = next((str(key) for key, value in list(names.items()) if id(value) in seen), None)
        rest = rest.removeprefix("[...]")
    if key is None:
        return None
    return Holder(f"{class_name(kind)}.{key}{rest}", str(attribute(kind, "__module__", "")))


def _attributes(thing: Any) -> dict[str, Any]:
    """Return the attributes of an object, those in slots too; runs no code of its class."""
    found = dict(namespace(thing))
    for base in type.__dict__["__mro__"].__get__(type(thing)):
        for name in attribute(base, "__slots__", ()) if "__slots__" in vars(base) else ():
            member = vars(base).get(name)
            if type(member).__name__ == "member_descriptor":
                found[name] = attribute(thing, name)
    return found


def _closure(function: Any, rest: str, seen: set[int]) -> Holder | None:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if id(cell) in seen:
            return Holder(
                f"{name} of {function.__qualname__}{rest}",
                str(attribute(function, "__module__", "")),
            )
    return None


def _suspended(thing: Any, held: Any, rest: str) -> Holder | None:
    frames = [attribute(thing, f"{kind}_frame") for kind in ("cr", "gi", "ag")]
    frame = next((each for each in frames if each is not None), None)
    key = _key_of(frame.f_locals, held) if frame is not None else None
    if frame is None or key is None:
        return None
    where = code_place(frame.f_code, frame.f_lineno)
    return Holder(f"{key} in {where}{rest}", str(frame.f_globals.get("__name__", "")))


def _ours(thing: Any) -> bool:
    return module_of(thing).startswith("muxleak.")


def _holds_many(thing: Any) -> bool:
    # The cells of a function are a tuple, and each has its own name.
    return is_a(thing, _CONTAINERS) and not (
        type(thing) is tuple and all(type(each) is CellType for each in thing)
    )


def _key_of(names: Any, held: Any) -> str | None:
    return next((str(key) for key, value in list(names.items()) if value is held), None)
