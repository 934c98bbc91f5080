"""Repeats a sequence: many copies at once, in step with each other, on connections of their own."""

# The copies go in step: each performs one step, then the driver waits, then each performs the next.
# One after the other they would take a wait for each step of each copy.
#
# Between two steps the driver waits until the server is quiescent, so that a sequence means the
# same at a slow and at a fast server. A step with a gap (``~N``) waits N iterations of the client's
# own loop instead: with ``~0`` the next step leaves at once, and so races are found.
#
# The server's answers are discarded, and no step waits for one: the server may be any program, and
# a client that insisted on answers would not get past its first wrong one. Their arrival counts as
# traffic, from which the meter sees that the server is still at work.

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from muxleak_scenarios.hunt.counters import why
from muxleak_scenarios.hunt.peers import HuntPeer
from muxleak_scenarios.sequence.steps import OPERATOR, Sequence

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from uuid import UUID

    from muxleak_scenarios.hunt.destinations import Destinations
    from muxleak_scenarios.sequence.steps import Step

CONNECT_SECONDS = 2.0
SETTLE_SECONDS = 0.5
"""Longest wait for the server to settle between two steps."""
_BURST_SECONDS = 0.1
"""Seconds by which a hunt may be ahead of its bandwidth."""
REACH_SECONDS = 5.0
"""Longest time in which a server may dial a destination."""
_POLL = 0.01
_REACHING = Sequence.parse("a:open~0 a:new:1:@echo+5 a:close~0")
_OPENING = {"open", "connect", "bad"}


class UnreachableError(Exception):
    """The server under test does not accept connections."""


class Spending:
    """Connections and bytes that a hunt has spent, and its bandwidth.

    Args:
        bandwidth: bytes a second to the server, at most.
        stopped: called before every step and in every wait; raises to end the hunt.
        clock: returns seconds.
    """

    def __init__(
        self,
        bandwidth: float,
        stopped: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.connections = 0
        self.sent = 0
        self.check = stopped
        self._bandwidth = bandwidth
        self._clock = clock
        self._free_at = clock()

    def delay(self, sent: int) -> float:
        """Count bytes as sent; return the seconds to wait before more, to keep the bandwidth."""
        self.sent += sent
        now = self._clock()
        # Unused bandwidth is not saved up: a pause must not be followed by a flood.
        self._free_at = max(self._free_at, now) + sent / self._bandwidth
        return self._free_at - now


class Driver:
    """Sends batches to one server.

    Args:
        address: host and port of the server under test.
        user: the id that its clients use.
        destinations: the listeners that its streams name.
        spending: counts connections and bytes.
    """

    def __init__(
        self,
        address: tuple[str, int],
        user: UUID,
        destinations: Destinations,
        spending: Spending,
    ) -> None:
        self._address = address
        self._user = user
        self._destinations = destinations
        self.spending = spending
        self._arrivals = 0

    @property
    def traffic(self) -> int:
        """Number of events so far at all clients and destinations."""
        return self._arrivals + self._destinations.traffic

    async def run(
        self, sequence: Sequence, copies: int, settle: Callable[[], Awaitable[object]]
    ) -> None:
        """Perform the steps in every copy, then close the connections that are still open.

        Args:
            sequence: the steps.
            copies: number of copies.
            settle: waits until the server is quiescent.

        Raises:
            UnreachableError: the server accepts no connection.
        """
        open_: list[dict[str, HuntPeer]] = [{} for _ in range(copies)]
        try:
            for step in sequence:
                self.spending.check()
                # Steps of the operator, such as a shutdown, are not in the power of a client.
                if step.verb in OPERATOR:
                    continue
                sent = 0
                for peers in open_:
                    sent += await self._perform(peers, step)
                await self._spend(sent)
                if step.gap is None:
                    await settle()
                for _ in range(step.gap or 0):
                    await asyncio.sleep(0)
        finally:
            for peers in open_:
                for peer in peers.values():
                    peer.close()
            # Transports close in the next iteration of the loop.
            await asyncio.sleep(0)

    async def reaches(self) -> bool:
        """Return True if the server dials a destination of ours for a stream of our user.

        A hunt of a server that does not would find nothing, and mean nothing.

        Raises:
            UnreachableError: the server accepts no connection.
        """
        begun = self._destinations.traffic

        async def dialled() -> None:
            while self._destinations.traffic == begun:
                self.spending.check()
                await asyncio.sleep(_POLL)

        try:
            async with asyncio.timeout(REACH_SECONDS):
                await self.run(_REACHING, 1, dialled)
        except TimeoutError:
            return False
        return True

    async def _spend(self, sent: int) -> None:
        delay = self.spending.delay(sent)
        while delay > _BURST_SECONDS:
            self.spending.check()
            await asyncio.sleep(min(delay, _BURST_SECONDS))
            delay = self.spending.delay(0)

    async def _perform(self, peers: dict[str, HuntPeer], step: Step) -> int:
        name = step.connection
        if step.verb in _OPENING:
            # A letter names one connection at a time, so opening it again closes the one before.
            if name in peers:
                peers.pop(name).close()
            peers[name] = await self._connect()
        peer = peers.get(name)
        return 0 if peer is None else peer.perform(step, self._destinations.address)

    async def _connect(self) -> HuntPeer:
        loop = asyncio.get_running_loop()
        self.spending.connections += 1
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, peer = await loop.create_connection(
                    lambda: HuntPeer(self._user, self._arrived), *self._address
                )
        except (OSError, TimeoutError) as error:
            slow = isinstance(error, TimeoutError)
            reason = f"no answer within {CONNECT_SECONDS:g} s" if slow else why(error)
            raise UnreachableError(f"{self._address[0]}:{self._address[1]}: {reason}") from None
        return peer

    def _arrived(self) -> None:
        self._arrivals += 1
