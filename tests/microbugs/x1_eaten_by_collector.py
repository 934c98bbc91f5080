"""A task that nobody holds waits for a future that nobody holds."""

import asyncio
import gc


async def lost() -> None:
    await asyncio.get_running_loop().create_future()


async def operation() -> None:
    task = asyncio.create_task(lost())  # leak: destroyed
    del task
    await asyncio.sleep(0)
    gc.collect()
