"""An ASGI application under hypercorn that sends news until its client leaves."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from hypercorn.asyncio import serve
from hypercorn.config import Config

MESSAGES = [
    b"GET / HTTP/1.1\r\nHost: test\r\n\r\n",
    b"GET /news HTTP/1.1\r\nHost: test\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello",
]


OPTIONS = {"grace": 1}


async def tick(send: Any) -> None:
    while True:
        await asyncio.sleep(0.2)
        await send({"type": "http.response.body", "body": b"tick", "more_body": True})


async def lifespan(receive: Any, send: Any) -> None:
    for kind in ("startup", "shutdown"):
        assert (await receive())["type"] == f"lifespan.{kind}"
        await send({"type": f"lifespan.{kind}.complete"})


async def start(send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello", "more_body": True})


async def left(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def clean_app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    await start(send)
    ticker = asyncio.create_task(tick(send))
    try:
        await left(receive)
    finally:
        ticker.cancel()


async def planted_app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    await start(send)
    ticker = asyncio.create_task(tick(send))  # planted
    await left(receive)
    ticker.done()  # where cancel() was meant


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.graceful_timeout = config.keep_alive_timeout = 0.2
    stop = asyncio.Event()
    server = asyncio.create_task(serve(app, config, shutdown_trigger=stop.wait))
    yield port
    stop.set()
    await server


def clean() -> object:
    return serving(clean_app)


def planted() -> object:
    return serving(planted_app)
