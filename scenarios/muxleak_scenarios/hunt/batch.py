"""Many copies of a sequence at once, in step with each other, on connections of their own."""

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
"""At most, for the server to come to rest between two steps."""
_BURST_SECONDS = 0.1
"""How far ahead of its bandwidth a hunt may be."""
REACH_SECONDS = 5.0
"""How long a server may take to dial a destination."""
_POLL = 0.01
_REACHING = Sequence.parse("a:open~0 a:new:1:@echo+5 a:close~0")
_OPENING = {"open", "connect", "bad"}


class UnreachableError(Exception):
    """The server under test does not take connections."""


class Spending:
    """What a hunt has spent and may spend: connections, and bytes a second.

    ``stopped`` is asked before every step; it raises to end the hunt.
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
        """Count bytes as sent; return the seconds to wait before the next, to stay in the limit."""
        self.sent += sent
        now = self._clock()
        self._free_at = max(self._free_at, now) + sent / self._bandwidth
        return self._free_at - now


class Driver:
    """Sends batches to one server."""

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
        """Counts everything that comes to a client or a destination."""
        return self._arrivals + self._destinations.traffic

    async def run(
        self, sequence: Sequence, copies: int, settle: Callable[[], Awaitable[object]]
    ) -> None:
        """Perform the steps in every copy, and close what is open then.

        ``settle`` waits until the server is at rest.

        Raises:
            UnreachableError: if the server takes no connection.
        """
        open_: list[dict[str, HuntPeer]] = [{} for _ in range(copies)]
        try:
            for step in sequence:
                self.spending.check()
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
            # The transports close in the next iteration.
            await asyncio.sleep(0)

    async def reaches(self) -> bool:
        """Whether the server dials a destination hosted here for a stream of our user.

        Raises:
            UnreachableError: if the server takes no connection.
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
