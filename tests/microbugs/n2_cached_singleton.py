"""A client with a background task is made at first use and kept."""

import asyncio

_client: "Client | None" = None


class Client:
    def __init__(self) -> None:
        self.requests: asyncio.Queue[int] = asyncio.Queue()
        self.worker = asyncio.create_task(self.work())

    async def work(self) -> None:
        while True:
            await self.requests.get()


async def operation() -> None:
    global _client
    if _client is None:
        _client = Client()
    await _client.requests.put(1)
