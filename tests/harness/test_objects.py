"""Containers that gain entries with each repetition are found, and the variables that hold them."""

import asyncio
import collections
import contextlib
import logging
import sys
from collections.abc import Callable, Coroutine
from types import ModuleType
from typing import Any, ClassVar
from unittest.mock import Mock

import pytest

from loops import REAL
from muxleak import GrowthReport, LeakError, ignore_name, measure_growth, no_leaks

pytestmark = pytest.mark.usefixtures("small_heap")

Loops = Callable[[], asyncio.AbstractEventLoop]
KIND = ["task", "object"]


class Session:
    """One connection's state."""


class Server:
    """Keeps sessions in each way that a server does."""

    everywhere: ClassVar[list[Session]]
    __slots__ = ("__dict__", "slot")

    def __init__(self) -> None:
        self.sessions: dict[int, Session] = {}
        self.slot = collections.deque[Session]()
        self.pools: list[set[Session]] = [set()]


def grown(
    main: Callable[[], Coroutine[Any, Any, GrowthReport]],
    new_loop: Loops = asyncio.SelectorEventLoop,
) -> list[tuple[str, str, tuple[int, ...]]]:
    """Return kind and name, holder, and the counts of all that grew on a fresh loop."""
    with contextlib.closing(new_loop()) as loop:
        report = loop.run_until_complete(main())
    return [
        (f"{group.kind} {group.name}", group.waits_on, growth.counts)
        for group, growth in zip(report.report.groups, report.growing, strict=True)
    ]


async def measure(operation: Callable[[], object], **settings: Any) -> GrowthReport:
    """Measure a function that is not async."""

    async def repeated() -> None:
        operation()

    return await measure_growth(repeated, **{"kinds": KIND, "budget": 0.02, **settings})


@REAL
def test_entries_of_a_table_grow(new_loop: Loops) -> None:
    """One for each connection; the report names the attribute."""
    server = Server()

    def connect() -> None:
        server.sessions[len(server.sessions)] = Session()

    assert grown(lambda: measure(connect), new_loop) == [
        ("object Session in Server.sessions", "held by dict Server.sessions", (3, 6))
    ]


def add_to_class(server: Server) -> None:
    """Append to a list of the class."""
    type(server).everywhere.append(Session())


def add_to_pool(server: Server) -> None:
    """Add to a set in a list."""
    server.pools[0].add(Session())


def add_to_module(server: Server) -> None:
    """Append to the variable of a module."""
    sys.modules["tables"].TABLE.append(server)


def test_tables_of_plain_values_grow() -> None:
    """The collector does not know dicts of numbers and texts; what refers to them is known."""
    module: Any = ModuleType("plain")
    module.SEEN = {}
    server: Any = Server()
    server.pools, server.sessions = [{}], {}
    kind: Any = type("Table", (), {"entries": {}})
    numbers = iter(range(1000))

    def closing() -> Callable[[], Any]:
        table: dict[str, float] = {}
        return lambda: table

    table = closing()

    def connect() -> None:
        for each in (module.SEEN, server.pools[0], server.sessions, kind.entries, table()):
            each[f"10.0.0.{next(numbers)}"] = 1.5

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "plain", module)
        found = grown(lambda: measure(connect, repetitions=8))
    assert sorted(found) == [
        (f"object float in {path}", f"held by dict {path}", (4, 8))
        for path in (
            *("Server.pools[...]", "Server.sessions", "Table.entries", "plain.SEEN"),
            "table of test_tables_of_plain_values_grow.<locals>.closing.<locals>.<lambda>",
        )
    ]


@pytest.mark.parametrize(
    ("add", "holder"),
    [
        (lambda server: server.slot.append(Session()), "deque Server.slot"),
        (add_to_class, "list Server.everywhere"),
        (add_to_pool, "set Server.pools[...]"),
        (add_to_module, "list tables.TABLE"),
    ],
)
def test_each_place_is_named(
    add: Callable[[Server], object], holder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attribute in a slot, one of a class, a container in a container, a module's variable."""
    # Not the class above, which the fixture has frozen.
    server = type("Server", (Server,), {"everywhere": []})()
    module: Any = ModuleType("tables")
    module.TABLE = []
    monkeypatch.setitem(sys.modules, "tables", module)

    ((_, held, counts),) = grown(lambda: measure(lambda: add(server)))
    assert (held, counts) == (f"held by {holder}", (3, 6))


def test_variables_of_functions_are_named() -> None:
    """Of one that closes over the container, of one that is suspended, and of one that runs."""

    def closing() -> Callable[[], object]:
        kept: list[Session] = []

        def add() -> None:
            kept.append(Session())

        return add

    async def suspended(ready: "asyncio.Future[list[Any]]") -> None:
        waiting: list[Session] = []
        ready.set_result(waiting)
        await asyncio.Event().wait()

    async def main() -> GrowthReport:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[list[Any]] = loop.create_future()
        task, futures = asyncio.create_task(suspended(ready)), list[Any]()
        waiting, add = await ready, closing()
        del ready

        def operation() -> None:
            add()
            waiting.append(Session())
            futures.append(loop.create_future())

        try:
            return await measure(operation)
        finally:
            task.cancel()

    places = [where for _, where, _ in grown(main)]
    inner = "test_variables_of_functions_are_named.<locals>"
    file = "tests/harness/test_objects.py"
    suspends, runs = suspended.__code__.co_firstlineno + 3, main.__code__.co_firstlineno + 13
    assert sorted(places) == [
        f"held by list futures in {inner}.main ({file}:{runs})",
        f"held by list kept of {inner}.closing.<locals>.add",
        f"held by list waiting in {inner}.suspended ({file}:{suspends})",
    ]


def test_bounded_and_single_entries_do_not_grow() -> None:
    """A cache that is full, an entry that is replaced, one that is removed, one that is late."""
    server, cache = Server(), collections.OrderedDict[int, Session]()
    recent = collections.deque[Session](maxlen=2)
    number = 0

    def connect() -> None:
        nonlocal number
        number += 1
        cache[number] = Session()
        recent.append(Session())
        if len(cache) > 2:
            cache.popitem(last=False)
        server.sessions[0] = Session()
        server.slot.append(Session())
        server.slot.popleft()
        if number == 5:
            server.pools.append(set())

    assert grown(lambda: measure(connect)) == []


def test_records_of_tests_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """Log records that pytest captures, calls that a mock records."""
    mock = Mock()

    def connect() -> None:
        logging.getLogger("test").warning("connected")
        mock.connect()

    assert grown(lambda: measure(connect)) == []
    assert len(caplog.records) == 6


def test_entries_that_were_there_before_are_not_counted() -> None:
    """A table with a thousand entries gains six."""
    server = Server()
    server.sessions.update({-number: Session() for number in range(1, 1001)})

    def connect() -> None:
        server.sessions[len(server.sessions)] = Session()

    assert [counts for *_, counts in grown(lambda: measure(connect))] == [(3, 6)]


def test_entries_count_only_if_they_are_named() -> None:
    """By default they do not; named, they can be ignored."""
    server = Server()

    def connect() -> None:
        server.sessions[len(server.sessions)] = Session()

    async def main() -> None:
        await no_leaks(repeat=4)(repeated)()
        ignore = ignore_name("Session in Server.*", reason="a registry for the life of the process")
        await no_leaks(repeat=4, kinds=KIND, ignore=ignore, budget=0.02)(repeated)()
        with pytest.raises(LeakError, match=r"\+1 entry"):
            await no_leaks(repeat=4, kinds=KIND, budget=0.02)(repeated)()

    async def repeated() -> None:
        connect()

    asyncio.run(main())
