"""A multiplexer delivers data to streams, each with a queue of one place that nobody reads here.

The receive loop takes frames one by one. A close ends the input and waits for the loop.
"""

import asyncio


class Multiplexer:
    """One connection that carries streams."""

    def __init__(self, second: float = 1.0) -> None:
        self.second = second
        self._frames: asyncio.Queue[tuple[str, int] | None] = asyncio.Queue()
        self._streams: dict[int, asyncio.Queue[int]] = {}
        self._closed = asyncio.Event()

    def open(self) -> None:
        """Start the receive loop."""
        self._loop = asyncio.ensure_future(self._receive())

    def new(self, stream: int) -> None:
        """The peer opens a stream."""
        self._frames.put_nowait(("new", stream))

    def data(self, stream: int) -> None:
        """The peer sends data on a stream."""
        self._frames.put_nowait(("data", stream))

    async def close(self) -> None:
        """End the connection."""
        self._closed.set()
        self._frames.put_nowait(None)
        await self._loop

    async def _receive(self) -> None:
        while (frame := await self._frames.get()) is not None and not self._closed.is_set():
            kind, stream = frame
            if kind == "new":
                self._streams[stream] = asyncio.Queue(1)
            elif stream in self._streams:
                await self._deliver(stream)

    async def _deliver(self, stream: int) -> None:
        put = asyncio.ensure_future(self._streams[stream].put(stream))
        closed = asyncio.ensure_future(self._closed.wait())
        await asyncio.wait([put, closed], return_when=asyncio.FIRST_COMPLETED)
        put.cancel()
        closed.cancel()
