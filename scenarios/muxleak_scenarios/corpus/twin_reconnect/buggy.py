"""A client that connects again after an error, in a task that it keeps in one attribute."""

import asyncio


class Client:
    """A client."""

    def __init__(self, second: float = 1.0) -> None:
        self.second = second
        self._closed = False
        self._reconnect: asyncio.Task[None] | None = None

    def error(self) -> None:
        """The connection is lost, as one of its users reports."""
        if not self._closed:
            self._connect_again()

    async def close(self) -> None:
        """End the client."""
        self._closed = True
        if self._reconnect is not None:
            self._reconnect.cancel()

    def _connect_again(self) -> None:
        self._reconnect = asyncio.ensure_future(self._try())

    async def _try(self) -> None:
        await asyncio.sleep(self.second)
