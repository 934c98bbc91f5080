"""The target that a sequence runs at: one server, any number of raw peers, and the loop they use.

`SimTarget` hosts the inbound on a simulated network, `TcpTarget` on loopback TCP.
"""

# A target is driven from outside: no peer, destination or driver has a task on the server's loop.
# So a step can be followed by an exact number of iterations (`turn`), and the ledger counts nothing
# but the server.
#
# Each connection has a scope, a context variable that is set where the connection begins and is
# inherited by everything it starts. `sessions` and `_links` are keyed by it, as the counts of the
# ledger are, which makes every check exact while other connections are open. Whatever has no scope
# belongs to the server itself, and may stay only within `allowance`.
#
# Ways to let time pass, from short to long:
#
#   turn(n)              n iterations; the clock of a simulated loop stands still
#   settle()             until nothing is ready and no limit is about to expire
#   settle_until(done)   the same; where settling is inferred, until ``done()`` or out of patience
#   wait()               until every idle connection must have been ended
#
# `horizon` separates limits: `settle` lets a timer within it expire, so that a close limit or a
# stalled write has its effect before the check; timers beyond it (idleness, the header) stay.

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from muxleak import Ledger
from muxleak.ledger.counters import CURRENT
from muxleak_scenarios.sequence.handlers import Switchboard
from muxleak_scenarios.targets.unretrieved import UnretrievedExceptions
from muxleak_vless import Context, Inbound, Limits, User

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from muxleak import Scope
    from muxleak_scenarios.sequence.peers import Peer
    from muxleak_vless import Address, Lifecycle, MuxSession
    from muxleak_vless.link import Link
    from muxleak_vless.outbound import Dial
    from muxleak_vless.stream import Handler

USER = UUID("00112233-4455-6677-8899-aabbccddeeff")
IDLE_INTERVALS = 4
"""Idle intervals in `Target.wait`. Two without a byte end a connection at the latest. That of an
outbound may end first and send an End to the peer, so that the peer's two begin anew."""


class Allowance(NamedTuple):
    """The most that a server may keep when all connections are closed, however many there were.

    It covers only objects that the server started in a context of its own
    (``contextvars.Context()``). Any other object counts for the connection in whose context it was
    started, and is a leak of that connection.
    """

    tasks: int = 0
    transports: int = 0
    timers: int = 0


class Target(ABC):
    """A server under test, with the peers and destinations around it.

    Attributes:
        allowance: the most that the server keeps on purpose.
        horizon: how far ahead timers expire while the target settles, in seconds: longer than any
            limit that ends something, shorter than the limits that end an idle connection.
        exact: True if a limit expires only because of the sequence, never because the machine was
            busy.
        unobservable: properties whose violation this target cannot see.
        loop: the server's loop.
        exceptions: the exceptions of the loop's tasks that nobody retrieved.
        ledger: counts the loop's tasks by connection.
        context: the server's context; `cancel` ends it.
        sessions: the session of each connection, by its scope.
        ending: True once `cancel` was called.
        inbound: the server.
    """

    allowance = Allowance()
    horizon = 5.0
    exact = True
    unobservable: frozenset[str] = frozenset()

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        lifecycle: Lifecycle,
        limits: Limits,
        context: Context | None = None,
    ) -> None:
        self.loop = loop
        # Before the ledger, which counts the tasks that the task factory in place makes.
        self.exceptions = UnretrievedExceptions(loop)
        # As Go holds goroutines: a collection would destroy tasks that buggy variants leave.
        self.ledger = Ledger(hold=True)
        self.ledger.install(loop)
        self.context = context or Context.background().child("server")
        self.sessions: dict[Scope, MuxSession] = {}
        self.ending = False
        self._links: dict[Scope | None, list[Link]] = {}
        self.inbound = Inbound(
            [User(USER, "scenario")],
            self.handler(self._recorded_dial, limits),
            context=self.context,
            lifecycle=lifecycle,
            limits=limits,
            on_session=self._session_started,
        )

    def handler(self, dial: Dial, limits: Limits) -> Handler:
        """Return the handler of the server's streams."""
        return Switchboard(dial, limits, self.resolve)

    @abstractmethod
    def connect(self) -> Peer:
        """Connect a raw peer and send nothing."""

    def use_decisions(self, decisions: bytes) -> None:
        """Set the decisions of a simulated network from now on; a real network ignores them."""
        del decisions

    @abstractmethod
    def turn(self, iterations: int) -> None:
        """Run a number of iterations of the server's loop."""

    @abstractmethod
    def settle(self) -> None:
        """Run until nothing is ready and no limit is about to expire."""

    @abstractmethod
    def settle_until(self, done: Callable[[], bool]) -> None:
        """Settle; where that is inferred, wait until ``done()`` is true or patience runs out."""

    @abstractmethod
    def dispose(self) -> None:
        """End everything, leaks included, and close the loop. This cannot hang."""

    @abstractmethod
    async def dial(self, address: Address, limits: Limits) -> Link:
        """Connect the server's outbound to one of the hosted destinations."""

    @abstractmethod
    async def resolve(self, address: Address) -> tuple[str, int]:
        """Return the address of a hosted destination that speaks UDP."""

    @property
    def pending_timers(self) -> int:
        """Number of pending timers; 0 if the loop does not show them."""
        return 0

    @abstractmethod
    def wait(self) -> None:
        """Let `IDLE_INTERVALS` pass; the server must have ended every connection by then."""

    def cancel(self) -> None:
        """End the server's context, if that is possible, in the next iteration of the loop."""
        if self.context.cancellable:
            self.ending = True
            self.loop.call_soon(self.context.cancel)

    def restart(self) -> None:
        """Give the server a new context, as a reload within the process does."""
        self.ending = False
        self.context = self.inbound.context = Context.background().child("server")

    def is_idle(self) -> bool:
        """Return True if no connection has a live task."""
        return not self.ledger.scopes

    def open_links(self, scope: Scope | None) -> int:
        """Return the number of open links, in and out, of a connection; of the server for None."""
        return sum(link.transport is not None for link in self._links.get(scope, ()))

    def has_paused_link(self, scope: Scope) -> bool:
        """Return True if a sender of one of a connection's links waits for its peer."""
        for link in self._links.get(scope, ()):  # noqa: SIM110 - a generator costs more
            if link.paused:
                return True
        return False

    def _session_started(self, session: MuxSession) -> None:
        scope = CURRENT.get()
        if scope is not None:
            self.sessions[scope] = session

    def _protocol(self) -> Link:
        link = self.inbound.protocol()
        self._record(link)
        return link

    async def _recorded_dial(self, address: Address, limits: Limits) -> Link:
        # The destination `@hang`: a dial that never ends, whatever the network.
        if address.host == "hang.dest":
            await self.loop.create_future()
        link = await self.dial(address, limits)
        self._record(link)
        return link

    def _record(self, link: Link) -> None:
        self._links.setdefault(CURRENT.get(), []).append(link)
