"""The target on a simulated network and virtual time."""

# The server listens and dials as it would on sockets. A network is free to choose when bytes
# arrive, in which order, and in how many pieces. Here each step of a sequence makes those choices
# for the time until the next step (``^HEX`` in the notation); a choice that it does not make is 0,
# the plain course: at once, in order, whole. So the network is part of the data, and shrinks with
# it.
#
# A run keeps no record of the choices, because the sequence is the record. Destinations begin to
# listen when they are first dialled, and the inbound listens without a task: a sequence pays only
# for what it uses.

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING

from muxleak.checks.teardown import close_coroutines
from muxleak.sim import Choices, Network, Settings
from muxleak.sim.loop import SimLoop
from muxleak.sim.udp import SimDatagrams
from muxleak_scenarios.sequence.destinations import DATAGRAM_DESTINATIONS, DESTINATIONS
from muxleak_scenarios.sequence.limits import LIMITS
from muxleak_scenarios.sequence.peers import StreamPeer
from muxleak_scenarios.targets.target import IDLE_INTERVALS, Target
from muxleak_vless.outbound import dial_tcp, resolve_udp

if TYPE_CHECKING:
    from collections.abc import Callable

    from muxleak import Scope
    from muxleak.sim.tcp import SimServer
    from muxleak_scenarios.sequence.peers import Peer
    from muxleak_vless import Address, Context, Lifecycle, Limits
    from muxleak_vless.link import Link

HOST, PORT = "10.0.0.1", 443
"""The address of the server."""
_HOSTS = {f"{name}.dest": f"10.0.1.{n}" for n, name in enumerate((*DESTINATIONS, "refuse"), 1)}
# The runner counts all else itself, so no creation sites of it need be noted.
_SETTINGS = Settings(network=Network(hosts=_HOSTS), step_limit=5_000, kinds=("task",))
_LIMITS_IN_TURN = LIMITS.max_streams
"""How often `settle` lets limits expire. Streams may stall one after the other, so once is too few;
a handler that acts every few seconds, for ever, must not hold up the run."""


class StepDecisions(Choices):
    """The network's decisions for one step; when they are used up, the plain course."""

    _decisions = b""
    _next = 0

    def use(self, decisions: bytes) -> None:
        """Replace the decisions, used up or not."""
        self._decisions, self._next = decisions, 0

    def decide(self, kind: str, limit: int) -> int:
        """Return the next decision, below ``limit``, without recording it."""
        del kind
        if self._next >= len(self._decisions):
            return 0
        self._next += 1
        return self._decisions[self._next - 1] % limit


class SimTarget(Target):
    """The inbound and its destinations on a simulated network."""

    loop: SimLoop

    def __init__(
        self,
        lifecycle: Lifecycle,
        limits: Limits = LIMITS,
        context: Context | None = None,
    ) -> None:
        self._choices = StepDecisions()
        super().__init__(SimLoop(self._choices, _SETTINGS), lifecycle, limits, context)
        self._accepted: list[Scope] = []
        self._hosted: dict[str, SimServer] = {}
        factory = self.ledger.scoped_factory(self._protocol, made=self._accepted.append)
        # The effect of `Inbound.listen`, without the task that would await it.
        self.loop.fabric.host([(HOST, PORT)], factory)

    @property
    def pending_timers(self) -> int:
        """Timers that are set and not cancelled."""
        return self.loop.pending_timers

    def connect(self) -> Peer:
        """Connect a raw peer, once the server has accepted it; nothing is sent.

        Raises:
            ConnectionRefusedError: the server does not listen.
        """
        transport = self.loop.fabric.dial((HOST, PORT))
        if transport is None:
            raise ConnectionRefusedError(f"nothing listens at {HOST}:{PORT}")
        while not self._accepted:
            self.loop.turn()
        peer = StreamPeer(self._accepted.pop())
        transport.begin("client", peer)
        self.loop.turn()
        return peer

    def use_decisions(self, decisions: bytes) -> None:
        """Set the network's decisions from now on; after the last it takes the plain course."""
        self._choices.use(decisions)

    def turn(self, iterations: int) -> None:
        """Run a number of iterations; the clock stands still."""
        self.loop.turn(iterations)

    def settle(self) -> None:
        """Run until nothing is ready and no limit within the horizon can expire."""
        # Once more after a limit has expired, because that may start another one.
        for _ in range(_LIMITS_IN_TURN):
            before = self.loop.time()
            self.loop.run_until_quiescent(self.horizon)
            if self.loop.time() == before:
                return

    def settle_until(self, done: Callable[[], bool]) -> None:
        """Settle: anything that has not happened by then never will."""
        del done
        self.settle()

    def wait(self) -> None:
        """Let the idle intervals pass, in virtual time."""
        self.loop.advance(IDLE_INTERVALS * self.inbound.limits.idle_seconds)

    def dispose(self) -> None:
        """End everything and close the loop."""
        close_coroutines(self.loop.dispose())
        self.ledger.uninstall()
        self.exceptions.unretrieved()

    async def dial(self, address: Address, limits: Limits) -> Link:
        """Connect to a destination on the simulated network.

        Raises:
            OSError: it refuses.
        """
        factory = DESTINATIONS.get(address.host.partition(".")[0])
        if factory is not None and address.host not in self._hosted:
            # In an empty context, so that nothing of the destination counts for a connection.
            addresses = [(_HOSTS[address.host], address.port)]
            host = self.loop.fabric.host
            self._hosted[address.host] = contextvars.Context().run(host, addresses, factory)
        return await dial_tcp(address, limits)

    async def resolve(self, address: Address) -> tuple[str, int]:
        """Return the address of a destination for datagrams, and bind it there.

        Raises:
            OSError: the name is unknown.
        """
        found = await resolve_udp(address)
        factory = DATAGRAM_DESTINATIONS.get(address.host.partition(".")[0])
        fabric = self.loop.fabric
        if factory is not None and not fabric.bound(found):
            endpoint = contextvars.Context().run(SimDatagrams, fabric, factory(), found, None)
            fabric.bind(endpoint, found)
        return found
