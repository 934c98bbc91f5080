"""Stream handlers, most of them hostile: what a server must survive from its own side.

A stream's target ``NAME.test`` chooses the handler; ``NAME.dest`` goes through the real outbound to
a destination of `muxleak_scenarios.sequence.destinations`.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from muxleak_vless.outbound import Outbound

if TYPE_CHECKING:
    from muxleak_vless.context import Context
    from muxleak_vless.limits import Limits
    from muxleak_vless.outbound import Dial, Resolve
    from muxleak_vless.stream import Handler, Stream

FLOOD = b"f" * 16 * 1024
FLOOD_TIMES = 32
"""512 KiB: well above any buffer of a transport, so a flood blocks when its peer stalls."""

BULK = (0, 65535, 65536)
LATE = b"late"


class HandlerFailed(Exception):  # noqa: N818 - it is thrown on purpose, by the handler `raise`
    """What the handler ``raise`` raises."""


async def echo(stream: Stream, context: Context) -> None:
    """Return what comes, until it ends."""
    del context
    while (packet := await stream.read_packet()) is not None:
        await stream.write(*packet)


async def sink(stream: Stream, context: Context) -> None:
    """Read all and say nothing."""
    del context
    while await stream.read():
        pass


async def deaf(stream: Stream, context: Context) -> None:
    """Read nothing, until the context ends; leave the stream to others."""
    del stream
    await context.wait()


async def returns(stream: Stream, context: Context) -> None:
    """Return at once, without closing the stream."""
    del stream, context


async def raises(stream: Stream, context: Context) -> None:
    """Raise after the first read."""
    del context
    await stream.read()
    raise HandlerFailed("on purpose")


async def linger(stream: Stream, context: Context) -> None:
    """Ignore the end of the uplink: a download that nobody stops."""
    del context
    while await stream.read():
        pass
    await asyncio.get_running_loop().create_future()


async def stubborn(stream: Stream, context: Context) -> None:
    """Swallow the first cancellation; the second ends it."""
    try:
        await linger(stream, context)
    except asyncio.CancelledError:
        await asyncio.get_running_loop().create_future()


async def flood(stream: Stream, context: Context) -> None:
    """Send more than any buffer holds, then read to the end."""
    for _ in range(FLOOD_TIMES):
        await stream.write(FLOOD)
    await sink(stream, context)


async def bulk(stream: Stream, context: Context) -> None:
    """Write nothing, then as much as one frame holds, then more; then read to the end."""
    for size in BULK:
        await stream.write(b"b" * size)
    await sink(stream, context)


async def late(stream: Stream, context: Context) -> None:
    """Speak when the stream has ended, however it has."""
    try:
        await sink(stream, context)
    finally:
        await stream.write(LATE)


async def loyal(stream: Stream, context: Context) -> None:
    """Swallow every cancellation; end with the context, and with nothing else."""
    del stream
    while not context.cancelled:
        with suppress(asyncio.CancelledError):
            await context.wait()


async def close(stream: Stream, context: Context) -> None:
    """Close the stream at once."""
    del context
    stream.close()


HANDLERS: dict[str, Handler] = {
    "echo": echo,
    "sink": sink,
    "deaf": deaf,
    "return": returns,
    "raise": raises,
    "linger": linger,
    "stubborn": stubborn,
    "flood": flood,
    "close": close,
    "bulk": bulk,
    "late": late,
    "loyal": loyal,
}


class Switchboard:
    """The handler of a server under test: chooses by the name in the target."""

    def __init__(self, dial: Dial, limits: Limits, resolve: Resolve | None = None) -> None:
        self._outbound = Outbound(dial=dial, limits=limits, resolve=resolve)

    async def __call__(self, stream: Stream, context: Context) -> None:
        """Serve ``stream`` as its target says."""
        name, _, zone = stream.target.host.partition(".")
        handler = HANDLERS[name] if zone == "test" else self._outbound
        await handler(stream, context)
