"""Descriptors: those that repetitions add are found, and those of a block that names the kind."""

import asyncio
import contextlib
import logging
import os
import socket
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from loops import REAL
from muxleak import GrowthReport, LeakError, ignore_name, measure_growth, no_leaks
from muxleak.introspect import descriptors

pytestmark = pytest.mark.usefixtures("small_heap")

Loops = Callable[[], asyncio.AbstractEventLoop]
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: the system names them")


@pytest.fixture
def kept() -> Iterator[list[int]]:
    """Return a list of descriptors, which are closed at the end."""
    numbers: list[int] = []
    yield numbers
    for number in numbers:
        os.close(number)


def run(main: Callable[[], Coroutine[Any, Any, Any]], new_loop: Loops) -> Any:
    """Run `main` on a fresh loop."""
    with contextlib.closing(new_loop()) as loop:
        return loop.run_until_complete(main())


def grown(
    operation: Callable[[], Coroutine[Any, Any, Any]],
    new_loop: Loops = asyncio.SelectorEventLoop,
    **settings: Any,
) -> GrowthReport:
    """Measure an operation on a fresh loop."""
    report: GrowthReport = run(
        lambda: measure_growth(operation, **{"budget": 0.02, **settings}), new_loop
    )
    return report


def counts(report: GrowthReport) -> dict[str, tuple[int, ...]]:
    """Return kind and name of all that grew, with its last four counts."""
    return {f"{each.kind} {each.name}": each.counts[-4:] for each in report.growing}


OPENED: dict[str, Callable[[], list[int]]] = {
    "socket": lambda: [socket.socket().detach()],
    "pipe": lambda: list(os.pipe()),
    "file": lambda: [os.open(__file__, os.O_RDONLY)],
    "eventfd": lambda: [os.eventfd(0)],
    "memfd": lambda: [os.memfd_create("x")],
}


@linux
@REAL
@pytest.mark.parametrize("name", OPENED)
def test_descriptors_grow(new_loop: Loops, name: str, kept: list[int]) -> None:
    """One type for each; nothing but the system knows of them."""

    async def operation() -> None:
        kept.extend(OPENED[name]())

    each = len(OPENED[name]())
    kept.clear()  # the test's own call is left to the system
    assert counts(grown(operation, new_loop)) == {
        f"descriptor {name}": tuple(each * number for number in (3, 4, 5, 6))
    }


@linux
def test_descriptors_that_end_or_are_opened_once_do_not_grow(tmp_path: Path) -> None:
    """Neither a cache, nor objects in cycles, nor descriptors that a thread closes."""
    cache: list[Any] = []

    async def operation() -> None:
        if not cache:
            cache.append((tmp_path / "cache").open("w"))
        cycle: list[Any] = [tempfile.TemporaryFile(), socket.socketpair()]  # noqa: SIM115 - it is dropped
        cycle[0].close()
        for each in cycle[1]:
            each.close()
        ends = map(os.close, os.pipe())
        thread = threading.Thread(target=list, args=(ends,))
        thread.start()
        await asyncio.get_running_loop().run_in_executor(None, thread.join)

    assert not grown(operation)
    cache[0].close()


class Owner:
    """Stands in a cycle, and closes a pipe when it is collected."""

    def __init__(self) -> None:
        self.numbers, self.cycle = os.pipe(), self

    def __del__(self) -> None:
        for number in self.numbers:
            os.close(number)


@linux
@pytest.mark.usefixtures("no_chance")
def test_garbage_holds_no_descriptor_for_long() -> None:
    """Descriptors of objects in cycles are closed by the collection before each verdict."""

    async def operation() -> None:
        Owner()

    assert not grown(operation)


@linux
@pytest.mark.usefixtures("no_chance")
def test_descriptor_whose_owner_becomes_garbage_within_the_budget_is_none() -> None:
    """Garbage is collected at the end of the budget as well."""

    async def main() -> None:
        held: list[Owner] = []
        asyncio.get_running_loop().call_later(0.03, held.clear)
        async with no_leaks(kinds=["descriptor"], budget=0.1):
            held.append(Owner())

    run(main, asyncio.SelectorEventLoop)


@REAL
def test_leaked_transport_is_reported_once(new_loop: Loops) -> None:
    """As a transport; its descriptor is no second leak, not even if transports are ignored."""

    async def main(**settings: Any) -> list[str]:
        loop, kept = asyncio.get_running_loop(), list[asyncio.Transport]()

        async def operation() -> None:
            name = listener.getsockname()
            kept.append((await loop.create_connection(asyncio.Protocol, *name))[0])

        with socket.create_server(("127.0.0.1", 0)) as listener:
            found = await measure_growth(operation, budget=0.02, **settings)
            for transport in kept:
                transport.abort()
            await asyncio.sleep(0.01)
        return list(counts(found))

    assert run(main, new_loop) == ["transport connection"]
    ignore = ignore_name("connection", reason="pooled")
    assert run(lambda: main(ignore=ignore), new_loop) == []


