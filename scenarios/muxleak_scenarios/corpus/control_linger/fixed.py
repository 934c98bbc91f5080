"""A connection that reads for 30 seconds after its close, as a TCP linger does."""

import asyncio


class Connection:
    """One connection."""

    def __init__(self, second: float = 1.0) -> None:
        self.second = second

    async def close(self) -> None:
        """Close, and read what the peer still sends."""
        self._linger = asyncio.ensure_future(asyncio.sleep(30 * self.second))
