"""Servers of the simulation, and how a connection reaches one."""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Self

from muxleak.introspect.sites import Points, trace
from muxleak.sim.sockets import SimSocket

if TYPE_CHECKING:
    from collections.abc import Callable

    from muxleak.sim.network import Fabric
    from muxleak.sim.sockets import Address
    from muxleak.sim.tcp import SimTransport


class SimServer(asyncio.AbstractServer):
    """A listening server; behaves as asyncio's does from 3.12.1 on, on every Python.

    Attributes:
        sockets: one for each address; empty once closed.
        points: where it was made.
    """

    def __init__(
        self, fabric: Fabric, addresses: list[Address], factory: Callable[[], asyncio.BaseProtocol]
    ) -> None:
        self.sockets: tuple[SimSocket, ...] = tuple(SimSocket(each) for each in addresses)
        self._fabric = fabric
        self._factory = factory
        self._context = copy_context()
        self._addresses = addresses
        self.points: Points = trace()
        self._serving = self._closed = False
        self._open: dict[SimTransport, None] = {}
        self._forever: asyncio.Future[None] | None = None
        self._waiters: list[asyncio.Future[None]] = []

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop."""
        return self._fabric.loop  # type: ignore[no-any-return]

    def is_serving(self) -> bool:
        """Whether it accepts connections."""
        return self._serving

    async def start_serving(self) -> None:
        """Accept connections from now on."""
        self.serve()
        await asyncio.sleep(0)

    def serve(self) -> None:
        """The same, without giving way."""
        self._serving = not self._closed

    async def serve_forever(self) -> None:
        """Accept connections until cancelled; then close."""
        if self._forever is not None or self._closed:
            state = "closed" if self._closed else "already being awaited on serve_forever()"
            raise RuntimeError(f"server {self!r} is {state}")
        self._serving = True
        self._forever = self.get_loop().create_future()
        try:
            await self._forever
        finally:
            self._forever = None
            self.close()
            await self.wait_closed()

    def close(self) -> None:
        """Stop listening; open connections stay."""
        if self._closed:
            return
        self._closed, self._serving, self.sockets = True, False, ()
        self._fabric.unlisten(self._addresses, self)
        if self._forever is not None and not self._forever.done():
            self._forever.cancel()
        self._wake_waiters()

    def close_clients(self) -> None:
        """Close the open connections."""
        for transport in list(self._open):
            transport.close()

    def abort_clients(self) -> None:
        """Reset the open connections."""
        for transport in list(self._open):
            transport.abort()

    async def wait_closed(self) -> None:
        """Wait until it is closed and its last connection too."""
        if self._closed and not self._open:
            return
        waiter: asyncio.Future[None] = self._fabric.loop.create_future()
        self._waiters.append(waiter)
        await waiter

    def accept(self, transport: SimTransport, context: Any) -> None:
        """Take a connection that has arrived: make its protocol, in its own context."""
        if self._closed:
            transport.fault("reset")
            return
        simulation = self._fabric.loop.simulation
        if simulation is not None:
            host, port = transport.get_extra_info("sockname")
            name = f"connection {transport.label[:-1]} to {host}:{port}"
            context.run(simulation.ledger.scope(name).enter)
        try:
            protocol = context.run(self._factory)
        except Exception as exc:  # noqa: BLE001 - as asyncio does
            transport.abort()
            self._fabric.loop.call_exception_handler(
                {"message": "Error on transport creation for incoming connection", "exception": exc}
            )
            return
        self._open[transport] = None
        transport.server, transport.points = self, self.points
        transport.begin("server", protocol)

    def context(self) -> Any:
        """A copy of the context in which the server was made, for one connection."""
        return self._context.copy()

    def detach(self, transport: SimTransport) -> None:
        """Forget a connection that is lost."""
        self._open.pop(transport, None)
        self._wake_waiters()

    def _wake_waiters(self) -> None:
        if self._closed and not self._open:
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)
            self._waiters.clear()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        self.close()
        await self.wait_closed()

    def __repr__(self) -> str:
        return f"<SimServer {', '.join(f'{host}:{port}' for host, port in self._addresses)}>"
