"""A hub that lives as long as the process, and hands messages to connections."""

import asyncio


class Connection:
    """One connection at the hub."""

    def __init__(self, second: float = 1.0) -> None:
        self.second = second
        self._messages: asyncio.Queue[int] = asyncio.Queue()
        self._hub = asyncio.ensure_future(self._run())

    def data(self, stream: int) -> None:
        """A message arrives."""
        self._messages.put_nowait(stream)

    async def close(self) -> None:
        """Leave the hub."""

    async def _run(self) -> None:
        while True:
            await self._messages.get()
