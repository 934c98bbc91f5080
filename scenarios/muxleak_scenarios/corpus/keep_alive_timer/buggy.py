"""A connection that is closed when no request comes for five seconds.

The time is measured by a timer, which starts anew after each request.
"""

import asyncio


class Connection:
    """One connection of a web server."""

    def __init__(self, second: float = 1.0) -> None:
        self.second = second
        self._closed = False
        self._keep_alive: asyncio.TimerHandle | None = None

    def data(self, stream: int) -> None:
        """A request arrives, and is answered."""
        if self._closed:
            return
        self._stop_waiting()
        loop = asyncio.get_running_loop()
        self._keep_alive = loop.call_later(5 * self.second, self._expire)

    async def close(self) -> None:
        """End the connection."""
        self._closed = True

    def _stop_waiting(self) -> None:
        if self._keep_alive is not None:
            self._keep_alive.cancel()

    def _expire(self) -> None:
        self._closed = True
