"""The world in one process: the simulated network, on virtual time, with decisions of its own.

The server listens and dials as it would on sockets. When what is sent is seen to arrive, in which
order, and in how many pieces is free, as on any network: each step of a sequence says how it goes
while that step runs (``^HEX``), and what it leaves unsaid takes the plain course.
"""

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
"""Where the server listens."""
_HOSTS = {f"{name}.dest": f"10.0.1.{n}" for n, name in enumerate((*DESTINATIONS, "refuse"), 1)}
_SETTINGS = Settings(network=Network(hosts=_HOSTS), step_limit=5_000)
_LIMITS_IN_TURN = LIMITS.max_streams
"""Bounds the wait for a server that has work every few seconds, for ever."""


class Dealt(Choices):
    """Decisions of the network that are dealt a few at a time; the rest takes the plain course."""

    _at = 0

    def deal(self, decisions: bytes) -> None:
        """Take these next, in place of what is left of those before."""
        self._dealt, self._at = decisions, 0

    def decide(self, kind: str, limit: int) -> int:
        """As `Choices`, and keeps no record: the sequence is one."""
        del kind
        if self._at >= len(self._dealt):
            return 0
        self._at += 1
        return self._dealt[self._at - 1] % limit


class SimTarget(Target):
    """The inbound and its destinations on a simulated network: exact, and fast."""

    loop: SimLoop

    def __init__(
        self,
        lifecycle: Lifecycle,
        limits: Limits = LIMITS,
        context: Context | None = None,
    ) -> None:
        self._choices = Dealt()
        super().__init__(SimLoop(self._choices, _SETTINGS), lifecycle, limits, context)
        self._accepted: list[Scope] = []
        self._hosted: dict[str, SimServer] = {}
        factory = self.ledger.scoped_factory(self._protocol, made=self._accepted.append)
        # What `Inbound.listen` comes to, without the task that would wait for it.
        self.loop.fabric.host([(HOST, PORT)], factory)

    @property
    def pending_timers(self) -> int:
        """Timers that are set and not cancelled."""
        return self.loop.pending_timers

    def connect(self) -> Peer:
        """Connect a raw peer, once the server has accepted it; nothing is sent.

        Raises:
            ConnectionRefusedError: if the server does not listen.
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

    def deal(self, decisions: bytes) -> None:
        """Let the network decide so from now on, as long as these last."""
        self._choices.deal(decisions)

    def turn(self, iterations: int) -> None:
        """Run so many iterations; the clock stands still."""
        self.loop.turn(iterations)

    def settle(self) -> None:
        """Run until nothing is ready and no limit can still expire: rest is a fact here."""
        # Again where a limit expired, which may start another one: streams stall one by one.
        for _ in range(_LIMITS_IN_TURN):
            before = self.loop.time()
            self.loop.run_until_quiescent(self.horizon)
            if self.loop.time() == before:
                return

    def rest(self, done: Callable[[], bool]) -> None:
        """The same: what has not happened by then never will."""
        del done
        self.settle()

    def wait(self) -> None:
        """Let the idle intervals pass."""
        self.loop.advance(IDLE_INTERVALS * self.inbound.limits.idle_seconds)

    def dispose(self) -> None:
        """End everything that is left and close the loop."""
        close_coroutines(self.loop.dispose())
        self.ledger.uninstall()
        self.failures.unretrieved()

    async def dial(self, address: Address, limits: Limits) -> Link:
        """Connect to a destination on the simulated network.

        Raises:
            OSError: if it refuses.
        """
        factory = DESTINATIONS.get(address.host.partition(".")[0])
        if factory is not None and address.host not in self._hosted:
            # In no connection's context: what serves there is charged to nobody.
            places = [(_HOSTS[address.host], address.port)]
            host, nobody = self.loop.fabric.host, contextvars.Context()
            self._hosted[address.host] = nobody.run(host, places, factory)
        return await dial_tcp(address, limits)

    async def resolve(self, address: Address) -> tuple[str, int]:
        """Return where a destination for datagrams is, which begins to listen.

        Raises:
            OSError: if the name is unknown.
        """
        place = await resolve_udp(address)
        factory = DATAGRAM_DESTINATIONS.get(address.host.partition(".")[0])
        fabric = self.loop.fabric
        if factory is not None and not fabric.bound(place):
            endpoint = contextvars.Context().run(SimDatagrams, fabric, factory(), place, None)
            fabric.bind(endpoint, place)
        return place
