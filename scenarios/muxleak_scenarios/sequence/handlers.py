"""Stream handlers of the server under test, most of them hostile.

The host ``NAME.test`` of a stream's target selects the handler. ``NAME.dest`` goes through the real
outbound to a destination of `muxleak_scenarios.sequence.destinations`.
"""

# Each handler is one way in which the code of a server's user can go wrong: it never reads, never
# returns, returns without closing, raises, ignores the end of its input, swallows a cancellation,
# writes too much or too late. The session must survive all of them (rule R6: a handler that returns
# or raises, for whatever reason, closes its stream), and none may keep the connection alive.

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
"""512 KiB in all: far above any buffer of a transport, so that a flood blocks when its peer stalls.
Chunks are of a usual size, since many small frames cost a search much time and find no more."""

BULK = (0, 65535, 65536)
"""Sizes that the handler ``bulk`` writes: none, the most that fits one frame, one byte more."""
LATE = b"late"


class HandlerFailed(Exception):  # noqa: N818 - the handler `raise` raises it on purpose
    """Raised by the handlers ``raise`` and ``fragile``."""


async def echo(stream: Stream, context: Context) -> None:
    """Echo until the input ends."""
    del context
    while (packet := await stream.read_packet()) is not None:
        await stream.write(*packet)


async def sink(stream: Stream, context: Context) -> None:
    """Read everything and write nothing."""
    del context
    while await stream.read():
        pass


async def deaf(stream: Stream, context: Context) -> None:
    """Never read; wait until the context ends, and leave closing to the session."""
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
    """Ignore the end of the input, as a download that is never stopped."""
    del context
    while await stream.read():
        pass
    await asyncio.get_running_loop().create_future()


async def stubborn(stream: Stream, context: Context) -> None:
    """Swallow the first cancellation, and end with the second."""
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
    """Write the sizes in `BULK`, then read to the end."""
    for size in BULK:
        await stream.write(b"b" * size)
    await sink(stream, context)


async def late(stream: Stream, context: Context) -> None:
    """Write when the stream has ended, in whatever way."""
    try:
        await sink(stream, context)
    finally:
        await stream.write(LATE)


async def loyal(stream: Stream, context: Context) -> None:
    """Swallow every cancellation, and end only with the context."""
    del stream
    while not context.cancelled:
        with suppress(asyncio.CancelledError):
            await context.wait()


class _Fragile(asyncio.Future[None]):
    """Raises at its first cancellation, and obeys the second."""

    _asked = False

    def cancel(self, msg: object = None) -> bool:
        if not self._asked:
            self._asked = True
            raise HandlerFailed("cannot be cancelled, on purpose")
        return super().cancel(msg)


async def fragile(stream: Stream, context: Context) -> None:
    """Raise an exception into the first cancellation, and end with the second."""
    del stream, context
    await _Fragile(loop=asyncio.get_running_loop())


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
    "fragile": fragile,
}


class Switchboard:
    """The handler of a server under test: selects a handler by the host of the target."""

    def __init__(self, dial: Dial, limits: Limits, resolve: Resolve | None = None) -> None:
        self._outbound = Outbound(dial=dial, limits=limits, resolve=resolve)

    async def __call__(self, stream: Stream, context: Context) -> None:
        """Serve ``stream`` with the handler that its target names."""
        name, _, zone = stream.target.host.partition(".")
        handler = HANDLERS[name] if zone == "test" else self._outbound
        await handler(stream, context)
