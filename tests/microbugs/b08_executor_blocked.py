"""A function given to the executor outlives the operation by seconds."""

import asyncio
import time

JOBS: list[asyncio.Future[None]] = []


async def operation() -> None:
    loop = asyncio.get_running_loop()
    JOBS.append(loop.run_in_executor(None, time.sleep, 6))  # leak: job
    await asyncio.sleep(0)
