"""The world on loopback TCP: real sockets, a real loop (asyncio's or any other), real time."""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import TYPE_CHECKING

from muxleak import settle
from muxleak.checks.teardown import close_coroutines
from muxleak_scenarios.sequence.destinations import DATAGRAM_DESTINATIONS, DESTINATIONS
from muxleak_scenarios.sequence.limits import LIMITS
from muxleak_scenarios.sequence.peers import SocketPeer
from muxleak_scenarios.targets.target import IDLE_INTERVALS, Target
from muxleak_vless import Address
from muxleak_vless.outbound import dial_tcp, resolve_udp

if TYPE_CHECKING:
    from collections.abc import Callable

    from muxleak import Scope
    from muxleak_scenarios.sequence.destinations import Destination
    from muxleak_scenarios.sequence.peers import Peer
    from muxleak_vless import Lifecycle, Limits
    from muxleak_vless.link import Link

HOST = "127.0.0.1"
PATIENCE = 0.1
"""Seconds to wait for what is expected, before it counts as not happening. Paid by leaks only."""
SCALED = LIMITS._replace(
    idle_seconds=2.0, write_seconds=0.02, stall_seconds=0.02, close_seconds=0.02, dial_seconds=0.02
)
"""The limits of `LIMITS` whose expiry a sequence waits for, in real time."""
BUFFER = 64 * 1024
"""Bytes that the kernel is asked to keep for a connection, at either end; Linux takes double."""
_TURNS = 1000
_PERSISTENCE = 100
"""Cancellations after which a task is given up."""
_ACCEPTING = 3
"""Iterations from an arrival in the kernel to the protocol's `connection_made`."""


class TcpTarget(Target):
    """The inbound on a loopback port, its destinations on others."""

    horizon = 0.1
    exact = False
    blind = frozenset({"timers", "quiet"})

    def __init__(
        self,
        lifecycle: Lifecycle,
        limits: Limits = SCALED,
        new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.SelectorEventLoop,
    ) -> None:
        super().__init__(new_loop(), lifecycle, limits)
        self._made: list[Scope] = []
        self._servers: dict[str, asyncio.Server] = {}
        self._datagrams: dict[str, asyncio.DatagramTransport] = {}
        self._hosted: list[Destination] = []
        # Bound and not listening: connections to it are refused, and nobody else can take it.
        self._refusing = socket.socket()
        self._refusing.bind((HOST, 0))
        self._sockets = [self._refusing]
        self._address = self.loop.run_until_complete(self._listen())

    def connect(self) -> Peer:
        """Connect a socket and wait until the server has accepted it.

        Raises:
            TimeoutError: if it does not.
        """
        sock = socket.socket()
        self._sockets.append(sock)
        # Small, so that a peer that does not read is felt after bytes, not after megabytes.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        sock.connect(self._address)
        for _ in range(_TURNS):
            if self._made:
                return SocketPeer(self._made.pop(), sock)
            self.turn(1)
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
        """Let the idle intervals pass, in real time: seconds. No longer than something is left."""
        limit = IDLE_INTERVALS * self.inbound.limits.idle_seconds
        self.loop.run_until_complete(settle(limit=limit, until=self.idle))

    def rest(self, done: Callable[[], bool]) -> None:
        """Run until nothing is ready and no timer is near; then wait for ``done`` a while."""
        self.settle()
        if not done():
            self.loop.run_until_complete(settle(limit=PATIENCE, until=done))
            # For a process that was not run meanwhile: what is under way comes to its end.
            self.settle()

    def dispose(self) -> None:
        """End everything that is left and close the loop."""
        for sock in self._sockets:
            sock.close()
        for links in self._links.values():
            for link in links:
                link.abort()
        self.loop.run_until_complete(self.inbound.shutdown())
        # A server that is closed while it accepts fails on an assertion of asyncio's.
        self.turn(_ACCEPTING)
        for _ in range(_PERSISTENCE):
            if not self.ledger.count:
                break
            for task in self.ledger.tasks():
                task.cancel()
            self.turn(1)
        self._stop_listening()
        for destination in self._hosted:
            destination.transport.abort()
        left = self.ledger.tasks()
        self.ledger.uninstall()
        self.failures.unretrieved()
        self.turn(_ACCEPTING)
        self.loop.close()
        for task in left:
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 - abandoned on purpose
        close_coroutines(left)

    async def dial(self, address: Address, limits: Limits) -> Link:
        """Connect to a destination on loopback.

        Raises:
            OSError: if it refuses.
        """
        server = self._servers.get(address.host.partition(".")[0])
        sock = self._refusing if server is None else server.sockets[0]
        return await dial_tcp(Address.of(*sock.getsockname()), limits)

    async def resolve(self, address: Address) -> tuple[str, int]:
        """Return where a destination for datagrams is; other addresses as they are.

        Raises:
            OSError: if the name is unknown.
        """
        transport = self._datagrams.get(address.host.partition(".")[0])
        if transport is None:
            return await resolve_udp(address)
        host, port = transport.get_extra_info("sockname")
        return host, port

    async def _listen(self) -> tuple[str, int]:
        # Not when first asked for: the handler that asks may be cancelled, and is to be charged
        # with its own connection only.
        for name in DESTINATIONS:
            host = partial(self._host, name)
            self._servers[name] = await self.loop.create_server(host, HOST, 0)
        for name, datagrams in DATAGRAM_DESTINATIONS.items():
            self._datagrams[name], _ = await self.loop.create_datagram_endpoint(
                datagrams, local_addr=(HOST, 0)
            )
        factory = self.ledger.scoped_factory(self._protocol, made=self._made.append)
        address = await self.inbound.listen(HOST, factory=factory)
        for sock in self.inbound.sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        return address

    def _stop_listening(self) -> None:
        for server in self._servers.values():
            server.close()
        for transport in self._datagrams.values():
            transport.close()

    def _host(self, name: str) -> Destination:
        destination = DESTINATIONS[name]()
        self._hosted.append(destination)
        return destination
