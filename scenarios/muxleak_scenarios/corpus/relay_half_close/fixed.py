"""A relay: one task for each direction, 1 from the client to the origin, 2 back, and their parent.

Each direction waits for its source. The sockets are closed when the parent has ended. Data are owed
to the other side until their direction has ended, or the relay has given up waiting for it.
"""

import asyncio

LINGER = 30  # seconds


class Relay:
    """The relay of one client."""

    def __init__(self, second: float = 1.0) -> None:
        self.second = second
        self.cleaned: dict[str, int] = {}
        self._sources: dict[int, asyncio.Queue[int | None]] = {
            1: asyncio.Queue(),
            2: asyncio.Queue(),
        }
        self._finished: set[int] = set()
        self._expired = False
        self._owed: list[int] = []

    def open(self) -> None:
        """Start the relay."""
        self.cleaned["sockets"] = 0
        self._parent = asyncio.ensure_future(self._relay())

    def data(self, stream: int) -> None:
        """Data arrive from one side."""
        if stream not in self._finished and not self._expired:
            self._owed.append(stream)
            self._sources[stream].put_nowait(stream)

    def half(self, stream: int) -> None:
        """One side ends its direction."""
        self._finished.add(stream)
        self._sources[stream].put_nowait(None)

    async def close(self) -> None:
        """The client goes."""
        self.half(1)

    def lost(self) -> list[int]:
        """Return the data that were not delivered."""
        return self._owed

    async def _relay(self) -> None:
        pumps = [asyncio.ensure_future(self._pump(stream)) for stream in self._sources]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait(pumps, timeout=LINGER * self.second)
        self._expired = True
        for pump in pumps:
            pump.cancel()
        self.cleaned["sockets"] += 1

    async def _pump(self, stream: int) -> None:
        while (item := await self._sources[stream].get()) is not None:
            self._owed.remove(item)
