"""What the tests of `vless` share: a server on loopback, an echo, and a check that nothing is left.

Fixtures only: the folder is no package, so nothing here can be imported.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from types import FrameType
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
import pytest_asyncio

from muxleak import settle
from muxleak_vless import Inbound, Limits, User

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from muxleak_vless import Context, Handler, Stream

Server = tuple[Inbound, tuple[str, int]]
LIMITS = Limits(
    header_seconds=5, write_seconds=0.05, stall_seconds=0.05, close_seconds=0.05, dial_seconds=2
)


@pytest.fixture(autouse=True)
def no_noise(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing logs an error or a traceback, whatever a peer or a handler does."""
    caplog.set_level(logging.DEBUG)
    yield
    for record in caplog.get_records("call"):
        assert record.levelno < logging.ERROR, record.getMessage()
        assert not record.exc_info, record.getMessage()


@pytest.fixture
def uuid() -> UUID:
    """The user that every server here knows."""
    return UUID("00112233-4455-6677-8899-aabbccddeeff")


@pytest.fixture
def echo() -> Handler:
    """A handler that returns what comes until it ends."""

    async def echo(stream: Stream, _context: Context) -> None:
        while (packet := await stream.read_packet()) is not None:
            await stream.write(*packet)

    return echo


@pytest_asyncio.fixture
async def all_gone() -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """A check that every task since the start has ended; made once more at the end."""
    baseline = asyncio.all_tasks()

    def left() -> set[asyncio.Task[Any]]:
        return asyncio.all_tasks() - baseline - {asyncio.current_task()}

    async def check() -> None:
        await settle(limit=2, until=lambda: not left())
        assert not left()

    yield check
    await check()


@pytest_asyncio.fixture
async def serve(
    uuid: UUID, all_gone: Callable[[], Awaitable[None]]
) -> AsyncIterator[Callable[..., Awaitable[Server]]]:
    """Start an inbound on loopback; at the end it shuts down in time and leaves nothing."""
    inbounds: list[Inbound] = []

    async def start(handler: Handler, *, host: str = "127.0.0.1", **settings: Any) -> Server:
        settings.setdefault("limits", LIMITS)
        inbound = Inbound([User(uuid)], handler, **settings)
        inbounds.append(inbound)
        return inbound, await inbound.listen(host)

    yield start
    for inbound in inbounds:
        assert await asyncio.wait_for(inbound.shutdown(), 5) == []
        assert inbound.connections == inbound.active == 0
    await all_gone()


@pytest.fixture
def no_cycles() -> Iterator[Callable[[], None]]:
    """A check that what vless has dropped was freed without the collector.

    Others, such as the streams of asyncio, may tie cycles of their own.
    """

    def check() -> None:
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        gc.set_debug(0)
        found = [_short(each) for each in gc.garbage if _is_of_vless(each)]
        gc.garbage.clear()
        assert not found

    gc.collect()
    gc.disable()
    yield check
    gc.enable()


def _is_of_vless(value: object) -> bool:
    if isinstance(value, FrameType):
        return str(value.f_globals["__name__"]).startswith("muxleak_vless.")
    return type(value).__module__.startswith("muxleak_vless.")


def _short(value: object) -> str:
    return f"{type(value).__name__}: {value!r:.100}"
