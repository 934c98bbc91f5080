"""A handler keeps a control connection open: it has made a multiplexer, and waits for its end.

The request that it serves ends with the server.
"""

import asyncio


class Handler:
    """The handler of one control connection."""

    def __init__(self, second: float = 1.0) -> None:
        self.second = second
        self._request_ended = asyncio.Event()
        self._multiplexer_ended = asyncio.Event()

    def open(self) -> None:
        """The peer connects."""
        self._handler = asyncio.ensure_future(self._handle())

    def shutdown(self) -> None:
        """The server stops."""
        self._request_ended.set()

    async def close(self) -> None:
        """The multiplexer ends, as its peer has gone."""
        self._multiplexer_ended.set()

    async def _handle(self) -> None:
        ends = (self._request_ended, self._multiplexer_ended)
        waits = [asyncio.ensure_future(each.wait()) for each in ends]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
