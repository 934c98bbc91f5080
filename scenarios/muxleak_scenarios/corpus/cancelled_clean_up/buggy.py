"""A pool with one connection. A request that is cancelled closes it and gives it back."""

import asyncio


class Pool:
    """The pool."""

    def __init__(self, second: float = 1.0) -> None:
        self.second = second
        self._taken = 0
        self._closed = asyncio.Event()

    async def new(self, stream: int) -> None:
        """A user makes a request, whose answer never comes."""
        if self._taken:
            raise ConnectionError("the pool is empty")
        self._taken += 1
        try:
            await self._closed.wait()
        finally:
            await self._close_connection()
            self._taken -= 1

    async def close(self) -> None:
        """End the pool."""
        self._closed.set()

    def in_use(self) -> int:
        """Return the number of connections that are taken."""
        return self._taken

    async def _close_connection(self) -> None:
        await asyncio.sleep(0)
