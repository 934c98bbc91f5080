"""A server whose handler runs a hook of the user, half a second, before it accepts a connection.

A close refuses new connections, ends those that are open, and waits for the handlers.
"""

import asyncio


class Server:
    """A server with one client."""

    def __init__(self, second: float = 1.0) -> None:
        self.second = second
        self._serving = True
        self._handlers: list[asyncio.Task[None]] = []
        self._ends: list[asyncio.Event] = []

    def open(self) -> None:
        """A client connects."""
        self._handlers.append(asyncio.ensure_future(self._handle()))

    def shutdown(self) -> None:
        """Refuse new connections, and end those that are open."""
        self._serving = False
        for end in self._ends:
            end.set()

    async def close(self) -> None:
        """Shut down, and wait for the handlers."""
        self.shutdown()
        await asyncio.gather(*self._handlers)

    async def _handle(self) -> None:
        serving = self._serving
        await self._hook()
        if serving:
            end = asyncio.Event()
            self._ends.append(end)
            await end.wait()

    async def _hook(self) -> None:
        await asyncio.sleep(self.second / 2)
