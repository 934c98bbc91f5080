"""A connection stops reading while more than two messages are unread.

A close sends its frame and waits ten seconds for the end of the transport, which comes when the
peer's answer has been read. Then it ends the transport itself. While reading is paused, a graceful
close of the transport never ends.
"""

import asyncio

MOST_UNREAD = 2  # messages


class Connection:
    """One connection."""

    def __init__(self, second: float = 1.0) -> None:
        self.second = second
        self._unread = 0
        self._ended = asyncio.Event()

    def data(self, stream: int) -> None:
        """A message arrives, and nobody reads it."""
        self._unread += 1

    async def close(self) -> None:
        """End the connection."""
        self._close_transport()  # the peer answers at once
        try:
            async with asyncio.timeout(10 * self.second):
                await self._ended.wait()
        except TimeoutError:
            self._close_transport()
            await self._ended.wait()

    def _close_transport(self) -> None:
        if self._unread <= MOST_UNREAD:
            self._ended.set()

    def _abort_transport(self) -> None:
        self._ended.set()
