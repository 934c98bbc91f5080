"""The handler of a proxy: dials a stream's target, TCP or UDP, and relays.

The peer's end of a TCP stream is passed on as a half-close, and the target may go on answering. The
target's end ends both directions, and so does the peer's end of a UDP stream.
"""

# A relay has two directions, each a coroutine. One is *decisive*: its end ends the relay (for TCP
# the downlink, for UDP the uplink, since only the peer can end a UDP stream). The other is a helper
# task in a task group, cancelled when the decisive one ends; an error in either ends both.
#
# The decisive direction runs in the handler's own task. So a relay costs one task beside the
# handler, and a cancellation of the handler reaches both directions.
#
# Limits: `dial_seconds` for reaching the target, the write and idle limits of the target's link,
# and an idle limit for UDP, where no end is ever sent. Besides these, the stream bounds the relay:
# when the stream ends, the session cancels the handler, and the `finally` blocks here close the
# socket. So a silent target whose peer has ended its direction is kept until the connection ends or
# the target's idle limit, and no longer. In sing-vmess such a relay has left the table, and stays
# as long as the target does (the pair `end_forgets_stream`).
#
# The outbound closes its stream itself, on every way out. The session would do it as well, but not
# every session does: those of sing-vmess leave it to the layer above, which is sing-box's router
# (the pair `handler_must_close`).
#
# The errors of a task group hold tracebacks, whose stack frames hold the errors. `_first_error`
# cuts that cycle: otherwise each relay that fails would keep its stream until a garbage collection.

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
"""Datagrams of a target that may wait for a slow client; further ones are dropped, as in UDP."""

NAMES = 256
"""Names of one UDP stream whose addresses are kept; beyond that, all are looked up again."""


class Dial(Protocol):
    """Opens a TCP connection."""

    async def __call__(self, address: Address, limits: Limits) -> Link:
        """Return a link that is connected to ``address``.

        Raises:
            OSError: If the target cannot be reached.
        """


class Resolve(Protocol):
    """Resolves a target of datagrams."""

    async def __call__(self, address: Address) -> tuple[str, int]:
        """Return the IP address and port for ``address``.

        Raises:
            OSError: If the name is unknown.
        """


async def dial_tcp(address: Address, limits: Limits) -> Link:
    """Connect to ``address`` over TCP.

    Raises:
        OSError: If the name is unknown, or the target refuses or cannot be reached.
    """
    loop = asyncio.get_running_loop()
    _, link = await loop.create_connection(lambda: Link(limits=limits), address.host, address.port)
    return link


async def resolve_udp(address: Address) -> tuple[str, int]:
    """Return the IP address and port of an address, the first one if it is a name.

    Raises:
        OSError: If the name is unknown.
    """
    if address.kind is not AddressType.DOMAIN:
        return address.host, address.port  # `getaddrinfo` would take a thread.
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)
    host, port = found[0][4][:2]
    return str(host), int(port)


class Outbound:
    """The handler of a proxy: relays between a stream and its target.

    Args:
        limits: Limits of time and size; the defaults if None.
        dial: Opens the connection to the target of a TCP stream.
        resolve: Finds the IP address of a UDP target; `resolve_udp` if None.
    """

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
        """Serve ``stream`` until target or peer ends it, and close it, as failed if it failed.

        Raises:
            OSError: If the target cannot be reached; `TimeoutError` past the dial limit.
            LinkLost: If the target resets the connection.
            IdleTimeout: If no byte has passed in either direction for the idle limit.
        """
        del context  # Not needed: the session cancels its handlers when it ends.
        relay = self._relay_packets if stream.network is NetworkType.UDP else self._relay_bytes
        try:
            await relay(stream)
        except StreamClosed:
            stream.close()
            raise
        except Exception:
            stream.close(error=True)
            raise
        stream.close()

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
            # A UDP socket is never ended by its target, so the peer's End is the end of the stream.
            down = _packets_down(stream, port, self._limits.idle_seconds)
            await _both(down, _packets_up(stream, port, remote, self._resolve))
        finally:
            port.close()


async def _both(helper: Coroutine[Any, Any, None], decisive: Coroutine[Any, Any, None]) -> None:
    error = await _first_error(helper, decisive)
    try:
        if error is not None:
            raise error
    finally:
        del error  # Its traceback holds this stack frame, which would hold it: a cycle.


async def _first_error(
    helper: Coroutine[Any, Any, None], decisive: Coroutine[Any, Any, None]
) -> Exception | None:
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(helper)
            await decisive
            task.cancel()
    except ExceptionGroup as errors:
        # The stack frames of a task group hold its errors: their tracebacks would close a cycle.
        return errors.with_traceback(None).exceptions[0].with_traceback(None)
    return None


async def _uplink(stream: Stream, link: Link) -> None:
    while data := await stream.read():
        try:
            await link.drain()
        except StreamClosed:
            return  # The target has gone; the downlink still delivers the bytes it sent before.
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
        """True if a datagram was sent since it was last set to False."""
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
        # A datagram for a full buffer is dropped, as UDP allows.
        if self._transport is not None and not self._paused:
            self._transport.sendto(data, target)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
