"""The inbound on the simulated network, without the checks of a simulated target.

The difference between a `SimTarget` and a `BareServer` is the price of the checks.
"""

# Each layer is left out by not being built: no client model, no properties, no reports of errors,
# no destinations, and without ``counted`` no ledger either. Loop, network, handlers, limits and
# horizon are those of `SimTarget`, so that the difference of two figures is the price of the layer
# between them. A setting that differs here would be charged to that layer in the breakdown of
# `sequence`.

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
from muxleak_scenarios.targets.unretrieved import UnretrievedExceptions
from muxleak_vless import Context, Inbound, User
from muxleak_vless.outbound import dial_tcp

if TYPE_CHECKING:
    from collections.abc import Callable

    from muxleak_vless import Lifecycle

# Virtual seconds, as in `SimTarget`: longer than the limits of a connection that ends, shorter than
# the limits of one that is idle.
_HORIZON = 5.0


class BareServer:
    """One server on a virtual loop of its own.

    Args:
        lifecycle: the variant of the server.
        counted: True to count its tasks in a ledger and to keep its unhandled exceptions.
    """

    def __init__(self, lifecycle: Lifecycle, *, counted: bool) -> None:
        self.loop = SimLoop(Choices(), Settings())
        self._scopes: list[Scope] = []
        self.ledger: Ledger | None = None
        if counted:
            self._failures = UnretrievedExceptions(self.loop)
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
        """Connect a peer; where tasks are counted, its connection has a scope of its own.

        Raises:
            AssertionError: nothing listens at the server's address.
        """
        transport = self.loop.fabric.dial((HOST, PORT))
        if transport is None:
            raise AssertionError(f"expected a server at {HOST}:{PORT}")
        self.loop.turn(2)  # it is accepted, then its protocol is made
        peer = BarePeer()
        peer.scope = self._scopes.pop() if self._scopes else None
        transport.begin("client", peer)
        self.loop.turn()
        return peer

    def settle(self) -> None:
        """Run until no callback is ready and no timer is due within the horizon."""
        while self.loop.run_until_quiescent(_HORIZON):
            pass

    def end(self) -> None:
        """End the server's context and run until the loop is quiescent."""
        self.loop.call_soon(self.context.cancel)
        self.settle()

    def dispose(self) -> None:
        """Close every coroutine that is left, and the loop."""
        close_coroutines(self.loop.dispose())
        if self.ledger is not None:
            self.ledger.uninstall()
            self._failures.unretrieved()


class BarePeer(asyncio.Protocol):
    """The client's end of a connection: sends bytes and collects bytes."""

    def __init__(self) -> None:
        self.scope: Scope | None = None
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport.

        Raises:
            TypeError: it is no stream transport.
        """
        if not isinstance(transport, asyncio.Transport):
            raise TypeError(f"expected a stream transport, got {transport!r}")
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Collect the bytes that came."""
        self.received += data

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self._transport.write(data)

    def close(self) -> None:
        """Close both directions."""
        self._transport.close()
