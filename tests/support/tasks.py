"""What tests leave behind on purpose."""

import asyncio
from collections.abc import Coroutine
from typing import Any


async def forever() -> None:
    """Wait for nothing."""
    await asyncio.get_running_loop().create_future()


def spawn(
    loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, object], **settings: Any
) -> None:
    """Make a task that nobody keeps."""
    _ = loop.create_task(coro, **settings)
