"""Destinations behind the server's outbound.

Three names of the notation have no class here: ``refuse`` is a port without a listener, ``hang`` a
dial that never ends, and ``nowhere`` an empty domain, which the server must refuse itself.
"""

# They are protocols, not streams or handlers, so that a destination has no task: all tasks of the
# loop are the server's, and the ledger counts nothing else.

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
    """The destination ``silent``, and the base of the others: reads, and ignores the end."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def eof_received(self) -> bool:
        """Stay open."""
        return True


class Echo(Destination):
    """Echoes, and closes when the input ends."""

    def data_received(self, data: bytes) -> None:
        """Send it back."""
        self.transport.write(data)

    def eof_received(self) -> bool:
        """Close."""
        return False


class CloseFirst(Destination):
    """Sends a greeting and closes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the greeting and close."""
        super().connection_made(transport)
        self.transport.write(GREETING)
        self.transport.close()


class Flood(Destination):
    """Sends more than any buffer holds."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Write everything; the transport keeps the bytes that the server does not take."""
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
    """The destination ``silent`` for datagrams, and the base of the other."""

    transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.DatagramTransport", transport)


class DatagramEcho(Datagrams):
    """Sends each datagram back to its sender."""

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        """Send it back."""
        self.transport.sendto(data, addr)


DATAGRAM_DESTINATIONS: dict[str, Callable[[], Datagrams]] = {
    "echo": DatagramEcho,
    "silent": Datagrams,
}
"""The destinations that speak UDP, by name."""
