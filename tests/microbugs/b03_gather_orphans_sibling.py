"""One of two gathered tasks fails; the other is nobody's any more."""

import asyncio
import contextlib

STARTED: list[asyncio.Task[None]] = []


async def fetch() -> None:
    raise ConnectionError("refused")


async def wait_for_push() -> None:
    await asyncio.get_running_loop().create_future()


async def operation() -> None:
    both = [asyncio.create_task(fetch())]  # leak: retained (growth)
    both.append(asyncio.create_task(wait_for_push()))  # leak: task
    STARTED.extend(both)
    with contextlib.suppress(ConnectionError):
        await asyncio.gather(*both)
