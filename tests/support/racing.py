"""Programs with a leak that depends on the order of their tasks, and the same without it.

Each is called afresh for every run, has no assertion, and leaves nothing in the order that stock
asyncio keeps.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from tasks import forever

Program = Callable[[], Coroutine[Any, Any, None]]


async def pause(iterations: int) -> None:
    """Give way so many times."""
    for _ in range(iterations):
        await asyncio.sleep(0)


def watcher(*, fixed: bool) -> Program:
    """A session whose watcher is forgotten if the close overtakes its start; no assertion."""

    async def main() -> None:
        watchers: list[asyncio.Task[None]] = []
        closed = asyncio.Event()

        async def start() -> None:
            await asyncio.sleep(0)
            if fixed and closed.is_set():
                return
            watchers.append(asyncio.create_task(forever()))

        async def close() -> None:
            await pause(2)
            closed.set()
            for task in watchers:
                task.cancel()

        await asyncio.gather(start(), close())
        await pause(2)

    return main


def deep_mux(*, fixed: bool) -> Program:
    """Three connections in sequence; only the third can leak, and only in one way.

    Its close has to land between register and start, while the second still drains.
    """

    async def main() -> None:
        registered: set[int] = set()
        draining: set[int] = set()
        watchers: dict[int, asyncio.Task[None]] = {}
        tails: list[asyncio.Task[None]] = []

        async def start(number: int) -> None:
            await pause(1)
            kept = not fixed and number == 3 and 2 in draining
            if number in registered or kept:
                watchers[number] = asyncio.create_task(forever())

        async def close(number: int) -> None:
            await pause(6)
            registered.discard(number)
            if number in watchers:
                watchers[number].cancel()
                tails.append(watchers[number])
            tails.append(asyncio.create_task(drain(number)))

        async def drain(number: int) -> None:
            draining.add(number)
            await pause(2)
            draining.discard(number)

        for number in (1, 2, 3):
            registered.add(number)
            await asyncio.gather(start(number), close(number))
        await asyncio.gather(*tails, return_exceptions=True)

    return main
