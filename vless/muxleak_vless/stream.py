"""One stream as its handler sees it: read, write, close.

A stream is an object, not a number: ids are reused, objects are not. It belongs to an owner (the
mux session of a server, of a client, or a whole connection) that carries its bytes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Protocol

from muxleak_vless.errors import StreamClosed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from muxleak_vless.address import Address, NetworkType
    from muxleak_vless.context import Context


class StreamOwner(Protocol):
    """What carries a stream's bytes to the peer."""

    async def write(self, stream: Stream, data: bytes, address: Address | None) -> None:
        """Send ``data``; wait for room first; raise `StreamClosed` if it cannot be sent."""

    def close_stream(self, stream: Stream, *, error: bool) -> None:
        """End the stream on our side and tell the peer."""


class Stream:
    """A bidirectional stream of bytes (TCP) or packets (UDP) to ``target``.

    ``cause`` is None while the stream lives, then why it ended. ``ended`` says that the peer has
    finished sending. ``task`` runs the handler, None where there is none or it has ended.
    """

    __slots__ = (
        "__weakref__",
        "_inbox",
        "_limit",
        "_owner",
        "_reader",
        "_size",
        "_watchers",
        "cause",
        "ended",
        "network",
        "stream_id",
        "target",
        "task",
    )

    def __init__(
        self,
        owner: StreamOwner,
        stream_id: int,
        network: NetworkType,
        target: Address,
        *,
        inbox: int,
    ) -> None:
        self.stream_id = stream_id
        self.network = network
        self.target = target
        self.ended = False
        self.cause: BaseException | None = None
        self.task: asyncio.Task[None] | None = None
        # Dropped when the stream ends: nothing is asked of it then, and it may hold the stream.
        self._owner: StreamOwner | None = owner
        self._inbox: deque[tuple[bytes, Address | None]] = deque()
        self._size = 0
        self._limit: int | None = inbox
        self._reader: asyncio.Future[None] | None = None
        self._watchers: dict[asyncio.Future[bool], Callable[[], bool]] = {}

    def __repr__(self) -> str:
        """Id, target and state, without an address in memory."""
        state = "live" if self.cause is None else f"ended: {self.cause}"
        return f"<Stream {self.stream_id} to {self.target} {state}>"

    # The handler's side.

    async def read(self) -> bytes:
        """Return the next bytes, empty when the peer has ended its direction.

        Raises:
            StreamClosed: if the stream has ended otherwise; the true cause is chained.
        """
        packet = await self.read_packet()
        return packet[0] if packet is not None else b""

    async def read_packet(self) -> tuple[bytes, Address | None] | None:
        """Return the next packet with the address it is for, None when the peer has ended.

        Raises:
            StreamClosed: if the stream has ended otherwise; the true cause is chained.
        """
        while not self._inbox:
            if self.cause is not None:
                raise StreamClosed(f"stream {self.stream_id}: {self.cause}") from self.cause
            if self.ended:
                return None
            reader = self._reader = asyncio.get_running_loop().create_future()
            try:
                await reader
            finally:
                # Another read may have taken its place while this one was being cancelled.
                if self._reader is reader:
                    self._reader = None
        packet = self._inbox.popleft()
        self._size -= len(packet[0])
        self._notify()
        return packet

    async def write(self, data: bytes, address: Address | None = None) -> None:
        """Send ``data`` to the peer; ``address`` is where a UDP packet came from.

        Raises:
            StreamClosed: if the stream has ended; the true cause is chained.
        """
        if self._owner is None:
            raise StreamClosed(f"stream {self.stream_id}: {self.cause}") from self.cause
        await self._owner.write(self, data, address)

    def close(self, *, error: bool = False) -> None:
        """End the stream on our side and tell the peer; later calls do nothing."""
        if self._owner is not None:
            self._owner.close_stream(self, error=error)

    # The owner's side.

    def feed(self, data: bytes, address: Address | None = None) -> None:
        """Hand ``data`` to the reader; dropped when the stream has ended."""
        if self.cause is None and not self.ended and data:
            self._inbox.append((data, address))
            self._size += len(data)
            self._wake_reader()

    def feed_eof(self) -> None:
        """The peer has ended its direction."""
        self.ended = True
        self._wake_reader()

    def fail(self, cause: BaseException) -> None:
        """End both directions; what the handler has not read is dropped. The first cause stays."""
        if self.cause is None:
            self.cause = cause
            self._owner = None
            self._inbox.clear()
            self._size = 0
            self._wake_reader()
            self._notify()

    async def room(self, seconds: float) -> bool:
        """Wait until the handler has taken enough for more to be fed, or the stream has ended.

        Returns False if that takes longer than ``seconds``.
        """
        if self._has_room():
            return True
        waiter = self._watch(self._has_room)
        loop = asyncio.get_running_loop()
        timer = loop.call_later(seconds, _resolve, waiter, False)  # noqa: FBT003 - a result value
        try:
            return await waiter
        finally:
            timer.cancel()
            self._watchers.pop(waiter, None)

    async def drained(self) -> None:
        """Wait, without a bound, until the handler has taken everything or the stream has ended."""
        if not self._is_drained():
            waiter = self._watch(self._is_drained)
            try:
                await waiter
            finally:
                self._watchers.pop(waiter, None)

    def stop_waiting(self) -> None:
        """Lift the limit of `room`: the peer has gone, so little more can come than has."""
        self._limit = None
        self._notify()

    def _has_room(self) -> bool:
        return self._limit is None or self._size < self._limit or self.cause is not None

    def _is_drained(self) -> bool:
        return not self._inbox or self.cause is not None

    def _watch(self, condition: Callable[[], bool]) -> asyncio.Future[bool]:
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._watchers[waiter] = condition
        return waiter

    def _notify(self) -> None:
        for waiter, condition in self._watchers.items():
            if condition():
                _resolve(waiter, value=True)

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


def _resolve(waiter: asyncio.Future[bool], value: bool) -> None:  # noqa: FBT001 - call_later
    if not waiter.done():
        waiter.set_result(value)


class Handler(Protocol):
    """Serves one stream; the stream is closed when it returns or raises."""

    def __call__(self, stream: Stream, context: Context, /) -> Awaitable[None]:
        """Serve ``stream`` until it ends or ``context`` does."""
