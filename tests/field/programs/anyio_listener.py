"""A listener on a Unix socket is closed while a task waits for its next connection."""

import asyncio
import tempfile
from contextlib import suppress
from pathlib import Path

import anyio


async def use() -> None:
    with tempfile.TemporaryDirectory() as folder:
        listener = await anyio.create_unix_listener(Path(folder) / "socket")

        async def accept() -> None:
            with suppress(anyio.ClosedResourceError):
                await listener.accept()

        task = asyncio.create_task(accept())
        await asyncio.sleep(0.05)
        await listener.aclose()
        await asyncio.wait([task], timeout=1)
