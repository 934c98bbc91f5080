"""The destinations of a hunt: listeners of ours that the server under test is told to dial."""

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
"""What may serve a stream of a server that is not ours: no handler."""
_ROOM = 2
_SEGMENT = 536
_WINDOW = 4096
"""What a destination that never reads offers to take: with segments that small, the server under
test keeps little, too, and feels it after a few frames. By default it takes 8 MB."""


class Destinations:
    """Listeners for each kind, on free ports of one address; use as an async context manager.

    ``host`` is that address; ``traffic`` counts what happens at them, so that one can see that
    nothing does.

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
        # Bound and not listening: it refuses, and nobody else can take the port.
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
        # What comes when as many wait to be accepted as may is dropped, as by a host that is not
        # there; and one that has asked for no room has room for one.
        listener = socket.socket(self._family)
        self._idle.append(listener)
        listener.bind((self.host, 0))
        listener.listen(0)
        for _ in range(_ROOM):
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
        """Return where a kind is found."""
        return (self._addresses if network is NetworkType.TCP else self._datagram_addresses)[kind]

    def leave(self) -> None:
        """Close every connection that a destination still has: they go, the listeners stay."""
        hosted, self._hosted = self._hosted, set()
        for each in hosted:
            each.transport.abort()

    def _accept(self, name: str) -> asyncio.Protocol:
        return _Watched(self, DESTINATIONS[name]())

    def begun(self, destination: Destination) -> None:
        """Note a connection."""
        self._hosted.add(destination)
        self.traffic += 1

    def ended(self, destination: Destination) -> None:
        """Note the end of one."""
        self._hosted.discard(destination)
        self.traffic += 1


class _Watched(asyncio.Protocol):
    """Passes everything on to a destination, and tells the host of it."""

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
    """Passes every datagram on to a destination, and tells the host of it."""

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
