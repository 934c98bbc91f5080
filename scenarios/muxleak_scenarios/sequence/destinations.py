"""Destinations behind the server's outbound: plain protocols, without a task of their own.

``refuse`` is not here: it is the absence of a listener; ``hang`` is a dial that never ends, and
``nowhere`` an empty domain, which the server must refuse by itself.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Any, cast

from muxleak_scenarios.sequence.handlers import FLOOD, FLOOD_TIMES

if TYPE_CHECKING:
    from collections.abc import Callable

GREETING = b"greeting"


class Destination(asyncio.Protocol):
    """Keeps its transport; ``silent``: reads, says nothing, and ignores the end of the input."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def eof_received(self) -> bool:
        """Stay open."""
        return True


class Echo(Destination):
    """Returns what comes, and closes when the input ends."""

    def data_received(self, data: bytes) -> None:
        """Return it."""
        self.transport.write(data)

    def eof_received(self) -> bool:
        """Close."""
        return False


class CloseFirst(Destination):
    """Speaks first and closes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet and close."""
        super().connection_made(transport)
        self.transport.write(GREETING)
        self.transport.close()


class Flood(Destination):
    """Sends more than any buffer holds."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send it all; the transport keeps what the server does not take."""
        super().connection_made(transport)
        self.transport.write(FLOOD * FLOOD_TIMES)


class Reset(Destination):
    """Resets the connection at its first byte."""

    def data_received(self, data: bytes) -> None:
        """Reset."""
        del data
        sock = self.transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


class Deaf(Destination):
    """Never reads."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Stop reading."""
        super().connection_made(transport)
        self.transport.pause_reading()


DESTINATIONS: dict[str, Callable[[], Destination]] = {
    "echo": Echo,
    "silent": Destination,
    "close": CloseFirst,
    "flood": Flood,
    "deaf": Deaf,
    "reset": Reset,
}


class Datagrams(asyncio.DatagramProtocol):
    """Keeps its transport; ``silent``: takes datagrams and says nothing."""

    transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.DatagramTransport", transport)


class DatagramEcho(Datagrams):
    """Returns each datagram to its sender."""

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        """Return it."""
        self.transport.sendto(data, addr)


DATAGRAM_DESTINATIONS: dict[str, Callable[[], Datagrams]] = {
    "echo": DatagramEcho,
    "silent": Datagrams,
}
"""Those that speak UDP."""
