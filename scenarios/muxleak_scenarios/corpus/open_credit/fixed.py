"""A session has two credits for streams that the peer has not acknowledged yet.

An opener takes a credit, then writes a frame, which may fail.
"""


class Session:
    """One session."""

    def __init__(self, second: float = 1.0) -> None:
        self.second = second
        self._credits = 2
        self._pending: set[int] = set()
        self._stalled = False

    def new(self, stream: int) -> None:
        """A user opens a stream."""
        if not self._credits:
            raise ConnectionError("too many streams wait for the peer")
        self._credits -= 1
        if self._stalled:
            self._credits += 1
            raise ConnectionError("the frame cannot be written")
        self._pending.add(stream)

    def data(self, stream: int) -> None:
        """The peer acknowledges a stream."""
        if stream in self._pending:
            self._pending.remove(stream)
            self._credits += 1

    def stall(self) -> None:
        """Writes fail from now on."""
        self._stalled = True

    async def close(self) -> None:
        """End the session."""
        self._credits += len(self._pending)
        self._pending.clear()

    def in_use(self) -> int:
        """Return the number of credits that are taken."""
        return 2 - self._credits
