"""Where sequences run: the same inbound on a simulated network, or on loopback TCP.

A world has one server and any number of raw peers. Every world is driven from outside, on a loop of
its own, so that a step can be followed by an exact number of loop iterations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from muxleak import Ledger
from muxleak.ledger.counters import CURRENT
from muxleak_scenarios.sequence.handlers import Switchboard
from muxleak_scenarios.targets.unretrieved import Failures
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
"""Two at most without a byte end a connection; before, they may end its outbound's, and tell it."""


class Stock(NamedTuple):
    """What a server may keep when all its connections are closed, however many there were.

    Only what it started in a context of its own (``contextvars.Context()``) can be of it: all else
    is charged to the connection in whose context it was started, and is a leak of that.
    """

    tasks: int = 0
    transports: int = 0
    timers: int = 0


class Target(ABC):
    """A server under test.

    ``horizon`` is how far ahead timers are let run when the world comes to rest, in seconds: longer
    than any limit that ends something, shorter than those that end the idle. ``exact`` says that a
    limit expires for what the sequence did only, never for a machine that was busy. ``blind`` are
    the properties that cannot be seen not to hold. ``stock`` is what the server says it keeps.
    """

    stock = Stock()
    horizon = 5.0
    exact = True
    blind: frozenset[str] = frozenset()

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        lifecycle: Lifecycle,
        limits: Limits,
        context: Context | None = None,
    ) -> None:
        self.loop = loop
        self.failures = Failures(loop)
        self.ledger = Ledger()
        self.ledger.install(loop)
        self.context = context or Context.background().child("server")
        self.sessions: dict[Scope, MuxSession] = {}
        self.ending = False
        """Whether the server's context has been told to end."""
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
        """Make what serves the server's streams."""
        return Switchboard(dial, limits, self.resolve)

    @abstractmethod
    def connect(self) -> Peer:
        """Connect a raw peer; nothing is sent."""

    def deal(self, decisions: bytes) -> None:
        """Let the network decide so from now on, where it is simulated; others decide alone."""
        del decisions

    @abstractmethod
    def turn(self, iterations: int) -> None:
        """Run so many iterations of the server's loop."""

    @abstractmethod
    def settle(self) -> None:
        """Run until nothing is ready and no limit is about to expire."""

    @abstractmethod
    def rest(self, done: Callable[[], bool]) -> None:
        """Let the server come to rest; ``done`` says that what is expected has happened."""

    @abstractmethod
    def dispose(self) -> None:
        """End everything that is left, leaks too, and close the loop; cannot hang."""

    @abstractmethod
    async def dial(self, address: Address, limits: Limits) -> Link:
        """Connect the server's outbound to one of the hosted destinations."""

    @abstractmethod
    async def resolve(self, address: Address) -> tuple[str, int]:
        """Return where the server's outbound finds one of them that speaks UDP."""

    @property
    def pending_timers(self) -> int:
        """Timers that are set, where the world can tell; else 0."""
        return 0

    @abstractmethod
    def wait(self) -> None:
        """Let `IDLE_INTERVALS` pass, after which the server must have ended every connection."""

    def cancel(self) -> None:
        """End the server's context, if it can be, as an event of the loop like any arrival."""
        if self.context.cancellable:
            self.ending = True
            self.loop.call_soon(self.context.cancel)

    def restart(self) -> None:
        """Give the server a new context, as a reload in the same process does."""
        self.ending = False
        self.context = self.inbound.context = Context.background().child("server")

    def idle(self) -> bool:
        """Whether no connection has a task left."""
        return not self.ledger.scopes

    def open_links(self, scope: Scope | None) -> int:
        """How many connections, in or out, a connection (None: nobody) still holds open."""
        return sum(link.transport is not None for link in self._links.get(scope, ()))

    def paused_links(self, scope: Scope) -> int:
        """How many of a connection's links, in or out, have a sender that waits for its peer."""
        return sum(link.paused for link in self._links.get(scope, ()))

    def _session_started(self, session: MuxSession) -> None:
        scope = CURRENT.get()
        if scope is not None:
            self.sessions[scope] = session

    def _protocol(self) -> Link:
        link = self.inbound.protocol()
        self._record(link)
        return link

    async def _recorded_dial(self, address: Address, limits: Limits) -> Link:
        if address.host == "hang.dest":
            await self.loop.create_future()
        link = await self.dial(address, limits)
        self._record(link)
        return link

    def _record(self, link: Link) -> None:
        self._links.setdefault(CURRENT.get(), []).append(link)
