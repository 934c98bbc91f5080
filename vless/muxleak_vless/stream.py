"""One stream as its handler sees it: read, write, close.

A stream belongs to an owner that carries its bytes: the mux session of a server, the client, or a
session that is one stream (`direct_session`).
"""

# A stream is an object, not a number. Ids are reused: a handler may still hold a stream whose id
# has a new owner, so identity is that of the object, and the owner decides about each write whether
# the id still means this stream. In sing-vmess a stream is its number: the late bytes of an old
# handler arrive as the new stream's, and its close ends the new stream (the pair
# `id_taken_for_stream`).
#
# States. A stream is open until `cause` is set, which happens once; the first cause stays. While it
# is open, `ended` says that the peer has finished sending: reads return the bytes left in the inbox
# and then the end, and writes go on. Once `cause` is set, both directions are over: the inbox is
# dropped, reads and writes raise `StreamClosed` with the cause chained.
#
# Waits and wakers:
#
#   read     feed (data), feed_eof (the peer's End), fail
#   write    the owner's: room in the transport, or the end of the connection
#   room     the handler reads below the inbox limit; fail; stop_waiting; its own time limit
#   drained  the handler has read everything; fail. It has no limit: the client uses it, which
#            relies on its own caller to read, and the buggy variant of `reader_blocked_by_stream`
#
# The inbox is the buffer between the receive loop and the handler. Without one, as in sing-vmess,
# the receive loop hands each piece over and waits for its reader; then one handler that does not
# read blocks all streams, and hides the end of the connection. With an unbounded one the peer could
# fill the memory. So `room` waits above a limit, and its caller resets the stream after the stall
# limit. `stop_waiting` lifts the limit once the peer has gone: at most the bytes in the link's
# buffer and in its decoder can still come.
#
# `feed` never waits, and the receive loop waits in `room` after it. So, until the peer has gone,
# the inbox holds less than its limit and one piece (a frame, or one read of the link).
#
# The limits are those of memory, so a peer must not get around them by small pieces, each of which
# takes a hundred bytes beside its data. Bytes have no borders, so small pieces are joined where
# there are many; packets have, so each counts for more than its data (`PACKET`).
#
# A limit on each inbox is none on a connection, which may have thousands of streams: `Unread`
# counts the bytes of all its inboxes, under the same rule.

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Protocol

from muxleak_vless.address import NetworkType
from muxleak_vless.errors import StreamClosed, text_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from muxleak_vless.address import Address
    from muxleak_vless.context import Context


MANY = 16
"""Pieces in the inbox from which small ones are joined."""
SMALL = 4096
"""Bytes of a piece below which the next one is joined to it."""
PACKET = 128
"""Bytes that a packet in the inbox costs beside its data."""


class StreamOwner(Protocol):
    """Carries a stream's bytes to the peer."""

    async def write(self, stream: Stream, data: bytes, address: Address | None) -> None:
        """Wait for room, then send ``data``.

        Args:
            stream: The stream whose bytes these are.
            data: Bytes, or one packet.
            address: Source of a UDP packet; None for the stream's target.

        Raises:
            StreamClosed: If it cannot be sent.
        """

    def close_stream(self, stream: Stream, *, error: bool) -> None:
        """End the stream on our side and send the peer its end."""


class Unread:
    """Counts the bytes that the handlers of one connection have not taken, over all its streams.

    Args:
        limit: Bytes from which `room` waits.

    Attributes:
        size: The bytes; streams add to it.
    """

    __slots__ = ("_limit", "_waiter", "size")

    def __init__(self, limit: int) -> None:
        self.size = 0
        self._limit: int | None = limit
        self._waiter: asyncio.Future[bool] | None = None

    @property
    def full(self) -> bool:
        """True from the limit on, unless it has been lifted."""
        return self._limit is not None and self.size >= self._limit

    def free(self, size: int) -> None:
        """Uncount bytes that a handler has taken, or that were dropped."""
        self.size -= size
        if self._waiter is not None and not self.full:
            _resolve(self._waiter, value=True)

    async def room(self, seconds: float) -> bool:
        """Wait until the size is below the limit; for one task at a time.

        Returns:
            False if that takes longer than ``seconds``.
        """
        if not self.full:
            return True
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = loop.call_later(seconds, _resolve, self._waiter, False)  # noqa: FBT003 - a result value
        try:
            return await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    def stop_waiting(self) -> None:
        """Lift the limit, because the peer has gone and little more can come."""
        self._limit = None
        self.free(0)


