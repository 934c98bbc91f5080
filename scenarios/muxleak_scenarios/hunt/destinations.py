"""The destinations of a hunt: listeners on this machine that the server under test dials."""

# The server under test dials them as it dials any host, so they are real listeners, one for each
# behaviour. Three of them need the kernel's help:
#
# - "@deaf" never reads. By default the kernel would take up to 8 MB for it before the server under
#   test notices, at each connection. A small receive window and small segments block the server
#   after a few frames: with segments that small the server's own kernel keeps little, too.
# - "@refuse" is bound and does not listen. Its port is refused, and no other program can take it.
# - "@hang" never answers a SYN, like a host that is not there, without a packet that leaves the
#   machine. The backlog of a listener that never accepts is filled with connections of our own
#   (two, since `listen(0)` has room for one); the kernel then drops further SYNs (tcp(7),
#   listen(2)).
#
# Every destination reports to its host, for two purposes. ``traffic`` lets the meter see that data
# is still moving. And the host can close all connections at once, for the second count of a
# measurement: `leave` ends the connections while the listeners stay.

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from muxleak_scenarios.sequence.destinations import DATAGRAM_DESTINATIONS, DESTINATIONS
from muxleak_vless import Address, NetworkType

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from muxleak_scenarios.sequence.destinations import Datagrams, Destination

HOST = "127.0.0.1"
KINDS = (*(f"@{name}" for name in DESTINATIONS), "@refuse", "@nowhere", "@hang")
"""Destinations that a stream can name at any server. Handlers exist in the simulation only."""
_WAITING = 2
_SEGMENT = 536
_WINDOW = 4096
"""Bytes of the largest segment and of the receive buffer of a destination that never reads."""


class Destinations:
    """Listeners for each kind, on free ports of one address; an async context manager.

    Args:
        host: the address, one of this machine.

    Attributes:
        host: the same.
        traffic: number of events at all destinations so far.

    Raises:
        OSError: on entering, if the address is none of this machine.
    """

    def __init__(self, host: str = HOST) -> None:
        self.host = host
        self._addresses: dict[str, Address] = {"@nowhere": Address.of("", 7)}
        self._datagram_addresses: dict[str, Address] = {}
        self._datagrams: list[asyncio.DatagramTransport] = []
        self._idle: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []
        self._hosted: set[Destination] = set()
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.traffic = 0

    async def __aenter__(self) -> Self:
        refusing = socket.socket(self._family)
        try:
            refusing.bind((self.host, 0))
        except OSError:
            refusing.close()
            raise
        self._idle.append(refusing)
        self._addresses["@refuse"] = _address(refusing)
        loop = asyncio.get_running_loop()
        for name in DESTINATIONS:
            sock = socket.socket(self._family)
            if name == "deaf":
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _WINDOW)
            sock.bind((self.host, 0))
            server = await loop.create_server(partial(self._accept, name), sock=sock, backlog=1024)
            self._servers.append(server)
            self._addresses[f"@{name}"] = _address(sock)
        for name, factory in DATAGRAM_DESTINATIONS.items():
            transport, _ = await loop.create_datagram_endpoint(
                partial(_Counted, self, factory), local_addr=(self.host, 0)
            )
            self._datagrams.append(transport)
            sock = transport.get_extra_info("socket")
            self._datagram_addresses[f"@{name}"] = _address(sock)
        self._addresses["@hang"] = self._black_hole()
        return self

    def _black_hole(self) -> Address:
        listener = socket.socket(self._family)
        self._idle.append(listener)
        listener.bind((self.host, 0))
        listener.listen(0)
        for _ in range(_WAITING):
            waiting = socket.socket(self._family)
            self._idle.append(waiting)
            waiting.setblocking(False)  # noqa: FBT003 - the standard library's own signature
            waiting.connect_ex(listener.getsockname())
        return _address(listener)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.leave()
        for server in self._servers:
            server.close()
        for transport in self._datagrams:
            transport.close()
        for sock in self._idle:
            sock.close()

    def address(self, kind: str, network: NetworkType = NetworkType.TCP) -> Address:
        """Return the address of a kind.

        Args:
            kind: one of `KINDS`.
            network: TCP or UDP.
        """
        return (self._addresses if network is NetworkType.TCP else self._datagram_addresses)[kind]

    def leave(self) -> None:
        """Close every open connection of the destinations; the listeners stay."""
        hosted, self._hosted = self._hosted, set()
        for each in hosted:
            each.transport.abort()

    def _accept(self, name: str) -> asyncio.Protocol:
        return _Watched(self, DESTINATIONS[name]())

    def begun(self, destination: Destination) -> None:
        """Record a new connection."""
        self._hosted.add(destination)
        self.traffic += 1

    def ended(self, destination: Destination) -> None:
        """Record the end of a connection."""
        self._hosted.discard(destination)
        self.traffic += 1


class _Watched(asyncio.Protocol):
    """Passes events on to a TCP destination and reports them to the host."""

    def __init__(self, host: Destinations, destination: Destination) -> None:
        self._host = host
        self._destination = destination

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._destination.connection_made(transport)
        self._host.begun(self._destination)

    def data_received(self, data: bytes) -> None:
        self._host.traffic += 1
        self._destination.data_received(data)

    def eof_received(self) -> bool | None:
        self._host.traffic += 1
        return self._destination.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._destination.connection_lost(exc)
        self._host.ended(self._destination)


class _Counted(asyncio.DatagramProtocol):
    """Passes datagrams on to a UDP destination and reports them to the host."""

    def __init__(self, host: Destinations, factory: Callable[[], Datagrams]) -> None:
        self._host = host
        self._destination = factory()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._destination.connection_made(transport)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        self._host.traffic += 1
        self._destination.datagram_received(data, addr)


def _address(sock: socket.socket) -> Address:
    host, port = sock.getsockname()[:2]
    return Address.of(host, port)
