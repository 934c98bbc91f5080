"""The inbound on the simulated network, and nothing else unless asked for.

`SimWorld` without the parts that check it, so that both can be priced.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from muxleak import Ledger, Scope
from muxleak.checks.teardown import close_coroutines
from muxleak.sim import Choices, Settings
from muxleak.sim.loop import SimLoop
from muxleak_scenarios.sequence.handlers import Switchboard
from muxleak_scenarios.sequence.limits import LIMITS
from muxleak_scenarios.targets.simulated import HOST, PORT
from muxleak_scenarios.targets.target import USER
from muxleak_scenarios.targets.unretrieved import Failures
from muxleak_vless import Context, Inbound, User
from muxleak_vless.outbound import dial_tcp

if TYPE_CHECKING:
    from collections.abc import Callable

    from muxleak_vless import Lifecycle

_HORIZON = 5.0  # virtual seconds: longer than the limits of a connection that ends, as in a world


class BareServer:
    """One server; with ``counted``, its tasks are, and its exceptions are kept."""

    def __init__(self, lifecycle: Lifecycle, *, counted: bool) -> None:
        self.loop = SimLoop(Choices(), Settings())
        self._scopes: list[Scope] = []
        self.ledger: Ledger | None = None
        if counted:
            self._failures = Failures(self.loop)
            self.ledger = Ledger()
            self.ledger.install(self.loop)
        self.context = Context.background().child("server")
        self.inbound = Inbound(
            [User(USER, "bench")],
            Switchboard(dial_tcp, LIMITS),
            context=self.context,
            lifecycle=lifecycle,
            limits=LIMITS,
        )
        factory: Callable[[], asyncio.BaseProtocol] = self.inbound.protocol
        if self.ledger is not None:
            factory = self.ledger.scoped_factory(self.inbound.protocol, made=self._scopes.append)
        self.loop.fabric.host([(HOST, PORT)], factory)

    def connect(self) -> BarePeer:
        """Connect a peer, in a scope of its own where tasks are counted."""
        transport = self.loop.fabric.dial((HOST, PORT))
        if transport is None:
            raise AssertionError(f"expected a server at {HOST}:{PORT}")
        self.loop.turn()
        peer = BarePeer()
        peer.scope = self._scopes.pop() if self._scopes else None
        transport.begin("client", peer)
        self.loop.turn()
        return peer

    def settle(self) -> None:
        """Run until nothing is ready and no limit is about to expire."""
        while self.loop.run_until_quiescent(_HORIZON):
            pass

    def end(self) -> None:
        """End the server's context and let all that follows happen."""
        self.loop.call_soon(self.context.cancel)
        self.settle()

    def dispose(self) -> None:
        """End what is left and close the loop."""
        close_coroutines(self.loop.dispose())
        if self.ledger is not None:
            self.ledger.uninstall()
            self._failures.unretrieved()


class BarePeer(asyncio.Protocol):
    """The client end: sends bytes, collects bytes."""

    def __init__(self) -> None:
        self.scope: Scope | None = None
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        if not isinstance(transport, asyncio.Transport):
            raise TypeError(f"expected a stream transport, got {transport!r}")
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Collect."""
        self.received += data

    def send(self, data: bytes) -> None:
        """Send."""
        self._transport.write(data)

    def close(self) -> None:
        """Close both directions."""
        self._transport.close()
