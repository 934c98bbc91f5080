"""A task ends by itself 50 ms later."""

import asyncio

FAREWELLS: list[asyncio.Task[None]] = []


async def linger() -> None:
    await asyncio.sleep(0.05)


async def operation() -> None:
    farewell = asyncio.create_task(linger())
    FAREWELLS.append(farewell)
    farewell.add_done_callback(FAREWELLS.remove)
    await asyncio.sleep(0)