@REAL
def test_transports_of_an_earlier_server_are_reported_once(new_loop: Loops) -> None:
    """As transports, although no call of the operation made them."""
    transports: list[asyncio.Transport] = []

    class Keeping(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            transports.append(transport)

        def eof_received(self) -> bool:
            return True

    async def main() -> set[str]:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Keeping, "127.0.0.1", 0)

        async def operation() -> None:
            with socket.create_connection(server.sockets[0].getsockname()):
                await asyncio.sleep(0.002)

        found = await measure_growth(operation, budget=0.02)
        for transport in transports:
            transport.abort()
        server.close()
        await asyncio.sleep(0.01)
        return {each.kind for each in found.growing}

    assert run(main, new_loop) == {"transport"}


def test_connection_cancelled_in_its_happy_eyeballs_is_found() -> None:
    """It leaves a socket without a transport or task, which only a collection closes."""

    async def main() -> list[str]:
        loop = asyncio.get_running_loop()

        async def operation() -> None:
            for iterations in range(1, 8):
                connecting = loop.create_connection(
                    asyncio.Protocol, *listener.getsockname(), happy_eyeballs_delay=0.25
                )
                task = loop.create_task(connecting)
                for _ in range(iterations):
                    await asyncio.sleep(0)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    (await task)[0].abort()

        with socket.create_server(("127.0.0.1", 0)) as listener, warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            return list(counts(await measure_growth(operation, budget=0.02)))

    assert run(main, asyncio.SelectorEventLoop) == ["warning unclosed <socket.socket>"]


@REAL
def test_block_looks_for_descriptors_if_they_are_named(new_loop: Loops, kept: list[int]) -> None:
    """As a block and as a decorator; by default it does not."""

    async def opens() -> None:
        kept.extend(os.pipe())

    async def main() -> None:
        async with no_leaks():
            await opens()
        async with no_leaks(kinds=["task", "descriptor"]):
            os.close(os.dup(kept[0]))
        ignore = ignore_name("pipe", reason="kept for all tests")
        async with no_leaks(kinds=["descriptor"], ignore=ignore):
            await opens()
        with pytest.raises(LeakError, match="2 open descriptors leaked"):
            async with no_leaks(kinds=["task", "descriptor"], budget=0.02):
                await opens()
        with pytest.raises(LeakError, match="2 open descriptors leaked"):
            await no_leaks(kinds=["descriptor"], budget=0.02)(opens)()

    run(main, new_loop)

    @no_leaks(kinds=["descriptor"])
    def function() -> None:
        run(opens, new_loop)

    with pytest.raises(LeakError, match="2 open descriptors leaked"):
        function()


def test_block_gives_descriptors_time_and_leaves_out_what_others_keep(tmp_path: Path) -> None:
    """One that is closed within the budget, a stream of logging, a transport of the block."""

    async def main() -> None:
        loop, before = asyncio.get_running_loop(), await accepted.create()
        handler = logging.FileHandler(tmp_path / "log", delay=True)
        async with no_leaks(kinds=["descriptor"]):
            number = os.open(tmp_path, os.O_RDONLY)
            loop.call_later(0.03, os.close, number)
            handler.emit(logging.makeLogRecord({"msg": "opened now"}))
            transport, _ = await loop.create_connection(asyncio.Protocol, *before)
        handler.close()
        transport.abort()
        accepted.server.close()
        await asyncio.sleep(0.01)

    class accepted:  # noqa: N801 - a name in this test only
        server: asyncio.Server

        @classmethod
        async def create(cls) -> tuple[str, int]:
            loop = asyncio.get_running_loop()
            cls.server = await loop.create_server(Closing, "127.0.0.1", 0)
            name: tuple[str, int] = cls.server.sockets[0].getsockname()
            return name

    class Closing(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            transport.abort()

    run(main, asyncio.SelectorEventLoop)


def test_types_are_named_without_numbers() -> None:
    """As Linux writes them, and as `fstat` gives them elsewhere."""
    targets = {
        "socket:[4711]": "socket",
        "pipe:[4712]": "pipe",
        "anon_inode:[eventfd]": "eventfd",
        "anon_inode:inotify": "inotify",
        "/dev/urandom": "/dev/urandom",
        "/dev/pts/3": "terminal",
        "/memfd:x (deleted)": "memfd",
        "/srv/a:b": "file",
        "file:[64-12]": "file",
    }
    assert {each: descriptors.type_of(each) for each in targets} == targets


def test_descriptors_are_asked_for_where_the_system_has_no_list(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By number, with type and inode; the numbers are the same."""
    listed = descriptors.open_descriptors()
    monkeypatch.setattr(descriptors, "_LISTED", "/nowhere")
    with socket.socket() as one:
        asked = descriptors.open_descriptors()
        assert descriptors.type_of(asked.pop(one.fileno())) == "socket"
    assert set(asked) >= {number for number in listed if number in asked}
    assert len(listed) - len(asked) <= 1  # the list's own
