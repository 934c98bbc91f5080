"""Destinations on loopback: what real servers do with a connection, and how many they have."""

from __future__ import annotations

import asyncio
import socket
from contextlib import contextmanager, suppress
from hashlib import sha256
from random import Random
from struct import pack
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    Endpoint = tuple[str, int]
    Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

GREETING = b"I speak first, and at length. " * 2_000
"""60,000 bytes: more than one frame of V2Ray's."""
DIGEST = sha256().digest_size
PIECE = 64 * 1024


class Destination:
    """A TCP server; ``open`` and ``accepted`` count its connections."""

    def __init__(self, serve: Serve) -> None:
        self.open = 0
        self.accepted = 0
        self._serve = serve
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def listen(self, host: str = "127.0.0.1") -> Endpoint:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._accept, host)
        address = self._server.sockets[0].getsockname()
        return address[0], address[1]

    async def close(self) -> None:
        """Stop listening and drop all connections."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._run(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.accepted += 1
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._serve(reader, writer)
        finally:
            self.open -= 1
            writer.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Return what comes, and end when the client does."""
    while data := await reader.read(PIECE):
        writer.write(data)
        await writer.drain()


async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read a size and so many bytes; answer with their digest."""
    digest, size = sha256(), int.from_bytes(await reader.readexactly(8))
    while size:
        data = await reader.read(min(size, PIECE))
        if not data:
            return
        size -= len(data)
        digest.update(data)
    writer.write(digest.digest())
    await reader.read()


async def give(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read a size; answer with so many bytes and their digest."""
    data = payload(int.from_bytes(await reader.readexactly(8)))
    writer.write(data + sha256(data).digest())
    await reader.read()


async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Speak first, and close."""
    writer.write(GREETING)


async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer when the client has ended its direction."""
    writer.write(b"%d bytes" % len(await reader.read()))


async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Break the connection at the first byte."""
    await reader.read(1)
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, pack("ii", 1, 0))
    writer.transport.abort()


async def flood(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send without end."""
    while True:
        writer.write(bytes(PIECE))
        await writer.drain()


class Datagrams(asyncio.DatagramProtocol):
    """Returns every datagram."""

    def __init__(self) -> None:
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # Not an instance of it before Python 3.12.
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: Endpoint) -> None:
        """Return it."""
        if self.transport is not None:
            self.transport.sendto(data, addr)


def payload(size: int, seed: int = 1) -> bytes:
    """So many bytes, the same ones always, which no compression or repetition hides."""
    return Random(seed).randbytes(size)


@contextmanager
def refusing() -> Iterator[Endpoint]:
    """An address that nobody listens on, and nobody else can take."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        host, port = sock.getsockname()
        yield host, port
