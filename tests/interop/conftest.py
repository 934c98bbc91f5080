"""Fixtures of the interop tests: real proxies, our server and client, destinations."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
import pytest_asyncio

from muxleak import Ledger, settle
from muxleak_scenarios.cli.serve import USER
from muxleak_vless import Client, Inbound, Limits, Outbound, User
from muxleak_vless.versions import VERSIONS
from proxies import Proxies, Proxy
from servers import Datagrams, Destination, refusing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
    from pathlib import Path

    from servers import Endpoint, Serve

LIMITS = Limits(close_seconds=1.0)
PATIENCE = 10.0
"""Seconds to wait for an event that must come; an event that came already is not waited for."""
KEY = pytest.StashKey[Proxies]()


class Served:
    """An inbound of ours, with a ledger of its connections."""

    def __init__(self, version: str, address: Endpoint) -> None:
        self.ledger = Ledger()
        self.address = address
        self.inbound = Inbound(
            [User(UUID(USER))],
            Outbound(limits=LIMITS),
            lifecycle=VERSIONS[version](),
            limits=LIMITS,
        )

    async def listen(self) -> None:
        """Listen, on a free port if none is given."""
        factory = self.ledger.scoped_factory(self.inbound.protocol)
        self.address = await self.inbound.listen(*self.address, factory=factory)

    @property
    def tasks(self) -> list[str]:
        """Return the names of the tasks of all connections."""
        records = [each for scope in self.ledger.scopes for each in self.ledger.live(scope)]
        return sorted(str(getattr(each.task.get_coro(), "__qualname__", "?")) for each in records)

    async def gone(self, left: int = 0) -> bool:
        """Wait until all connections have ended, and all but so many of their tasks."""

        def done() -> bool:
            return not self.inbound.connections and len(self.tasks) == left

        return await settle(limit=PATIENCE, until=done)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the output of the programs to the report of a failure."""
    report = yield
    if report.failed:
        for stash in (item.stash, item.session.stash):
            if KEY in stash:
                report.sections += [(each.title, each.log) for each in stash[KEY].proxies]
    return report


@pytest.fixture
def proxies(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Proxies]:
    """Yield the starter of programs for one test."""
    with Proxies(tmp_path) as proxies:
        request.node.stash[KEY] = proxies
        yield proxies


@pytest.fixture(scope="session")
def servers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Proxy]]:
    """Yield a function that returns the server of a name, started once."""
    with Proxies(tmp_path_factory.mktemp("servers")) as proxies:
        request.session.stash[KEY] = proxies
        yield functools.cache(proxies.server)


@pytest.fixture(params=["v2ray", "sing-box"])
def server(request: pytest.FixtureRequest, servers: Callable[[str], Proxy]) -> Proxy:
    """Return each program as a server."""
    return servers(request.param)


@pytest_asyncio.fixture
async def serve() -> AsyncIterator[Callable[..., Awaitable[Served]]]:
    """Yield a function that starts an inbound; the reference must have no task left at the end."""
    started: list[tuple[str, Served]] = []

    async def start(version: str = "REF", address: Endpoint = ("127.0.0.1", 0)) -> Served:
        served = Served(version, address)
        served.ledger.install(asyncio.get_running_loop())
        started.append((version, served))
        await served.listen()
        return served

    yield start
    for version, served in started:
        stuck = await served.inbound.shutdown()
        if version == "REF":
            assert stuck == []
            assert await served.gone(), served.tasks
            assert served.inbound.active == 0
            assert served.ledger.errors == []
        served.ledger.uninstall()


@pytest_asyncio.fixture
async def destination() -> AsyncIterator[Callable[..., Awaitable[tuple[Destination, Endpoint]]]]:
    """Yield a function that starts a destination and returns it with its address."""
    started: list[Destination] = []

    async def start(serve: Serve, host: str = "127.0.0.1") -> tuple[Destination, Endpoint]:
        found = Destination(serve)
        try:
            address = await found.listen(host)
        except OSError:
            if ":" not in host:
                raise
            pytest.skip("no IPv6 on this machine")
        started.append(found)
        return found, address

    yield start
    for each in started:
        await each.close()


@pytest_asyncio.fixture
async def datagrams() -> AsyncIterator[list[Endpoint]]:
    """Yield two addresses that return datagrams."""
    loop, started, addresses = asyncio.get_running_loop(), [], []
    for _ in range(2):
        transport, _ = await loop.create_datagram_endpoint(Datagrams, ("127.0.0.1", 0))
        started.append(transport)
        addresses.append(transport.get_extra_info("sockname"))
    yield addresses
    for each in started:
        each.close()


@pytest.fixture
def refused() -> Iterator[Endpoint]:
    """Return an address that nobody listens on."""
    with refusing() as address:
        yield address


@pytest_asyncio.fixture
async def connect() -> AsyncIterator[Callable[..., Awaitable[Client]]]:
    """Yield a function that connects a client of ours to a program."""
    clients: list[Client] = []

    async def connect(server: Proxy, *words: Any, **more: Any) -> Client:
        clients.append(await Client.connect(server.address, UUID(USER), *words, **more))
        return clients[-1]

    yield connect
    for each in clients:
        await each.close()
