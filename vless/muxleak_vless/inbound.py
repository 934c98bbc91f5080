"""The VLESS server: accepts, reads the request header, checks the user, serves the command.

Every connection ends within limits: the header has one, a silent peer has one, closing has one,
and `Inbound.shutdown` has one for all. No bytes of a peer produce a traceback in the log.
"""

# One task serves a connection from accept to close. Its waits, and the events that end them:
#
#   the header    Link.receive  bytes, the peer's end, the header limit, the server's context
#   the session   `run` of a mux or direct session; see there
#   the close     Link.wait_closed, which the link bounds by its close limit
#
# Two rules. Each way out of `_serve` closes the link: served, refused or failed. It is one
# `finally` with `hang_up`, not a close in each refusal (the pair `refused_stays_open`). And the end
# of the server's context must wake each wait: while the header is read, a callback on the context
# closes the link; a session then watches the context itself.
#
# Order in `shutdown`: the listeners first, so that no connection arrives meanwhile. Then three
# steps, each for one close limit: cancel the context (connections end in good order), abort the
# links (for peers that do not take the rest), cancel the tasks (for code of handlers that does not
# end). The connections that are left are returned by name. `asyncio.Server.wait_closed` is not
# used: since Python 3.12.1 it waits for all connections without a limit.
#
# sing-box closes its listeners and its outbound connections at shutdown and keeps no list of the
# connections it has accepted. After a reload they stay open until their peers close.

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
    text_of,
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
    """A user that may connect.

    Attributes:
        uuid: Id that the request must carry.
        name: Shown to people only.
        flow: Must equal the request's flow. No flow is implemented, so only the empty one works.
    """

    uuid: UUID
    name: str = ""
    flow: str = ""


class Inbound:
    """Serves VLESS on any number of listeners.

    Args:
        users: Users that may connect.
        handler: Serves each stream.
        context: Parent of the context of each connection. `shutdown` ends it, so it should be the
            server's own. The background cannot be ended, and `shutdown` then takes longer.
        lifecycle: Answers to the life-cycle questions; the reference by default.
        limits: Limits of time and size.
        on_session: Called with each mux session as it starts.

    Attributes:
        accepted: Number of connections accepted so far.
        active: Number of mux sessions that have not been cleaned up: 0 once all are closed, below 0
            if a cleanup ran twice.
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
        """Number of connections accepted and not yet gone."""
        return len(self._connections)

    @property
    def sockets(self) -> list[socket.socket]:
        """The listening sockets, whose options the accepted connections inherit."""
        return [sock for server in self._servers for sock in server.sockets]

    def protocol(self) -> Link:
        """Return the protocol of a new connection: the factory for `loop.create_server`."""
        return Link(self._accepted, limits=self.limits)

    async def listen(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        factory: Callable[[], asyncio.Protocol] | None = None,
    ) -> tuple[str, int]:
        """Listen on TCP.

        Args:
            host: Address to bind.
            port: Port to bind; 0 for any free port.
            factory: Called for each connection in place of `protocol`, which it may wrap.

        Returns:
            The bound address and port.

        Raises:
            OSError: If the address cannot be bound.
        """
        loop = asyncio.get_running_loop()
        server = await loop.create_server(factory or self.protocol, host, port, backlog=1024)
        self._servers.append(server)
        address = server.sockets[0].getsockname()
        return address[0], address[1]

    async def shutdown(self, cause: BaseException | None = None) -> list[str]:
        """Stop listening and end every connection.

        Takes at most three close limits: an orderly end, an abort, and a cancellation.

        Args:
            cause: Cause given to the connections; a `ServerStopped` if None.

        Returns:
            The names of the connections that did not end.
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
        # A new exception: the cause may be of any type, and would keep the traceback of this raise.
        if self.context.cause is not None:
            raise ServerStopped(text_of(self.context.cause))

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
    # Beside the idle limit, which may be long: the kernel's probes find a peer that has vanished
    # without a FIN, at the intervals that the system sets.
    sock = transport.get_extra_info("socket")
    if sock is not None:
        # Some systems refuse it for a connection that has been reset; `connection_lost` reports
        # that.
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
