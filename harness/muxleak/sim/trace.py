"""What happened in a run, in order: the proof that two runs were the same.

An event is a virtual time, a kind and a text made of qualified names and our own numbers. Only what
is the same on every supported Python is noted: tasks made and ended, the jumps of the clock,
connections and what arrives on them. Never a repr, an address in memory or a count of iterations.
"""

import hashlib
from collections import deque
from typing import NamedTuple

_GATHERED = 1_000  # events hashed at once: a hash per event costs more than the event
_TAIL = 200  # events kept to be shown


class Event(NamedTuple):
    """One thing that happened; `time` is in virtual seconds."""

    time: float
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.time:.6f} {self.kind} {self.text}"


class Trace:
    """Events, hashed as they come; only the last few are kept."""

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
        """24 hexadecimal digits over all events so far."""
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
