"""A client ends its connection while the application waits for the next event of the request."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from hypercorn.asyncio import serve
from hypercorn.config import Config

PORT: list[int] = []


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while (kind := (await receive())["type"]) == "lifespan.startup":
            await send({"type": f"{kind}.complete"})
        await send({"type": f"{kind}.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"first", "more_body": True})
    while (await receive())["type"] != "http.disconnect":
        pass


@asynccontextmanager
async def service() -> AsyncIterator[None]:
    listener = socket.create_server(("127.0.0.1", 0))
    PORT[:] = [listener.getsockname()[1]]
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.graceful_timeout = 0.2
    config.loglevel = "ERROR"
    stop = asyncio.Event()
    server = asyncio.create_task(serve(app, config, shutdown_trigger=stop.wait))
    yield
    stop.set()
    await server


async def use() -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", PORT[0])
    writer.write(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    await reader.readuntil(b"first")
    writer.close()
    await writer.wait_closed()
