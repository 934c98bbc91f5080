"""A multiplexer hands new streams to a bounded queue, from which the application accepts them.

The receive loop starts a task for each new stream, which puts it into the queue. Nobody accepts
here, so the tasks behind the first wait for a place.
"""

import asyncio


class Multiplexer:
    """One connection that carries streams."""

    def __init__(self, second: float = 1.0) -> None:
        self.second = second
        self._accepted: asyncio.Queue[int] = asyncio.Queue(1)
        self._dead = asyncio.Event()
        self._frames: asyncio.Queue[int] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Start the receive loop."""
        self._loop = asyncio.ensure_future(self._receive())

    def new(self, stream: int) -> None:
        """The peer opens a stream."""
        self._frames.put_nowait(stream)

    async def close(self) -> None:
        """End the connection."""
        self._dead.set()
        self._loop.cancel()

    async def _receive(self) -> None:
        while True:
            stream = await self._frames.get()
            task = asyncio.ensure_future(self._hand_over(stream))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _hand_over(self, stream: int) -> None:
        await self._accepted.put(stream)
