"""A client with a read loop and a ping loop. A lost connection is closed by the read loop itself.

A close cancels the loops, lets them end, and then closes the writer.
"""

import asyncio


class Client:
    """A client."""

    def __init__(self, second: float = 1.0) -> None:
        self.second = second
        self.cleaned: dict[str, int] = {}
        self._closed = False
        self._lost = asyncio.Event()

    def open(self) -> None:
        """Connect."""
        self.cleaned["writer"] = 0
        self._loops = [asyncio.ensure_future(each) for each in (self._read(), self._ping())]

    def error(self) -> None:
        """The connection is lost."""
        self._lost.set()

    async def close(self) -> None:
        """End the client."""
        if self._closed:
            return
        self._closed = True
        for loop in self._loops:
            loop.cancel()
        await asyncio.sleep(0)
        self.cleaned["writer"] += 1

    async def _read(self) -> None:
        await self._lost.wait()
        await self.close()

    async def _ping(self) -> None:
        await asyncio.Event().wait()
