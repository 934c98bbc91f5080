"""Every request leaves a callback on the one future that lives as long as the process."""

import asyncio

SHUTDOWN: list[asyncio.Future[None]] = []


def on_shutdown(_future: "asyncio.Future[None]") -> None:  # leak: callback (growth)
    pass


async def before() -> None:
    SHUTDOWN.append(asyncio.get_running_loop().create_future())


async def operation() -> None:
    for _ in range(500):
        SHUTDOWN[0].add_done_callback(on_shutdown)
    await asyncio.sleep(0)
