"""The world on loopback TCP: real sockets, a real loop (asyncio's or any other), real time."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from harness import settle
from scenarios.destinations import DESTINATIONS
from scenarios.peers import SocketPeer
from scenarios.worlds import LIMITS, World
from vless import Address
from vless.outbound import dial_tcp

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness import Scope
    from scenarios.destinations import Destination
    from scenarios.peers import Peer
    from vless import Lifecycle, Limits
    from vless.link import Link

HOST = "127.0.0.1"
PATIENCE = 0.3
"""Seconds to wait for what is expected, before it counts as not happening. Paid by leaks only."""
SCALED = LIMITS._replace(
    idle_seconds=2.0, write_seconds=0.02, stall_seconds=0.02, close_seconds=0.02, dial_seconds=0.02
)
"""The limits of `LIMITS` whose expiry a sequence waits for, in real time."""
_TURNS = 1000


class TcpWorld(World):
    """The inbound on a loopback port, its destinations on others."""

    horizon = 0.1

    def __init__(
        self,
        lifecycle: Lifecycle,
        limits: Limits = SCALED,
        new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.SelectorEventLoop,
    ) -> None:
        super().__init__(new_loop(), lifecycle, limits)
        self._made: list[Scope] = []
        self._servers: dict[str, asyncio.Server] = {}
        self._hosted: list[Destination] = []
        # Bound and not listening: connections to it are refused, and nobody else can take it.
        self._refusing = socket.socket()
        self._refusing.bind((HOST, 0))
        factory = self.ledger.scoped_factory(self._protocol, made=self._made.append)
        self._address = self.loop.run_until_complete(self.inbound.listen(HOST, factory=factory))

    def connect(self) -> Peer:
        """Connect a socket and wait until the server has accepted it.

        Raises:
            TimeoutError: if it does not.
        """
        sock = socket.create_connection(self._address)
        for _ in range(_TURNS):
            if self._made:
                return SocketPeer(self._made.pop(), sock)
            self.turn(1)
        sock.close()
        raise TimeoutError(f"not accepted within {_TURNS} loop iterations")

    def turn(self, iterations: int) -> None:
        """Run so many iterations: each looks once at the sockets."""
        for _ in range(iterations):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    def settle(self) -> None:
        """Run until nothing is ready and no timer is near."""
        self.loop.run_until_complete(settle(horizon=self.horizon))

    def wait(self) -> None:
        """Let two idle intervals pass, in real time: four seconds with the limits of `SCALED`."""
        seconds = 2 * self.inbound.limits.idle_seconds
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def rest(self, done: Callable[[], bool]) -> None:
        """Run until nothing is ready and no timer is near; then wait for ``done`` a while."""
        self.settle()
        if not done():
            self.loop.run_until_complete(settle(limit=PATIENCE, until=done))

    def dispose(self) -> None:
        """End everything that is left and close the loop."""
        self._refusing.close()
        for links in self._links.values():
            for link in links:
                link.abort()
        for destination in self._hosted:
            destination.transport.abort()
        for server in self._servers.values():
            server.close()
        tasks = self.ledger.tasks()
        for _ in range(_TURNS):
            if not self.ledger.count:
                break
            for task in tasks:
                task.cancel()
            self.turn(1)
        self.loop.run_until_complete(self.inbound.shutdown())
        self.ledger.uninstall()
        self.turn(2)
        self.loop.close()

    async def dial(self, address: Address, limits: Limits) -> Link:
        """Connect to a destination on loopback, started when first asked for.

        Raises:
            OSError: if it refuses.
        """
        name = address.host.partition(".")[0]
        port = self._refusing.getsockname()[1]
        if name in DESTINATIONS:
            if name not in self._servers:
                self._servers[name] = await self.loop.create_server(
                    lambda: self._host(name), HOST, 0
                )
            port = self._servers[name].sockets[0].getsockname()[1]
        return await dial_tcp(Address.of(HOST, port), limits)

    def _host(self, name: str) -> Destination:
        destination = DESTINATIONS[name]()
        self._hosted.append(destination)
        return destination
