"""Users read from a stream: a reader looks for data, sets its deadline, and waits to be woken.

Data that arrive wake the readers.
"""

import asyncio
from collections import deque


class Stream:
    """One stream."""

    def __init__(self, second: float = 1.0) -> None:
        self.second = second
        self._data: deque[int] = deque()
        self._closed = False
        self._ready = asyncio.Event()
        self._readers = 0

    async def new(self, stream: int) -> None:
        """A user reads once."""
        while not self._data:
            if self._closed:
                raise ConnectionError("closed")
            await self._set_deadline()
            await self._wait()
        self._data.popleft()

    def data(self, stream: int) -> None:
        """Data arrive."""
        self._data.append(stream)
        self._wake()

    async def close(self) -> None:
        """End the stream."""
        self._closed = True
        self._wake()

    def starved(self) -> bool:
        """Return True if a reader waits although there are data."""
        return bool(self._readers and self._data)

    async def _set_deadline(self) -> None:
        await asyncio.sleep(0)

    async def _wait(self) -> None:
        self._readers += 1
        try:
            await self._ready.wait()
        finally:
            self._readers -= 1

    def _wake(self) -> None:
        self._ready.set()