class Stream:
    """A bidirectional stream of bytes (TCP) or packets (UDP) to ``target``.

    Args:
        owner: Carries the stream's bytes.
        stream_id: Id on the wire, 0 to 65535.
        network: TCP for bytes, UDP for packets.
        target: Destination that the peer asks for.
        inbox: Bytes that may be unread before `room` waits.
        connection: Counts the unread bytes of all streams of the connection, if it has several.

    Attributes:
        cause: None while the stream is open, then the cause of its end.
        ended: True once the peer has finished sending.
        task: The task of the handler; None without one, or once it has ended.
    """

    __slots__ = (
        "__weakref__",
        "_connection",
        "_extra",
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
        connection: Unread | None = None,
    ) -> None:
        self.stream_id = stream_id
        self.network = network
        self.target = target
        self.ended = False
        self.cause: BaseException | None = None
        self.task: asyncio.Task[None] | None = None
        # Dropped when the stream ends: it is not needed then, and it may hold the stream.
        self._owner: StreamOwner | None = owner
        self._inbox: deque[tuple[bytes, Address | None]] = deque()
        self._size = 0
        self._connection = connection
        self._limit: int | None = inbox
        self._extra = PACKET if network is NetworkType.UDP else 0
        self._reader: asyncio.Future[None] | None = None
        self._watchers: dict[asyncio.Future[bool], Callable[[], bool]] = {}

    def __repr__(self) -> str:
        """Id, target and state, without an address in memory."""
        state = "live" if self.cause is None else f"ended: {text_of(self.cause)}"
        return f"<Stream {self.stream_id} to {self.target} {state}>"

    # The handler's side.

    async def read(self) -> bytes:
        """Return the next bytes; empty once the peer has ended its direction.

        Raises:
            StreamClosed: If the stream has ended otherwise; its cause is chained.
        """
        packet = await self.read_packet()
        return packet[0] if packet is not None else b""

    async def read_packet(self) -> tuple[bytes, Address | None] | None:
        """Return the next packet and its destination; None once the peer has ended its direction.

        The destination is None for a packet to the stream's target.

        Raises:
            StreamClosed: If the stream has ended otherwise; its cause is chained.
        """
        while not self._inbox:
            if self.cause is not None:
                raise self._has_ended() from self.cause
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
        self._free(len(packet[0]) + self._extra)
        self._notify()
        return packet

    async def write(self, data: bytes, address: Address | None = None) -> None:
        """Send ``data`` to the peer, after waiting for room.

        Args:
            data: Bytes of any length, or one UDP packet.
            address: Source of a UDP packet; None for the stream's target.

        Raises:
            StreamClosed: If the stream has ended; its cause is chained.
        """
        if self._owner is None:
            raise self._has_ended() from self.cause
        await self._owner.write(self, data, address)

    def close(self, *, error: bool = False) -> None:
        """End the stream on our side and send the peer its end; later calls do nothing.

        Args:
            error: Send the end as a failure.
        """
        if self._owner is not None:
            self._owner.close_stream(self, error=error)

    # The owner's side.

    @property
    def unread(self) -> int:
        """Bytes that the handler has not taken, with `PACKET` for each packet."""
        return self._size

    def feed(self, data: bytes, address: Address | None = None) -> None:
        """Put ``data`` into the inbox and wake the reader; drop it if the stream has ended."""
        if self.cause is not None or self.ended or not data:
            return
        size = len(data) + self._extra
        self._size += size
        if self._connection is not None:
            self._connection.size += size
        if len(self._inbox) >= MANY and not self._extra and len(self._inbox[-1][0]) < SMALL:
            data = self._inbox.pop()[0] + data
        self._inbox.append((data, address))
        self._wake_reader()

    def feed_eof(self) -> None:
        """Record that the peer has ended its direction, and wake the reader."""
        self.ended = True
        self._wake_reader()

    def fail(self, cause: BaseException) -> None:
        """End both directions and drop unread data; later calls do nothing."""
        if self.cause is None:
            self.cause = cause
            self._owner = None
            self._inbox.clear()
            self._free(self._size)
            self._wake_reader()
            self._notify()

    async def room(self, seconds: float) -> bool:
        """Wait until the inbox is below its limit or the stream has ended.

        Returns:
            False if that takes longer than ``seconds``.
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
        """Wait without a limit until the inbox is empty or the stream has ended."""
        if not self._is_drained():
            waiter = self._watch(self._is_drained)
            try:
                await waiter
            finally:
                self._watchers.pop(waiter, None)

    def stop_waiting(self) -> None:
        """Lift the limit of `room`, because the peer has gone and little more can come."""
        self._limit = None
        self._notify()

    def _free(self, size: int) -> None:
        self._size -= size
        if self._connection is not None:
            self._connection.free(size)

    def _has_ended(self) -> StreamClosed:
        return StreamClosed(f"stream {self.stream_id}: {text_of(self.cause)}")

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


def cancel_task(task: asyncio.Task[None], stream: Stream) -> Exception | None:
    """Cancel the task of a stream's handler.

    `asyncio.Task.cancel` calls the `cancel` of the object that the task waits for, which is the
    handler's choice. If that raises, the task has not been cancelled.

    Returns:
        The exception that it raised, or None.
    """
    try:
        task.cancel(f"{stream!r}")
    except Exception as error:  # noqa: BLE001 - anybody's code
        return error.with_traceback(None)
    return None


def _resolve(waiter: asyncio.Future[bool], value: bool) -> None:  # noqa: FBT001 - call_later
    if not waiter.done():
        waiter.set_result(value)


class Handler(Protocol):
    """Serves one stream, which is closed when the handler returns or raises."""

    def __call__(self, stream: Stream, context: Context, /) -> Awaitable[None]:
        """Serve ``stream`` until it ends or ``context`` does."""
