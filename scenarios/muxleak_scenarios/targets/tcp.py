"""The target on loopback TCP: real sockets, a real loop (asyncio's or another), real time."""

# Settling is inferred here: nothing is ready, no timer is near. Bytes may still be in the kernel,
# so `settle_until` waits for the expected state as well, `PATIENCE` at most. A run without a
# violation reaches that state at once and does not wait, so only leaks cost the patience.
#
# A limit may expire because the machine was busy. So `exact` is False, and the client model excuses
# resets and ends that a limit could explain. Timers of a real loop cannot be counted, and a
# livelock cannot be told from slowness: the properties `timers` and `quiet` are unobservable.
#
# Buffers of the kernel are set small at both ends, so that a peer that does not read is felt after
# kilobytes, not after megabytes.

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
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
"""Seconds until an expected event counts as missing."""
SCALED = LIMITS._replace(
    idle_seconds=2.0, write_seconds=0.02, stall_seconds=0.02, close_seconds=0.02, dial_seconds=0.02
)
"""`LIMITS` with times that a sequence can wait for in real time."""
BUFFER = 64 * 1024
"""Size in bytes of the socket buffers, at both ends; Linux doubles it."""
_TURNS = 1000
_PERSISTENCE = 100
"""Cancellations after which a task is abandoned."""
_ACCEPTING = 3
"""Iterations from an arrival in the kernel to the protocol's `connection_made`."""


class TcpTarget(Target):
    """The inbound on a loopback port, its destinations on others."""

    horizon = 0.1
    exact = False
    unobservable = frozenset({"timers", "quiet"})

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
        # Bound but not listening: connections to it are refused, and its port stays taken.
        self._refusing = socket.socket()
        self._refusing.bind((HOST, 0))
        self._sockets = [self._refusing]
        self._address = self.loop.run_until_complete(self._listen())

    def connect(self) -> Peer:
        """Connect a socket and wait until the server has accepted it.

        Raises:
            TimeoutError: the server did not accept it.
        """
        sock = socket.socket()
        self._sockets.append(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        sock.connect(self._address)
        for _ in range(_TURNS):
            if self._made:
                return SocketPeer(self._made.pop(), sock)
            self.turn(1)
        raise TimeoutError(f"not accepted within {_TURNS} loop iterations")

    def turn(self, iterations: int) -> None:
        """Run a number of iterations, each of which polls the sockets once."""
        for _ in range(iterations):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    def settle(self) -> None:
        """Run until nothing is ready and no timer is near."""
        self.loop.run_until_complete(settle(horizon=self.horizon))

    def wait(self) -> None:
        """Let the idle intervals pass, several seconds; return early if no connection is left."""
        limit = IDLE_INTERVALS * self.inbound.limits.idle_seconds
        self.loop.run_until_complete(settle(limit=limit, until=self.is_idle))

    def settle_until(self, done: Callable[[], bool]) -> None:
        """Settle, then wait `PATIENCE` at most until ``done()`` is true."""
        self.settle()
        if not done():
            self.loop.run_until_complete(settle(limit=PATIENCE, until=done))
            # If this process was not scheduled meanwhile, pending work gets its chance here.
            self.settle()

    def dispose(self) -> None:
        """End everything and close the loop."""
        for sock in self._sockets:
            sock.close()
        for links in self._links.values():
            for link in links:
                link.abort()
        self.loop.run_until_complete(self.inbound.shutdown())
        # asyncio fails on an assertion if a server is closed while it accepts a connection.
        self.turn(_ACCEPTING)
        for _ in range(_PERSISTENCE):
            if not self.ledger.count:
                break
            for task in self.ledger.tasks():
                # Cancelling calls code of the handler (see `handlers.fragile`).
                with suppress(Exception):
                    task.cancel()
            self.turn(1)
        self._stop_listening()
        for destination in self._hosted:
            destination.transport.abort()
        left = self.ledger.tasks()
        self.ledger.uninstall()
        self.exceptions.unretrieved()
        self.turn(_ACCEPTING)
        self.loop.close()
        for task in left:
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 - abandoned on purpose
        close_coroutines(left)

    async def dial(self, address: Address, limits: Limits) -> Link:
        """Connect to a destination on loopback.

        Raises:
            OSError: it refuses.
        """
        server = self._servers.get(address.host.partition(".")[0])
        sock = self._refusing if server is None else server.sockets[0]
        return await dial_tcp(Address.of(*sock.getsockname()), limits)

    async def resolve(self, address: Address) -> tuple[str, int]:
        """Return the address of a destination for datagrams; resolve any other address.

        Raises:
            OSError: the name is unknown.
        """
        transport = self._datagrams.get(address.host.partition(".")[0])
        if transport is None:
            return await resolve_udp(address)
        host, port = transport.get_extra_info("sockname")
        return host, port

    async def _listen(self) -> tuple[str, int]:
        # All at once, not at the first dial: the handler that dials may be cancelled meanwhile, and
        # the listener would count for its connection.
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
