"""Names of foreign objects: text, whatever an object or its class answers."""

# The block that fails is what is tested:
# ruff: noqa: PT012

import asyncio
from typing import Any
from unittest import mock

import pytest

from muxleak import LeakError, no_leaks
from muxleak.introspect.names import (
    attribute,
    class_name,
    has_method,
    is_a,
    module_of,
    qualified_name,
    safe_text,
    text_of,
    type_name,
)
from muxleak.introspect.waiting import callable_name


class NoText(type):
    """A class whose classes have no module and no name that is text."""

    __module__ = property(lambda _cls: 0)

    def __getattribute__(cls, name: str) -> Any:
        if name in {"__name__", "__qualname__", "__mro__", "mro"}:
            raise RuntimeError(name)
        return super().__getattribute__(name)


class Hostile(metaclass=NoText):
    """Answers every question by raising."""

    __module__ = 5  # type: ignore[assignment]

    def __init__(self) -> None:
        self.event: asyncio.Event | None = None

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError("class")

    @property
    def name(self) -> str:
        """Raise."""
        raise KeyError("name")

    def __call__(self) -> None:
        """Do nothing."""

    def __repr__(self) -> str:
        raise LookupError("no codec")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("equal")

    def __hash__(self) -> int:
        raise RuntimeError("hash")


class Text(str):
    """Text that cannot be formatted."""

    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError("str")

    __format__ = __str__  # type: ignore[assignment]


def test_names_of_a_hostile_object() -> None:
    """Each function returns text, or what is true of the real type."""
    thing = Hostile()
    assert (type_name(thing), class_name(type(thing)), module_of(thing)) == ("Hostile",) * 2 + ("",)
    assert not is_a(thing, (int, asyncio.Task))
    assert is_a(thing, object)
    assert has_method(thing, "name")
    assert not has_method(thing, "other")
    assert attribute(thing, "name", 7) == 7
    assert text_of(thing, "name") == ""
    assert qualified_name(thing) == callable_name(thing) == "Hostile"
    assert safe_text(thing) == "<Hostile, unreadable (LookupError)>"


def test_names_that_are_a_subclass_of_text() -> None:
    """Text of a class of its own is copied to plain text."""

    def function() -> None: ...

    function.__qualname__ = Text("given")
    assert type(qualified_name(function)) is str
    assert qualified_name(function) == "given"
    assert safe_text(3, lambda _: Text("three")) == "three"


def test_names_of_a_mock() -> None:
    """A mock answers every question with a mock, never with text."""
    thing = mock.MagicMock()
    assert qualified_name(thing) == callable_name(thing) == "MagicMock"
    assert module_of(thing) == "unittest.mock"


KEPT: list[Any] = []


@pytest.mark.parametrize("keep", ["kept", ""])
def test_report_names_what_holds_a_task_however_hostile(keep: str) -> None:
    """Objects that raise are met on the way, and the report is made."""

    async def wait(holder: Hostile) -> None:
        assert holder.event is not None
        await holder.event.wait()

    async def main() -> None:
        holder = Hostile()
        holder.event = asyncio.Event()
        if keep:
            KEPT.append(holder)
        asyncio.get_running_loop().call_later(60, Hostile())
        with pytest.raises(LeakError) as caught:
            async with no_leaks(kinds=["task"]):
                task = asyncio.create_task(wait(holder))
                del holder
                await asyncio.sleep(0)
        (group,) = caught.value.report.groups
        held = f"could still be woken by {__name__}.KEPT"
        assert group.notes == (held if keep else "nothing alive can wake it",)
        assert task.cancelled()

    try:
        asyncio.run(main())
    finally:
        KEPT.clear()
