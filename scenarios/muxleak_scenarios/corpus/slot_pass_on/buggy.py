"""A connection allows one stream at a time; further openers wait in a queue, each for a future.

The end of a stream wakes the first waiter. The waiter takes itself out of the queue when it runs.
"""

import asyncio
from collections import deque


class Connection:
    """One connection that carries streams."""

    def __init__(self, second: float = 1.0) -> None:
        self.second = second
        self._open: set[int] = set()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._closed = False

    async def new(self, stream: int) -> None:
        """A user opens a stream, and waits until it may."""
        if self._closed:
            raise ConnectionError("closed")
        if self._open or self._waiting:
            await self._turn()
        if not self._closed:
            self._open.add(stream)

    def reset(self, stream: int) -> None:
        """A stream ends."""
        if stream in self._open:
            self._open.remove(stream)
            self._wake_next()

    async def close(self) -> None:
        """End the connection: all openers go on, and see that it is closed."""
        self._closed = True
        self._open.clear()
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    def starved(self) -> bool:
        """Return True if an opener waits although no stream is open."""
        return bool(self._waiting) and not self._open

    async def _turn(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        finally:
            self._waiting.remove(waiter)

    def _wake_next(self) -> None:
        woken = [each for each in self._waiting if each.done() and not each.cancelled()]
        asleep = [each for each in self._waiting if not each.done()]
        if asleep and not woken and not self._open:
            asleep[0].set_result(None)
