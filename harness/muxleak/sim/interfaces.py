"""The interfaces by which the loop, the network and the transports of a simulation meet."""

# The loop owns the network, the network makes the transports, and each of them calls back to its
# owner. These protocols list every such call. So imports run one way only (addresses, transports,
# network, calls, loop), and each part can be read, and tested, without its owner.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from contextvars import Context

    from muxleak.introspect.waiting import AnyTask
    from muxleak.ledger.counters import Scope
    from muxleak.ledger.ledger import Ledger
    from muxleak.sim.choices import Choices
    from muxleak.sim.settings import Network
    from muxleak.sim.sockets import Address, Names
    from muxleak.sim.time_limits import TimeLimits


class Scheduler(Protocol):
    """The part of an asyncio event loop that a transport in memory needs; any loop has it."""

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Run a callback in the next iteration."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Report an exception that no caller can receive."""


class RunningSimulation(Protocol):
    """The part of a `Simulation` that the loop and the network need.

    Attributes:
        ledger: counts the tasks and gives each accepted connection its scope.
        has_check: True if a check runs after every close of a connection.
        limits: measures the closes of connections.
    """

    ledger: Ledger
    has_check: bool
    limits: TimeLimits

    def drawn(self, text: str) -> None:
        """Report a fault or a cancellation that was drawn, as findings print it."""

    def closed(self) -> None:
        """Run the check that must hold after every close of a connection."""


class SimulatedLoop(Scheduler, Protocol):
    """The part of the simulated loop that the network, its transports and the leak scan need.

    Attributes:
        must_check: True if the next iteration must look beyond the ready queue and the timers.
    """

    must_check: bool

    @property
    def choices(self) -> Choices:
        """Decide what is free."""

    @property
    def simulation(self) -> RunningSimulation | None:
        """The simulation that runs; None once the loop is closed."""

    @property
    def pending_timers(self) -> int:
        """The number of timers that are set and not cancelled."""

    def time(self) -> float:
        """Return the virtual time in seconds."""

    def call_later(
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Run a callback after so many virtual seconds."""

    def create_future(self) -> asyncio.Future[Any]:
        """Return a new future of this loop."""

    def set_timers(self) -> list[asyncio.TimerHandle]:
        """Return the handles of the timers that are set, in no order."""

    def live_tasks(self) -> list[AnyTask]:
        """Return the tasks that have not ended, in creation order."""

    def note(self, kind: str, text: str) -> None:
        """Add an event to the trace."""


class Carrier(Protocol):
    """The part of the network that its servers, connections and datagram endpoints need.

    Attributes:
        loop: the simulation's loop.
        settings: what is declared.
        earlier: True if connections end as in earlier versions.
        traced: True if `note` has an effect, so that its text is worth making.
        notes_sites: True if the creation sites of connections and servers may be asked for.
        open: every open transport, with its side: "client", "server", "datagrams", "forgotten".
        dropped: stands for each connection that a finalizer of the program has closed.
        servers: every listening server, by each of its addresses.
        closed: True if a connection has closed at both ends since the loop was last quiescent.
        accepted: the server's end of each accepted connection, with its scope, if there is a check.
    """

    loop: SimulatedLoop
    settings: Network
    earlier: bool
    traced: bool
    notes_sites: bool
    open: dict[Any, str]
    dropped: list[Any]
    servers: dict[Address, Any]
    closed: bool
    accepted: list[tuple[Any, Scope]]

    @property
    def names(self) -> Names:
        """Resolves the names of hosts."""

    def note(self, kind: str, text: str) -> None:
        """Add an event to the trace."""

    def drawn(self, text: str) -> None:
        """Report a fault or another drawn course among the steps of the program."""

    def arrive(
        self, callback: Callable[[], object], context: Context | None, transport: Any = None
    ) -> None:
        """Run `callback` when the thing that has been sent arrives."""

    def decide(self, kind: str, limit: int) -> int:
        """Return a decision of the environment, see `Choices.decide`."""

    def unlisten(self, addresses: list[Address], server: Any) -> None:
        """Take a server's addresses from it."""

    def send(self, sender: Any, source: Address, target: Address, data: bytes) -> None:
        """Carry a datagram, or lose it."""

    def unbind(self, address: Address) -> None:
        """Take a UDP address back."""
