"""A connection whose close takes five seconds, within the bound that it states."""

import asyncio


class Connection:
    """One connection."""

    def __init__(self, second: float = 1.0) -> None:
        self.second = second

    async def close(self) -> None:
        """Wait for the acknowledgement of the peer."""
        await asyncio.sleep(5 * self.second)
