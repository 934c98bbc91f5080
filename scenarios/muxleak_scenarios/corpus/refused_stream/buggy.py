"""A connection starts a watcher for each stream before it checks if the stream may open.

One stream may be open at a time, and none after the peer has said that it ends.
"""

import asyncio


class Connection:
    """One connection that carries streams."""

    def __init__(self, second: float = 1.0) -> None:
        self.second = second
        self._watchers: dict[int, asyncio.Task[bool]] = {}
        self._ended = False
        self._never = asyncio.Event()

    def new(self, stream: int) -> None:
        """The peer opens a stream."""
        watcher = asyncio.ensure_future(self._never.wait())
        if reason := self._refusal():
            raise ConnectionRefusedError(reason)
        self._watchers[stream] = watcher

    def reset(self, stream: int) -> None:
        """A stream ends."""
        if watcher := self._watchers.pop(stream, None):
            watcher.cancel()

    def end(self) -> None:
        """The peer says that it opens no more streams."""
        self._ended = True

    async def close(self) -> None:
        """End the connection."""
        for watcher in self._watchers.values():
            watcher.cancel()

    def _refusal(self) -> str:
        if self._ended:
            return "the connection ends"
        return "too many streams" if self._watchers else ""
