"""Background tasks are kept in a set, as the documentation advises, and one never ends."""

import asyncio

BACKGROUND: set[asyncio.Task[None]] = set()


class Connection:
    def __init__(self) -> None:
        self.closed = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self.keep_alive())  # leak: task
        BACKGROUND.add(task)
        task.add_done_callback(BACKGROUND.discard)

    async def keep_alive(self) -> None:
        await self.closed


async def operation() -> None:
    Connection()
    await asyncio.sleep(0)
