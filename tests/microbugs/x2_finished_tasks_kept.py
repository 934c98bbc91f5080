"""A thousand finished tasks are kept with their results."""

import asyncio

HISTORY: list[asyncio.Task[None]] = []


async def request() -> None:
    await asyncio.sleep(0)


async def operation() -> None:
    tasks = [asyncio.create_task(request()) for _ in range(1000)]  # leak: retained (growth)
    HISTORY.extend(tasks)
    await asyncio.gather(*tasks)
