"""A session with a lock, and streams with a lock each.

The end of a stream writes a frame and takes the stream out of the session. A close of the session
ends every stream.
"""

import asyncio


class Session:
    """One session."""

    def __init__(self, second: float = 1.0) -> None:
        self.second = second
        self._lock = asyncio.Lock()
        self._streams: dict[int, asyncio.Lock] = {}

    def new(self, stream: int) -> None:
        """The peer opens a stream."""
        self._streams[stream] = asyncio.Lock()

    async def half(self, stream: int) -> None:
        """A user ends a stream."""
        if stream not in self._streams:
            return
        async with self._streams[stream]:
            await self._write_end()
        async with self._lock:
            self._streams.pop(stream, None)

    async def close(self) -> None:
        """End the session."""
        async with self._lock:
            for lock in list(self._streams.values()):
                async with lock:
                    await self._write_end()
            self._streams.clear()

    async def _write_end(self) -> None:
        await asyncio.sleep(0)
