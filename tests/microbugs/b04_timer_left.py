"""A timer is set and never cancelled."""

import asyncio

TIMERS: list[asyncio.TimerHandle] = []


def expire() -> None:
    pass


async def operation() -> None:
    TIMERS.append(asyncio.get_running_loop().call_later(3600, expire))  # leak: timer
    await asyncio.sleep(0)
