"""A thread pool of one's own is used and not shut down."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

POOLS: list[ThreadPoolExecutor] = []


async def operation() -> None:
    pool = ThreadPoolExecutor(1)  # leak: thread
    POOLS.append(pool)
    await asyncio.get_running_loop().run_in_executor(pool, int)
