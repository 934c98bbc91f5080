"""Tasks and the connections they belong to, which come before, after and beside them."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, cast

import pytest

from muxleak import Ledger, Monitor
from muxleak.ledger.counters import FEW, Scope
from muxleak.monitor import KINDS
from muxleak.monitor.site_counts import SiteCounts

if TYPE_CHECKING:
    from muxleak.ledger.counters import Resource


class Transport:
    """Of a connection, until it is closed."""

    kind: ClassVar[str] = "transport"

    def __init__(self) -> None:
        self.open = True

    def alive(self) -> bool:
        """Whether it is open."""
        return self.open

    def thing(self) -> object:
        """Nothing of it can be asked."""
        return None


class Service:
    """A service with a monitor, whose connections come and go as a test says."""

    def __init__(self, ledger: Ledger, monitor: Monitor) -> None:
        self.ledger, self.monitor = ledger, monitor
        self.tasks: list[asyncio.Task[object]] = []

    @property
    def site_counts(self) -> SiteCounts:
        """The counts of the monitor."""
        return self.monitor._counts

    def connected(self, scope: Scope) -> Transport:
        """Accept a connection whose tasks are those of a scope."""
        transport = Transport()
        self.site_counts.connected(scope, cast("Resource", transport))
        return transport

    def start(self, scope: Scope) -> None:
        """Make a task that never ends."""
        with scope:
            self.tasks.append(asyncio.create_task(asyncio.Event().wait()))

    def counts(self) -> list[tuple[int, int]]:
        """Take a sample; return the live tasks of each site, and those that are left."""
        self.monitor.sample()
        return [each[1:3] for each in self.monitor.sites()]


@contextmanager
def watched() -> Iterator[Service]:
    """Watch one on the running loop; nothing of it is left."""
    ledger = Ledger(KINDS)
    with (
        ledger.watching(asyncio.get_running_loop()),
        Monitor(ledger, interval=None) as monitor,
    ):
        service = Service(ledger, monitor)
        yield service
        for task in service.tasks:
            task.cancel()


@pytest.mark.asyncio
async def test_tasks_of_a_connection_are_left_when_it_has_ended() -> None:
    """Also those that were there before it was accepted, and those of scopes inside its own."""
    with watched() as service:
        scope = service.ledger.scope("connection")
        with scope:
            inner = service.ledger.scope("request")
        service.start(scope)
        assert service.counts() == [(1, 1)]

        transport = service.connected(scope)
        service.start(scope)
        service.start(inner)
        assert service.counts() == [(3, 0)]

        transport.open = False
        # It may end in the interval between two samples.
        assert service.counts() == [(3, 0)]
        assert service.counts() == [(3, 3)]


@pytest.mark.asyncio
async def test_scope_of_two_connections_is_open_until_both_have_ended() -> None:
    """As where one context accepts them all; each is counted."""
    with watched() as service:
        scope = service.ledger.scope("connections")
        one, other = service.connected(scope), service.connected(scope)
        service.start(scope)
        one.open = False
        for _ in range(3):
            assert service.counts() == [(1, 0)]
        assert (service.site_counts.accepted, service.site_counts.ended) == (2, 1)

        other.open = False
        assert [service.counts() for _ in range(2)] == [[(1, 0)], [(1, 1)]]
        assert (service.site_counts.accepted, service.site_counts.ended) == (2, 2)


@pytest.mark.asyncio
async def test_sites_with_most_tasks_left_come_first() -> None:
    """However many others have that belong to open connections."""
    with watched() as service:
        scope = service.ledger.scope("connection")
        service.connected(scope)
        for _ in range(3):
            service.start(scope)
        service.tasks.append(asyncio.create_task(asyncio.Event().wait()))

        assert service.counts() == [(1, 1), (3, 0)]


@pytest.mark.asyncio
async def test_connections_that_ended_are_forgotten_without_a_sample() -> None:
    """Without samples the number of connections that are kept stays bounded."""
    with watched() as service:
        for _ in range(4 * FEW):
            service.connected(service.ledger.scope("connection")).open = False
            assert len(service.site_counts._open) <= 2 * FEW
        assert service.counts() == []
        assert (service.site_counts.accepted, service.site_counts.ended) == (4 * FEW, 4 * FEW)
