"""The VLESS server: accepts, reads the request header, knows its users, serves the command.

Every connection ends within limits: the header has one, a silent peer has one, closing has one,
and `Inbound.shutdown` has one for all. Nothing a peer sends makes a traceback.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from muxleak_vless.address import NetworkType
from muxleak_vless.context import Context
from muxleak_vless.direct_session import DirectSession
from muxleak_vless.errors import (
    Cause,
    HeaderTimeout,
    PeerClosed,
    ProtocolError,
    Refused,
    ServerStopped,
)
from muxleak_vless.header import Command, Request, RequestDecoder
from muxleak_vless.lifecycle import Lifecycle
from muxleak_vless.limits import Limits
from muxleak_vless.link import Link
from muxleak_vless.session import MuxSession

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from uuid import UUID

    from muxleak_vless.stream import Handler

log = logging.getLogger("muxleak_vless")


class User(NamedTuple):
    """Who may connect. ``flow`` must equal the request's; no flow but the empty one is spoken."""

    uuid: UUID
    name: str = ""
    flow: str = ""


class Inbound:
    """Serves VLESS on any number of listeners.

    ``context`` is the parent of every connection's context; `shutdown` ends it, so it should be
    the server's own. Given the background, there is nothing to end, and `shutdown` takes longer.
    ``active`` counts the mux sessions that have not been cleaned up: back to 0 when all are closed,
    below 0 if a cleanup ran twice. ``on_session`` sees every mux session as it starts.
    """

    def __init__(
        self,
        users: Iterable[User],
        handler: Handler,
        *,
        context: Context | None = None,
        lifecycle: Lifecycle | None = None,
        limits: Limits | None = None,
        on_session: Callable[[MuxSession], None] | None = None,
    ) -> None:
        self.context = context or Context.background().child("server")
        self.limits = limits or Limits()
        self.active = 0
        self.accepted = 0
        self._users = {user.uuid: user for user in users}
        self._handler = handler
        self._lifecycle = lifecycle or Lifecycle()
        self._on_session = on_session
        self._connections: dict[asyncio.Task[None], Link] = {}
        self._servers: list[asyncio.Server] = []

    @property
    def connections(self) -> int:
        """Connections accepted and not yet gone."""
        return len(self._connections)

    @property
    def sockets(self) -> list[socket.socket]:
        """The sockets it listens on; what they are set to, the connections accepted inherit."""
        return [sock for server in self._servers for sock in server.sockets]

    def protocol(self) -> Link:
        """Make the protocol of one connection: the factory for `loop.create_server`."""
        return Link(self._accepted, limits=self.limits)

    async def listen(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        factory: Callable[[], asyncio.Protocol] | None = None,
    ) -> tuple[str, int]:
        """Listen on TCP and return the address, with the port chosen if ``port`` is 0.

        ``factory`` may wrap `protocol`, to see connections as they are accepted.

        Raises:
            OSError: if the address cannot be bound.
        """
        loop = asyncio.get_running_loop()
        server = await loop.create_server(factory or self.protocol, host, port, backlog=1024)
        self._servers.append(server)
        address = server.sockets[0].getsockname()
        return address[0], address[1]

    async def shutdown(self, cause: BaseException | None = None) -> list[str]:
        """Stop listening, end every connection, and return the names of those that did not end.

        Takes at most three close limits: an orderly end, an abort, and a cancellation.
        """
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()
        if self.context.cancellable:
            self.context.cancel(cause or ServerStopped("the server stops"))
        await self._wait_connections()
        for link in self._connections.values():
            link.abort(cause if isinstance(cause, Cause) else ServerStopped("the server stops"))
        await self._wait_connections()
        for task in self._connections:
            task.cancel("the server stops")
        await self._wait_connections()
        return [task.get_name() for task in self._connections]

    async def _wait_connections(self) -> None:
        if self._connections:
            await asyncio.wait(list(self._connections), timeout=self.limits.close_seconds)

    def _accepted(self, link: Link) -> None:
        self.accepted += 1
        if link.transport is not None:
            _keep_alive(link.transport)
        task = asyncio.get_running_loop().create_task(self._serve(link))
        task.set_name(f"vless connection {self.accepted}")
        self._connections[task] = link
        task.add_done_callback(self._gone)

    def _gone(self, task: asyncio.Task[None]) -> None:
        self._connections.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s: %r", task.get_name(), error, exc_info=error)

    async def _serve(self, link: Link) -> None:
        try:
            self._check_open()
            request, received = await self._read_header(link)
            await self._dispatch(link, request, received)
        except (ProtocolError, Cause) as exc:
            log.info("connection closed: %s", exc)
        finally:
            self._lifecycle.hang_up(link)
            await link.wait_closed()

    async def _read_header(self, link: Link) -> tuple[Request, bytes]:
        decoder = RequestDecoder()
        undo = self.context.on_cancel(lambda _cause: link.close())
        seconds = self.limits.header_seconds
        try:
            async with asyncio.timeout(seconds):
                request = None
                while request is None:
                    data = await link.receive()
                    if not data:
                        self._check_open()
                        decoder.receive_eof()
                        raise PeerClosed("closed before the request header")
                    request = decoder.receive_data(data)
        except TimeoutError:
            raise HeaderTimeout(f"no whole request header within {seconds:g} s") from None
        finally:
            undo()
        self._authorise(request)
        return request, decoder.trailing

    def _check_open(self) -> None:
        # A new exception: the cause may be of any type, and a traceback in it would outlive us.
        if self.context.cause is not None:
            raise ServerStopped(f"{self.context.cause}")

    def _authorise(self, request: Request) -> None:
        user = self._users.get(request.user)
        if user is None:
            raise Refused("unknown user")
        if request.addons.flow != user.flow:
            raise Refused(f"flow: expected {user.flow!r}, got {request.addons.flow!r}")
        if request.command not in (Command.TCP, Command.UDP, Command.MUX):
            raise Refused(f"command: expected 1 (TCP), 2 (UDP) or 3 (Mux), got {request.command}")

    async def _dispatch(self, link: Link, request: Request, received: bytes) -> None:
        if request.command == Command.MUX:
            await self._serve_mux(link, received)
            return
        if request.target is None or not request.target.host:
            raise Refused("target: expected an address, got none")
        network = NetworkType.TCP if request.command == Command.TCP else NetworkType.UDP
        session = DirectSession(link, network, request.target.literal, limits=self.limits)
        await session.run(received, self._handler, self.context)

    async def _serve_mux(self, link: Link, received: bytes) -> None:
        self.active += 1
        session = MuxSession(
            link,
            self._handler,
            self.context,
            lifecycle=self._lifecycle,
            limits=self.limits,
            on_cleanup=self._cleaned_up,
        )
        if self._on_session is not None:
            self._on_session(session)
        cause = await session.run(received)
        log.debug("mux connection ended: %s", cause)

    def _cleaned_up(self, _cause: BaseException) -> None:
        self.active -= 1


def _keep_alive(transport: asyncio.Transport) -> None:
    # A peer that vanished without a word is found by the kernel's probes, long before idle limits.
    sock = transport.get_extra_info("socket")
    if sock is not None:
        # Some systems refuse it for a connection that was reset already; the reading will tell.
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
