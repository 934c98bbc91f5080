"""A server leaks a watcher from the third connection on."""

import asyncio

WATCHERS: list[asyncio.Task[None]] = []


class Server:
    def __init__(self) -> None:
        self.connections = 0

    async def serve(self) -> None:
        self.connections += 1
        closed = asyncio.Event()
        watcher = asyncio.create_task(self.watch(closed))  # leak: task
        WATCHERS.append(watcher)
        await asyncio.sleep(0)
        if self.connections < 3:
            closed.set()

    async def watch(self, closed: asyncio.Event) -> None:
        await closed.wait()


async def operation() -> None:
    server = Server()
    for _ in range(5):
        await server.serve()
    WATCHERS[:] = [watcher for watcher in WATCHERS if not watcher.done()]
