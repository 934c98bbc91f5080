"""A connection with a task that sends: it waits for an event that says that there are data.

A close marks the connection as closed, and the sender ends when it sees that.
"""

import asyncio


class Connection:
    """One connection."""

    def __init__(self, second: float = 1.0) -> None:
        self.second = second
        self._closed = False
        self._has_data = asyncio.Event()

    def open(self) -> None:
        """Start the sender."""
        self._sender = asyncio.ensure_future(self._send())

    def data(self, stream: int) -> None:
        """There are data to send."""
        self._has_data.set()

    async def close(self) -> None:
        """End the connection."""
        self._closed = True
        self._has_data.set()

    async def _send(self) -> None:
        while not self._closed:
            await self._has_data.wait()
            self._has_data.clear()
