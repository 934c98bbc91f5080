"""Tests and fixtures that anyio's plugin runs, charged to whom they belong.

All of them run in one task per loop, which inherits the scope of whichever came first; so each
enters its own scope by itself.
"""

import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from muxleak.ledger.counters import Scope

BACKEND = "anyio_backend"


@contextmanager
def charging_test(item: pytest.Item, scope: Scope) -> Iterator[None]:
    """While this is entered, the function of an anyio test charges `scope`."""
    function = getattr(item, "obj", None)
    if BACKEND not in (getattr(item, "funcargs", None) or ()) or not _is_coroutine(function):
        yield
        return
    subject: Any = item
    subject.obj = _around_coroutine(function, scope)
    try:
        yield
    finally:
        subject.obj = function


@contextmanager
def charging_fixture(fixturedef: Any, request: Any, scope: Scope) -> Iterator[None]:
    """While this is entered, the function of an anyio fixture charges `scope`."""
    function = fixturedef.func
    generator = inspect.isasyncgenfunction(function)
    if BACKEND not in request.fixturenames or not (generator or _is_coroutine(function)):
        yield
        return
    bound, instance = function, request.instance
    if inspect.ismethod(function) and type(function.__self__) is type(instance):
        bound = function.__func__.__get__(instance)
    wrap = _around_generator if generator else _around_coroutine
    fixturedef.func = wrap(bound, scope)
    try:
        yield
    finally:
        fixturedef.func = function


def _is_coroutine(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) and not hasattr(function, "hypothesis")


def _around_coroutine(function: Any, scope: Scope) -> Any:
    @functools.wraps(function)
    async def charged(*args: Any, **settings: Any) -> Any:
        with scope:
            return await function(*args, **settings)

    return charged


def _around_generator(function: Any, scope: Scope) -> Any:
    @functools.wraps(function)
    async def charged(*args: Any, **settings: Any) -> Any:
        generator = function(*args, **settings)
        with scope:
            value = await anext(generator)
        yield value
        with scope:
            async for another in generator:
                yield another

    return charged
