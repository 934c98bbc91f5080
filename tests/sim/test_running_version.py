"""Programs that asyncio's releases treat differently: the simulation follows the running one.

Each program runs on asyncio's own loop with real sockets, and simulated; both must note the same.
"""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from contextvars import ContextVar, copy_context
from typing import Any

import pytest

from muxleak.sim import Network, simulate

HOST = "127.0.0.1"
LARGE = 16 << 20  # bytes, more than the buffers of a loopback connection hold
VAR: ContextVar[str] = ContextVar("var", default="nothing")
Log = list[tuple[str, str]]


class Noting(asyncio.Protocol):
    """Notes the event that last set the variable in the context of each callback."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.transport: Any = None
        self.received = 0
        self.arrived: asyncio.Queue[str] = asyncio.Queue()
        self.note("factory")

    def note(self, event: str) -> None:
        """Note the variable, and set it to this event."""
        self.log.append((event, VAR.get()))
        VAR.set(event)
        self.arrived.put_nowait(event)

    async def until(self, event: str) -> None:
        """Wait for a callback."""
        while await self.arrived.get() != event:
            pass

    def connection_made(self, transport: Any) -> None:
        """Note it."""
        self.transport = transport
        self.note("made")

    def data_received(self, data: bytes) -> None:
        """Note it if it is a single byte: a large answer comes in any number of pieces."""
        self.received += len(data)
        if len(data) == 1:
            self.note("data")
        if self.received == LARGE:
            self.arrived.put_nowait("all")

    def pause_writing(self) -> None:
        """Note it."""
        self.note("pause")

    def resume_writing(self) -> None:
        """Note it."""
        self.note("resume")

    def eof_received(self) -> None:
        """Note it."""
        self.note("eof")

    def connection_lost(self, exc: Exception | None) -> None:
        """Note it."""
        del exc
        self.note("lost")


async def pair(near: Log, far: Log) -> tuple[asyncio.Server, Noting, Noting]:
    """Connect two protocols that note: server, client's, server's."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Noting] = asyncio.Queue()

    def factory() -> Noting:
        queue.put_nowait(protocol := Noting(far))
        return protocol

    VAR.set("server")
    server = await loop.create_server(factory, HOST, 0)
    VAR.set("client")
    _, client = await loop.create_connection(
        lambda: Noting(near), HOST, server.sockets[0].getsockname()[1]
    )
    accepted = await queue.get()
    await accepted.until("made")
    return server, client, accepted


def within(name: str, action: Callable[..., object], *args: object) -> None:
    """Call something in a context of its own, in which the variable has this value."""

    def call() -> None:
        VAR.set(name)
        action(*args)

    copy_context().run(call)


async def reads_in_turn() -> tuple[Log, Log]:
    """Read twice, pause and resume in another context, read again; the client closes."""
    near: Log = []
    far: Log = []
    server, client, accepted = await pair(near, far)
    for _ in range(2):
        client.transport.write(b".")
        await accepted.until("data")
    within("pauser", accepted.transport.pause_reading)
    within("resumer", accepted.transport.resume_reading)
    client.transport.write(b".")
    await accepted.until("data")
    within("closer", client.transport.close)
    await accepted.until("lost")
    await client.until("lost")
    server.close()
    return near, far


async def server_closes() -> tuple[Log, Log]:
    """Close at the server, in another context; the client learns of it."""
    near: Log = []
    far: Log = []
    server, client, accepted = await pair(near, far)
    within("closer", accepted.transport.close)
    await client.until("lost")
    server.close()
    return near, far


async def server_aborts_while_the_client_is_paused() -> tuple[Log, Log]:
    """Abort at the server, which has not read all: the client notices the reset as it reads on."""
    near: Log = []
    far: Log = []
    server, client, accepted = await pair(near, far)
    within("pauser", client.transport.pause_reading)
    accepted.transport.pause_reading()
    client.transport.write(b"unread")
    within("aborter", accepted.transport.abort)
    await accepted.until("lost")
    within("resumer", client.transport.resume_reading)
    await client.until("lost")
    server.close()
    return near, far


async def fills_the_buffer() -> tuple[Log, Log]:
    """Write more than the system's buffers hold to a client that does not read yet."""
    near: Log = []
    far: Log = []
    server, client, accepted = await pair(near, far)
    client.transport.pause_reading()
    within("filler", accepted.transport.write, bytes(LARGE))
    await accepted.until("pause")
    within("resumer", client.transport.resume_reading)
    await accepted.until("resume")
    await client.until("all")
    within("closer", accepted.transport.close)
    await client.until("lost")
    server.close()
    return near, far


async def _turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def serve_forever_cancelled() -> list[bool]:
    """Cancel `serve_forever` while a client is idle: True if it ends, if the client is closed."""
    server, client, _ = await pair([], [])
    forever = asyncio.ensure_future(server.serve_forever())
    await _turns()
    forever.cancel()
    await _turns()
    noted = [forever.done()]
    if not forever.done():
        client.transport.close()
        await asyncio.wait([forever])
    noted.append(client.transport.is_closing())
    client.transport.close()
    return [*noted, forever.cancelled(), server.is_serving()]


async def closed_server_is_waited_for() -> list[bool]:
    """Wait for a closed server that has an idle client: True if it ends before the client."""
    server, client, _ = await pair([], [])
    server.close()
    waiting = asyncio.ensure_future(server.wait_closed())
    await _turns()
    early = waiting.done()
    client.transport.close()
    await waiting
    return [early]


async def server_is_waited_for_until_it_closes() -> list[bool]:
    """Wait for a server that serves and has an idle client; then close both in turn."""
    server, client, _ = await pair([], [])
    waiting = asyncio.ensure_future(server.wait_closed())
    noted = []
    for close in (server.close, client.transport.close):
        await _turns()
        noted.append(waiting.done())
        close()
    await waiting
    return noted


async def clients_of_a_server() -> list[object]:
    """Close the clients by the server's own method, where it has one."""
    server, client, accepted = await pair([], [])
    close = getattr(server, "close_clients", accepted.transport.close)
    close()
    await client.until("lost")
    server.close()
    return [hasattr(server, "close_clients"), hasattr(server, "abort_clients")]


PROGRAMS: list[Callable[[], Coroutine[Any, Any, Any]]] = [
    reads_in_turn,
    server_closes,
    server_aborts_while_the_client_is_paused,
    fills_the_buffer,
    serve_forever_cancelled,
    closed_server_is_waited_for,
    server_is_waited_for_until_it_closes,
    clients_of_a_server,
]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: str(program.__name__))
def test_simulation_shows_what_this_python_shows(program: Any) -> None:
    """The same callbacks in the same contexts, and the same waits."""
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        real = runner.run(program())

    simulated = simulate(program, network=Network(cut=False), leaks=False).value

    assert simulated == real


def test_contexts_differ_where_asyncio_says_so() -> None:
    """The comparison above can fail: a reading sees what `connection_made` set from 3.15 on."""
    _, far = simulate(reads_in_turn, leaks=False).value

    assert dict(far[:3])["data"] == ("made" if sys.version_info >= (3, 15) else "factory")
