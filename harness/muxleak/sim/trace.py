"""The trace of a run: its events in order, with a hash that proves two runs the same."""

# Only events that are the same on every supported Python, in every process and under every hash
# seed are noted: tasks made and ended, connections, and the data that arrives on them. Their text
# is made of qualified names and of numbers that the simulation itself gives. It never holds a repr,
# an address in memory, a task name of asyncio's (they come from a counter of the whole process) or
# a number of iterations, which differs between Pythons.

import hashlib
from collections import deque
from typing import NamedTuple

_GATHERED = 1_000  # events hashed at once: a hash per event costs more than the event
_TAIL = 200  # events kept to be shown


class Event(NamedTuple):
    """An event of a run; `time` is in virtual seconds."""

    time: float
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.time:.6f} {self.kind} {self.text}"


class Trace:
    """Hashes the events of a run; keeps only the last few to be shown."""

    __slots__ = ("_fresh", "_hash", "_tail", "count")

    def __init__(self) -> None:
        self.count = 0
        self._fresh: list[Event] = []
        self._hash = hashlib.blake2b(digest_size=12)
        self._tail: deque[Event] = deque(maxlen=_TAIL)

    def note(self, time: float, kind: str, text: str) -> None:
        """Add an event."""
        self.count += 1
        self._fresh.append(Event(time, kind, text))
        if len(self._fresh) >= _GATHERED:
            self._digest()

    @property
    def hash(self) -> str:
        """The hash of all events so far, 24 hexadecimal digits."""
        self._digest()
        return self._hash.hexdigest()

    @property
    def tail(self) -> list[Event]:
        """The last events, oldest first."""
        self._digest()
        return list(self._tail)

    def _digest(self) -> None:
        # repr of a float is exact and the same everywhere.
        lines = [f"{time!r} {kind} {text}\n" for time, kind, text in self._fresh]
        self._hash.update("".join(lines).encode())
        self._tail.extend(self._fresh)
        self._fresh.clear()
