"""A dispatcher keeps one current entry for a peer, which a timer ends when it is idle.

When an entry ends, its reader takes half a second to tear down, and then removes the entry. Data
goes to the current entry, or to a new one. A delivery takes a second.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any


class Entry:
    """A connection to a destination."""

    def __init__(self) -> None:
        self.down = asyncio.Event()
        self.tasks: set[asyncio.Task[None]] = set()
        self.timer: asyncio.TimerHandle | None = None


class Dispatcher:
    """The dispatcher of one peer."""

    idle = 60.0  # seconds

    def __init__(self, second: float = 1.0) -> None:
        self.second = second
        self._current: Entry | None = None
        self._entries: list[Entry] = []
        self._owed: list[int] = []

    def data(self, stream: int) -> None:
        """A unit of data arrives."""
        entry = self._current or self._begin()
        self._owed.append(stream)
        self._start(entry, self._deliver(entry, stream))

    def lost(self) -> list[int]:
        """Return the data that were not delivered."""
        return self._owed

    async def close(self) -> None:
        """End the dispatcher after what is being delivered."""
        await asyncio.sleep(2 * self.second)
        for entry in self._entries:
            self._end(entry)
        await asyncio.gather(*(task for entry in self._entries for task in entry.tasks))

    def _begin(self) -> Entry:
        entry = self._current = Entry()
        self._entries.append(entry)
        entry.timer = asyncio.get_running_loop().call_later(
            self.idle * self.second, self._time_out, entry
        )
        self._start(entry, self._read(entry))
        return entry

    def _time_out(self, entry: Entry) -> None:
        self._current = None
        self._end(entry)

    def _end(self, entry: Entry) -> None:
        entry.down.set()
        if entry.timer is not None:
            entry.timer.cancel()

    async def _read(self, entry: Entry) -> None:
        await entry.down.wait()
        await asyncio.sleep(self.second / 2)
        self._remove(entry)

    async def _deliver(self, entry: Entry, stream: int) -> None:
        await asyncio.sleep(self.second)
        if not entry.down.is_set():
            self._owed.remove(stream)

    def _start(self, entry: Entry, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        entry.tasks.add(task)
        task.add_done_callback(entry.tasks.discard)

    def _remove(self, entry: Entry) -> None:
        if self._current is not None:
            self._end(self._current)
            self._current = None
