"""A watcher awaits an event that nobody sets."""

import asyncio

WATCHERS: list[asyncio.Task[None]] = []


async def watch(closed: asyncio.Event) -> None:
    await closed.wait()


async def operation() -> None:
    WATCHERS.append(asyncio.create_task(watch(asyncio.Event())))  # leak: task
    await asyncio.sleep(0)
