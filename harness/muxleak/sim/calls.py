"""The loop's methods that open sockets and resolve names, over the simulated network.

Arguments are asyncio's. A call that the simulation cannot serve is refused by name; an argument
without meaning here (a backlog, the reuse of an address) is accepted and ignored.
"""

from __future__ import annotations

import asyncio
import errno
import inspect
import socket
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from muxleak.sim.errors import refusal
from muxleak.sim.sockets import error, loopback
from muxleak.sim.tcp import SimServer
from muxleak.sim.udp import SimDatagrams

if TYPE_CHECKING:
    from collections.abc import Callable

    from muxleak.sim.interfaces import SimulatedLoop
    from muxleak.sim.network import Fabric
    from muxleak.sim.sockets import Address

_REFUSED = {"ssl": "TLS needs a real loop", "sock": "there are no sockets here"}


class NetworkCalls:
    """A mixin for a loop that has a `fabric`."""

    fabric: Fabric

    @property
    def _allow(self) -> tuple[str, ...]:
        """The calls that may leave the simulation, see `Settings.allow`."""
        raise NotImplementedError

    async def create_server(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: Any = None,
        port: Any = None,
        *,
        start_serving: bool = True,
        **settings: Any,
    ) -> SimServer:
        """Listen on simulated addresses; port 0 takes a free one.

        Raises:
            OSError: an address is in use.
            SimulationError: an argument would leave the simulation.
            TypeError: an argument is unknown.
        """
        _check("create_server", settings)
        hosts = [host] if host is None or isinstance(host, str) else list(host)
        free = self.fabric.port() if not port else 0
        addresses: list[Address] = []
        for each in hosts:
            number = self.fabric.names.info(each, port, socket.SOCK_STREAM, passive=True)[0][4][1]
            address = (self.fabric.names.resolve(each, passive=True), number or free)
            if address not in addresses:
                addresses.append(address)
        server = SimServer(self.fabric, addresses, protocol_factory)
        self.fabric.listen(server, addresses)
        if start_serving:
            await server.start_serving()
        return server

    async def create_connection(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: Any = None,
        port: Any = None,
        *,
        local_addr: Any = None,
        **settings: Any,
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """Connect to a simulated server.

        Raises:
            OSError: the connection is refused, or the name is not known.
            SimulationError: an argument would leave the simulation.
            TypeError: an argument is unknown.
        """
        _check("create_connection", settings)
        target = self.fabric.names.info(host, port, socket.SOCK_STREAM, passive=False)[0][4][:2]
        local = None
        if local_addr is not None:
            local = (self.fabric.names.resolve(local_addr[0]), local_addr[1] or self.fabric.port())
        # asyncio connects another way if a delay is given, whatever the number of addresses.
        staggered = settings.get("happy_eyeballs_delay") is not None
        return await self.fabric.connect(target, local, protocol_factory, staggered=staggered)

    async def create_datagram_endpoint(
        self,
        protocol_factory: Callable[[], asyncio.DatagramProtocol],
        local_addr: Any = None,
        remote_addr: Any = None,
        **settings: Any,
    ) -> tuple[SimDatagrams, asyncio.DatagramProtocol]:
        """Open a simulated UDP endpoint.

        Raises:
            OSError: the address is in use, or the name is not known.
            SimulationError: an argument would leave the simulation.
            TypeError: an argument is unknown.
            ValueError: no address and no family is given.
        """
        _check("create_datagram_endpoint", settings)
        if local_addr is None and remote_addr is None and not settings.get("family"):
            raise ValueError("unexpected address family")
        names, fabric = self.fabric.names, self.fabric
        local = ("0.0.0.0", 0)  # noqa: S104 - simulated
        if remote_addr:
            local = (loopback(names.resolve(remote_addr[0])), 0)
        if local_addr is not None:
            local = (names.resolve(local_addr[0], passive=True), local_addr[1])
        local = (local[0], local[1] or fabric.port())
        remote = (names.resolve(remote_addr[0]), remote_addr[1]) if remote_addr else None
        if fabric.bound(local):
            raise error(errno.EADDRINUSE)
        protocol = protocol_factory()
        endpoint = SimDatagrams(fabric, protocol, local, remote)
        fabric.bind(endpoint, local)
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            endpoint.close()
            raise
        return endpoint, protocol

    async def getaddrinfo(
        self,
        host: Any,
        port: Any,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002 - asyncio's name for it
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        """Resolve IP literals, "localhost" and declared names, at once.

        Raises:
            socket.gaierror: the name is not known, or has no address of that family.
        """
        del proto
        passive = bool(flags & socket.AI_PASSIVE)
        found = self.fabric.names.info(host, port, type, passive=passive)
        found = [each for each in found if family in {0, each[0]}]
        if not found:
            raise socket.gaierror(socket.EAI_ADDRFAMILY, f"no address of that family: {host!r}")
        return found

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> tuple[str, str]:
        """Return the address as it is: no name is looked up."""
        del flags
        return str(sockaddr[0]), str(sockaddr[1])

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        """Run `func` in the loop's own thread, in a later iteration, if that is allowed.

        Raises:
            SimulationError: `Settings.allow` does not name "executor".
        """
        del executor
        _allow(self._allow, "executor", "run_in_executor", "to run jobs in the loop's thread")
        loop = cast("SimulatedLoop", self)
        future = loop.create_future()
        loop.call_soon(_run_job, future, func, args)
        return future

    def add_signal_handler(self, sig: int, callback: Any, *args: Any) -> None:
        """Accept a handler that never fires, if that is allowed.

        Raises:
            SimulationError: `Settings.allow` does not name "signals".
        """
        del sig, callback, args
        _allow(self._allow, "signals", "add_signal_handler", "for handlers that never fire")

    def remove_signal_handler(self, sig: int) -> bool:
        """Remove a handler.

        Raises:
            SimulationError: `Settings.allow` does not name "signals".
        """
        del sig
        _allow(self._allow, "signals", "remove_signal_handler", "for handlers that never fire")
        return True


def _run_job(future: asyncio.Future[Any], func: Any, args: tuple[Any, ...]) -> None:
    if future.cancelled():
        return
    try:
        result = func(*args)
    except Exception as exc:  # noqa: BLE001 - the future's to tell
        future.set_exception(exc)
    else:
        future.set_result(result)


def _allow(allowed: tuple[str, ...], what: str, call: str, effect: str) -> None:
    if what not in allowed:
        raise refusal(f"{call} leaves the simulation; allow=({what!r},) {effect}")


@cache
def _parameters(call: str) -> frozenset[str]:
    """Return the parameters that a method has on the running Python."""
    return frozenset(inspect.signature(getattr(asyncio.BaseEventLoop, call)).parameters)


def _check(call: str, settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        if name in _REFUSED and value:
            raise refusal(f"{call}({name}=...) leaves the simulation: {_REFUSED[name]}")
        if name not in _parameters(call):
            raise TypeError(f"{call}() got an unexpected keyword argument {name!r}")
