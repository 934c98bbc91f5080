"""Users wait for the next message of a subscription, or for its end, whichever comes first.

Each user waits in a task of its own, which takes the message from the queue. A message that was
taken must reach a user.
"""

import asyncio
from collections import deque


class Subscription:
    """The messages of one subscription."""

    def __init__(self, second: float = 1.0) -> None:
        self.second = second
        self._items: deque[int] = deque()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._taken: list[int] = []
        self._closed = asyncio.Event()

    async def new(self, stream: int) -> None:
        """A user waits for a message."""
        getter = asyncio.ensure_future(self._get())
        closed = asyncio.ensure_future(self._closed.wait())
        try:
            await asyncio.wait([getter, closed], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            if getter.done():
                self._taken.remove(getter.result())
                self._items.appendleft(getter.result())
                self._wake()
            getter.cancel()
            raise
        finally:
            closed.cancel()
        if not getter.done():
            getter.cancel()
            raise ConnectionError("closed")
        self._taken.remove(getter.result())

    def data(self, stream: int) -> None:
        """A message arrives."""
        self._items.append(stream)
        self._wake()

    async def close(self) -> None:
        """End the subscription."""
        self._closed.set()

    def lost(self) -> list[int]:
        """Return the messages that were taken and reached nobody."""
        return self._taken

    async def _get(self) -> int:
        while not self._items:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                self._waiters.remove(waiter)
                self._wake()
                raise
            self._waiters.remove(waiter)
        item = self._items.popleft()
        self._taken.append(item)
        return item

    def _wake(self) -> None:
        asleep = [each for each in self._waiters if not each.done()]
        if self._items and asleep:
            asleep[0].set_result(None)
