"""A server-sent stream is read to its end, twice: the first time before the check.

sse-starlette keeps one watcher a thread on purpose, which its first response starts.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route


async def numbers(_request: Request) -> EventSourceResponse:
    async def events() -> AsyncIterator[dict[str, str]]:
        for number in range(3):
            yield {"data": str(number)}

    return EventSourceResponse(events())


app = Starlette(routes=[Route("/numbers", numbers)])


async def use() -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as client:
        answer = await client.get("/numbers")
        assert answer.text.count("data:") == 3


@asynccontextmanager
async def service() -> AsyncIterator[None]:
    await use()
    yield
