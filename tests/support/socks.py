"""A SOCKS5 client (RFC 1928), as a user of a proxy has it: CONNECT and UDP ASSOCIATE."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from struct import pack, unpack
from typing import TYPE_CHECKING, Self, cast

if TYPE_CHECKING:
    from types import TracebackType

    Endpoint = tuple[str, int]

_KINDS = {1: (socket.AF_INET, 4), 4: (socket.AF_INET6, 16)}
_DOMAIN = 3


class SocksConnection:
    """One TCP connection through a proxy; as a context manager, closes it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, proxy: Endpoint, target: Endpoint) -> SocksConnection:
        """Connect to ``target``.

        Raises:
            OSError: if the proxy refuses.
        """
        reader, writer = await asyncio.open_connection(*proxy)
        await _request(reader, writer, 1, target)
        return cls(reader, writer)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End both directions; what the proxy has not taken by now is dropped."""
        transport = self.writer.transport
        if transport.get_write_buffer_size():
            transport.abort()
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()

    async def send(self, data: bytes) -> None:
        """Send, with a bound on what waits."""
        self.writer.write(data)
        await self.writer.drain()

    async def ask(self, data: bytes, size: int) -> bytes:
        """Send, and return the next ``size`` bytes."""
        sending = asyncio.ensure_future(self.send(data))
        try:
            return await self.reader.readexactly(size)
        finally:
            sending.cancel()


class SocksDatagrams(asyncio.DatagramProtocol):
    """Datagrams through a proxy; as a context manager, ends the association."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._received: asyncio.Queue[tuple[bytes, Endpoint]] = asyncio.Queue()
        self._writer = writer
        self._transport: asyncio.DatagramTransport | None = None

    @classmethod
    async def associate(cls, proxy: Endpoint) -> SocksDatagrams:
        """Ask for an association.

        Raises:
            OSError: if the proxy refuses.
        """
        reader, writer = await asyncio.open_connection(*proxy)
        relay = await _request(reader, writer, 3, ("0.0.0.0", 0))  # noqa: S104 - from any port
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_datagram_endpoint(lambda: cls(writer), remote_addr=relay)
        return protocol

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._transport is not None:
            self._transport.close()
        self._writer.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: Endpoint) -> None:
        """Keep the datagram without its header, and where it came from."""
        del addr
        source, rest = _split(data[3:])
        self._received.put_nowait((rest, source))

    async def ask(self, data: bytes, target: Endpoint) -> tuple[bytes, Endpoint]:
        """Send, and return the next datagram with its source."""
        if self._transport is None:
            raise AssertionError("connected before it is returned")
        self._transport.sendto(b"\0\0\0" + _encode(target) + data)
        return await self._received.get()


async def _request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, command: int, target: Endpoint
) -> Endpoint:
    writer.write(b"\x05\x01\x00")
    if await reader.readexactly(2) != b"\x05\x00":
        raise OSError("the proxy wants a password")
    writer.write(bytes((5, command, 0)) + _encode(target))
    head = await reader.readexactly(4)
    size = {1: 4, 4: 16}[head[3]]
    rest = await reader.readexactly(size + 2)
    if head[1]:
        writer.close()
        raise ConnectionRefusedError(f"the proxy answers {head[1]}")
    return _split(head[3:] + rest)[0]


def _encode(target: Endpoint) -> bytes:
    host, port = target
    for kind, (family, _) in _KINDS.items():
        try:
            return bytes((kind,)) + socket.inet_pton(family, host) + pack(">H", port)
        except OSError:
            continue
    return bytes((_DOMAIN, len(host))) + host.encode() + pack(">H", port)


def _split(data: bytes) -> tuple[Endpoint, bytes]:
    family, size = _KINDS[data[0]]
    host = socket.inet_ntop(family, data[1 : 1 + size])
    (port,) = unpack(">H", data[1 + size : 3 + size])
    return (host, port), data[3 + size :]
