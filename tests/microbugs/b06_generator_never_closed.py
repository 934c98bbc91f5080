"""An asynchronous generator is read once and neither finished nor closed."""

import asyncio
from collections.abc import AsyncIterator

STREAMS: list[AsyncIterator[int]] = []


async def rows() -> AsyncIterator[int]:
    try:
        for number in range(10):
            await asyncio.sleep(0)
            yield number
    finally:
        await asyncio.sleep(0)


async def operation() -> None:
    stream = rows()
    STREAMS.append(stream)
    await anext(stream)  # leak: generator
