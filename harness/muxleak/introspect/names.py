"""Safe names: every object can be named, whatever its class, its metaclass or its repr does.

No function of this module raises, and none lets a foreign object decide the type of an answer.
"""

# A report names objects of programs that it knows nothing about. A class may have a `__module__`
# that is no text, an attribute may be a property that raises, a mock answers every question with
# another mock, `__class__` may lie, and a `__repr__` may load a codec while no descriptor is free.
# So classes are read through the descriptors of `type`, which no metaclass can override, instances
# by their real type, and all other answers are used only if they are text.

import asyncio
from collections.abc import Callable
from typing import Any

_MODULE = type.__dict__["__module__"].__get__
_QUALNAME = type.__dict__["__qualname__"].__get__
_MRO = type.__dict__["__mro__"].__get__
_NAMESPACE = type.__dict__["__dict__"].__get__

PLAIN_REPR: Any = object.__repr__

# asyncio has two implementations, and nest_asyncio puts the one in Python in place of the one in C
# while a program runs, so that there are objects of both.
TASKS: tuple[type[Any], ...] = (asyncio.Task, asyncio.tasks._PyTask)  # type: ignore[attr-defined]  # noqa: SLF001
FUTURES: tuple[type[Any], ...] = (asyncio.Future, asyncio.futures._PyFuture)  # type: ignore[attr-defined]  # noqa: SLF001


def is_a(thing: Any, kinds: type | tuple[type, ...]) -> bool:
    """Return True if the real type of `thing` is one of `kinds`, or below it.

    Unlike `isinstance` it does not read `__class__`, which is user code for some objects.
    """
    return issubclass(type(thing), kinds)


def has_method(thing: Any, name: str) -> bool:
    """Return True if the class of `thing` defines the attribute `name`; runs no user code."""
    return any(name in _NAMESPACE(base) for base in _MRO(type(thing)))


def module_of(thing: Any) -> str:
    """Return the module of the class of `thing`; "" if it is no text."""
    try:
        return _text(_MODULE(type(thing)))
    except Exception:  # noqa: BLE001 - the entry may be missing
        return ""


def class_name(kind: type) -> str:
    """Return the qualified name of a class."""
    return _text(_QUALNAME(kind)) or "?"


def type_name(thing: Any) -> str:
    """Return the qualified name of the class of `thing`."""
    return class_name(type(thing))


def namespace(module: Any) -> dict[str, Any]:
    """Return the variables of a module; {} of another object. It loads no lazy module."""
    try:
        found = object.__getattribute__(module, "__dict__")
    except AttributeError:
        return {}
    return found if type(found) is dict else {}


def attribute(thing: Any, name: str, default: Any = None) -> Any:
    """Return an attribute of `thing`; `default` if there is none or if reading it raises."""
    try:
        return getattr(thing, name, default)
    except Exception:  # noqa: BLE001 - a property of a foreign object may raise anything
        return default


def text_of(thing: Any, name: str) -> str:
    """Return an attribute of `thing` that ought to be text; "" if it is not."""
    return _text(attribute(thing, name))


def qualified_name(thing: Any) -> str:
    """Return the `__qualname__` of a function, coroutine or class, else that of its type."""
    return text_of(thing, "__qualname__") or type_name(thing)


def safe_text(thing: Any, convert: Callable[[Any], str] = repr) -> str:
    """Return `repr` or `str` of `thing`; a text that names the failure if it raises."""
    try:
        return _text(convert(thing)) or ""
    except Exception as exc:  # noqa: BLE001 - a broken object must not break the report on it
        return f"<{type_name(thing)}, unreadable ({type_name(exc)})>"


def _text(value: Any) -> str:
    # A subclass of str may have methods that raise.
    return str.__str__(value) if str in _MRO(type(value)) else ""
