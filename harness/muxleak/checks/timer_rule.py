"""Timers in a test suite: the armed timers that are a leak of a test, and those that are none."""

# Most timers that tests leave armed say nothing about the program: it is a client of a wider
# fixture that beats, or a unit test that gives a protocol a mock and throws it away. The loop often
# ends with the test. So the plugin reports a timer only if it is not excused by one of these rules,
# which are stated in docs/reports.md. A timer calls a function; its *object* is the `self` of that
# function, or the objects that it was given.
#
#   rule        the timer is no leak of the test if ...
#   -------     ----------------------------------------------------------------------------------
#   due         it is due within the budget: it was waited for (`settle`)
#   weak        it holds its object by a weak reference only, as the clean-up of a pool does
#   service     a variable of a module holds its object, or a fixture of a wider scope does: the
#               service that owns it may still cancel it, and is measured by itself
#   stand-in    its object was given a mock: the test has not made what would end the timer
#
# What is left has an object that nobody but the timer owns, such as the keep-alive timer of a
# connection that was reset, or that is kept in a list, such as a response that was not read.
#
# `no_leaks` around a block has no such rules but the first: its user names the operation that is to
# be clean. A simulation judges by the same rule as `no_leaks`, in virtual time
# (`muxleak.sim.leak_scan`): armed when everything else has settled, due later than the budget, and
# not set by asyncio for a sleep, a timeout or a transport.

import functools
from collections.abc import Iterable, Sequence
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any
from weakref import ReferenceType

from muxleak.introspect.names import attribute, is_a, module_of
from muxleak.introspect.referrers import held_by_slots
from muxleak.introspect.timers import called

# These tell nothing about an owner.
_PLAIN: tuple[type, ...] = (
    str,
    bytes,
    int,
    float,
    type(None),
    type,
    BaseException,
    ModuleType,
    ReferenceType,
)
_LEVELS = 4  # of attributes, from the value of a fixture to the object of a timer
_PLAIN += (FunctionType, MethodType, BuiltinFunctionType, list, tuple, dict, set)


def without_excused_timers(found: Sequence[Any], shared: Iterable[Any] = ()) -> list[Any]:
    """Return the records without timers that the rules excuse.

    Args:
        found: records of everything that a test left behind.
        shared: values of the fixtures with a wider scope that the test used.
    """
    objects = {id(each): _objects(each.thing()) for each in found if each.kind == "timer"}
    if not objects:
        return list(found)
    held = _within(shared)
    owned = list({id(thing): thing for things, _ in objects.values() for thing in things}.values())
    held |= {
        id(thing)
        for thing, path in zip(owned, held_by_slots(owned), strict=True)
        if path is not None
    }

    def excused(record: Any) -> bool:
        things, weak = objects.get(id(record), ([], False))
        if not things:
            return weak
        return any(id(each) in held or _is_made_with_mocks(each) for each in things)

    return [each for each in found if not excused(each)]


def _objects(handle: Any) -> tuple[list[Any], bool]:
    """Return the objects of a timer, and True if it holds one by a weak reference."""
    callback: Any
    callback, args = called(handle) if handle is not None else (None, ())
    found = [*args]
    while is_a(callback, functools.partial):
        found += [*callback.args, *callback.keywords.values()]
        callback = callback.func
    found.append(attribute(callback, "__self__"))
    cells = attribute(callback, "__closure__") or ()
    found += [attribute(cell, "cell_contents") for cell in cells]
    weak = any(is_a(each, ReferenceType) for each in found)
    return [each for each in found if not is_a(each, _PLAIN)], weak


def _within(values: Iterable[Any]) -> set[int]:
    """Return the ids of values and of what their attributes hold, a few levels deep."""
    found: set[int] = set()
    level = list(values)
    for _ in range(_LEVELS):
        found.update(map(id, level))
        attributes = [attribute(each, "__dict__") for each in level]
        level = [part for each in attributes if type(each) is dict for part in each.values()]
    return found


def _is_made_with_mocks(thing: Any) -> bool:
    """Return True for a mock, and for an object one of whose attributes is a mock."""
    values = attribute(thing, "__dict__")
    parts = list(values.values()) if type(values) is dict else []
    return any(module_of(each).startswith(("unittest.mock", "mock.")) for each in (thing, *parts))
