"""Dials a stream's target, TCP or UDP, and relays until one side has ended.

The client's end of a TCP stream is passed on as a write-end, and the target may go on answering;
the target's end, and either end of a UDP stream, is the end of both directions. What bounds a relay
besides is its stream: when that ends, the relay is cancelled and what it opened is closed.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any, Protocol, cast

from muxleak_vless.address import Address, AddressType, NetworkType
from muxleak_vless.errors import IdleTimeout, StreamClosed
from muxleak_vless.limits import Limits
from muxleak_vless.link import Link

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from muxleak_vless.context import Context
    from muxleak_vless.stream import Stream

DATAGRAMS = 64
"""Datagrams of a target that wait for a slow client; more are dropped, as UDP allows."""

NAMES = 256
"""Names of one UDP stream whose addresses are kept; then all are looked up again."""


class Dial(Protocol):
    """Opens a connection to ``address``; raises `OSError` if that fails."""

    async def __call__(self, address: Address, limits: Limits) -> Link:
        """Return the link, connected."""


class Resolve(Protocol):
    """Finds where to send datagrams for ``address``; raises `OSError` if its name is unknown."""

    async def __call__(self, address: Address) -> tuple[str, int]:
        """Return an IP address and a port."""


async def dial_tcp(address: Address, limits: Limits) -> Link:
    """Connect to ``address`` over TCP.

    Raises:
        OSError: if the name is unknown, the target refuses or cannot be reached.
    """
    loop = asyncio.get_running_loop()
    _, link = await loop.create_connection(lambda: Link(limits=limits), address.host, address.port)
    return link


async def resolve_udp(address: Address) -> tuple[str, int]:
    """Return the address itself, or the first that its name has.

    Raises:
        OSError: if the name is unknown.
    """
    if address.kind is not AddressType.DOMAIN:
        return address.host, address.port  # Without the detour through a thread.
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)
    host, port = found[0][4][:2]
    return str(host), int(port)


class Outbound:
    """The handler of a proxy: what a stream says goes to its target, and back."""

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        dial: Dial = dial_tcp,
        resolve: Resolve | None = None,
    ) -> None:
        self._limits = limits or Limits()
        self._dial = dial
        self._resolve = resolve or resolve_udp

    async def __call__(self, stream: Stream, context: Context) -> None:
        """Serve ``stream`` until target or peer ends it.

        Raises:
            OSError: if the target cannot be reached; `TimeoutError` past the dial limit.
            LinkLost: if the target resets the connection.
            IdleTimeout: if nothing has passed in either direction for the idle limit.
        """
        del context  # The session cancels its handlers at its end; a relay needs no more.
        if stream.network is NetworkType.UDP:
            await self._relay_packets(stream)
        else:
            await self._relay_bytes(stream)

    async def _relay_bytes(self, stream: Stream) -> None:
        async with asyncio.timeout(self._limits.dial_seconds):
            link = await self._dial(stream.target, self._limits)
        try:
            await _both(_uplink(stream, link), _downlink(stream, link))
        finally:
            link.close()

    async def _relay_packets(self, stream: Stream) -> None:
        port = _DatagramPort()
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._limits.dial_seconds):
            remote = await self._resolve(stream.target)
            local = ("::", 0) if ":" in remote[0] else ("0.0.0.0", 0)  # noqa: S104 - an outgoing port
            await loop.create_datagram_endpoint(lambda: port, local_addr=local)
        try:
            # UDP has no end of its own: the peer's End is the end of the stream.
            down = _packets_down(stream, port, self._limits.idle_seconds)
            await _both(down, _packets_up(stream, port, remote, self._resolve))
        finally:
            port.close()


async def _both(helper: Coroutine[Any, Any, None], decisive: Coroutine[Any, Any, None]) -> None:
    # The end of the decisive direction ends both; so does an error in either.
    error = await _first_error(helper, decisive)
    try:
        if error is not None:
            raise error
    finally:
        del error


async def _first_error(
    helper: Coroutine[Any, Any, None], decisive: Coroutine[Any, Any, None]
) -> Exception | None:
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(helper)
            await decisive
            task.cancel()
    except ExceptionGroup as errors:
        # The frames of a task group hold its errors: tracebacks through them would close a cycle.
        return errors.with_traceback(None).exceptions[0].with_traceback(None)
    return None


async def _uplink(stream: Stream, link: Link) -> None:
    while data := await stream.read():
        try:
            await link.drain()
        except StreamClosed:
            return  # The target has gone; what it sent before is still the downlink's to deliver.
        link.send(data)
    link.send_eof()


async def _downlink(stream: Stream, link: Link) -> None:
    while data := await link.receive():
        await stream.write(data)


async def _packets_up(
    stream: Stream, port: _DatagramPort, target: tuple[str, int], resolve: Resolve
) -> None:
    known: dict[Address, tuple[str, int]] = {}
    while (packet := await stream.read_packet()) is not None:
        data, address = packet
        if address is None or address == stream.target:
            port.send(data, target)
            continue
        if address not in known:
            if len(known) >= NAMES:
                known.clear()
            known[address] = await resolve(address)
        port.send(data, known[address])


async def _packets_down(stream: Stream, port: _DatagramPort, idle_seconds: float) -> None:
    while True:
        port.active = False
        try:
            async with asyncio.timeout(idle_seconds):
                data, source = await port.received.get()
        except TimeoutError:
            if port.active:
                continue
            raise IdleTimeout(f"no packet for {idle_seconds:g} s") from None
        await stream.write(data, Address.of(source[0].partition("%")[0], source[1]))


class _DatagramPort(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.received: asyncio.Queue[tuple[bytes, tuple[str, int]]] = asyncio.Queue(DATAGRAMS)
        self.active = False
        """Whether anything was sent since it was last set to False."""
        self._paused = False
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        if not self.received.full():
            self.received.put_nowait((data, addr))

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False

    def send(self, data: bytes, target: tuple[str, int]) -> None:
        self.active = True
        if self._transport is not None and not self._paused:
            self._transport.sendto(data, target)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
