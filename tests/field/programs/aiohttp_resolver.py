"""A request is cancelled while its name is looked up, and the session is closed."""

import asyncio
from typing import Any

from aiohttp import ClientSession, TCPConnector
from aiohttp.abc import AbstractResolver


class Slow(AbstractResolver):
    """A resolver whose server never answers."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def resolve(self, *_args: Any, **_options: Any) -> list[Any]:
        self.asked.set()
        await asyncio.Event().wait()
        return []

    async def close(self) -> None:
        """Nothing to close."""


async def use() -> None:
    resolver = Slow()
    async with ClientSession(connector=TCPConnector(resolver=resolver)) as session:
        request = asyncio.create_task(session.get("http://slow.example/"))
        await resolver.asked.wait()
        request.cancel()
        await asyncio.wait([request])
