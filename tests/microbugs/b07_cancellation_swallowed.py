"""A task takes its cancellation for a glitch and goes on."""

import asyncio

POLLERS: list[asyncio.Task[None]] = []


async def poll() -> None:
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:  # swallows
            continue


async def operation() -> None:
    poller = asyncio.create_task(poll())  # leak: task
    POLLERS.append(poller)
    await asyncio.sleep(0)
    poller.cancel()
    await asyncio.sleep(0)
