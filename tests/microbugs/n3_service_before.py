"""A service was started before, and serves the operation."""

import asyncio

SERVICES: list["Service"] = []


class Service:
    def __init__(self) -> None:
        self.requests: asyncio.Queue[asyncio.Future[int]] = asyncio.Queue()
        self.task = asyncio.create_task(self.serve())

    async def serve(self) -> None:
        while True:
            (await self.requests.get()).set_result(1)


async def before() -> None:
    SERVICES.append(Service())


async def operation() -> None:
    answer = asyncio.get_running_loop().create_future()
    await SERVICES[0].requests.put(answer)
    await answer
