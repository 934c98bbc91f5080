"""A pool keeps an idle connection for 20 seconds, so that the next user need not dial."""

import asyncio


class Pool:
    """A pool with at most one idle connection."""

    def __init__(self, second: float = 1.0) -> None:
        self.second = second
        self._idle: asyncio.TimerHandle | None = None

    def new(self, stream: int) -> None:
        """A user takes the connection, and returns it."""
        self._drop()
        self._idle = asyncio.get_running_loop().call_later(20 * self.second, self._drop)

    async def close(self) -> None:
        """The last user goes; the pool stays."""

    def _drop(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
