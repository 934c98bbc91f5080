"""A consumer is blocked on a queue whose producer has gone."""

import asyncio

CONSUMERS: list[asyncio.Task[None]] = []


async def consume(queue: asyncio.Queue[int]) -> None:
    while await queue.get():
        pass


async def operation() -> None:
    queue: asyncio.Queue[int] = asyncio.Queue()
    CONSUMERS.append(asyncio.create_task(consume(queue)))  # leak: task
    await queue.put(1)
