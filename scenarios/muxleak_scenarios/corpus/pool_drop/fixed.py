"""A pool with one session, which is dialled again when it has failed.

A session has a task that sends, which ends when the session is closed.
"""

import asyncio


class Session:
    """A session of the pool."""

    def __init__(self) -> None:
        self.failed = False
        self._end = asyncio.Event()
        self.sender = asyncio.ensure_future(self._end.wait())

    def end(self) -> None:
        """End the session."""
        self._end.set()


class Pool:
    """The pool."""

    def __init__(self, second: float = 1.0) -> None:
        self.second = second

    def open(self) -> None:
        """Dial the first session."""
        self._session = Session()

    def new(self, stream: int) -> None:
        """A user opens a stream."""
        if self._session.failed:
            self._session.end()
            self._session = Session()

    def error(self) -> None:
        """The transport of the session fails."""
        self._session.failed = True

    async def close(self) -> None:
        """End the pool."""
        self._session.end()
