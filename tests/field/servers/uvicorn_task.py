"""An ASGI application under uvicorn that streams news until its client leaves."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

MESSAGES = [
    b"GET / HTTP/1.1\r\nHost: test\r\n\r\n",
    b"GET /stream HTTP/1.1\r\nHost: test\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello",
    b"GET / HTTP/1.1\r\n\r\n",
]


async def start(send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello", "more_body": True})


async def tick(send: Any) -> None:
    while True:
        await asyncio.sleep(3)
        await send({"type": "http.response.body", "body": b"tick", "more_body": True})


async def left(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def clean_app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    await start(send)
    if scope["path"] == "/stream":
        ticker = asyncio.create_task(tick(send))
        try:
            await left(receive)
        finally:
            ticker.cancel()
    await send({"type": "http.response.body", "body": b""})


async def waiting_app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    await start(send)
    if scope["path"] == "/stream":
        await left(receive)
    await send({"type": "http.response.body", "body": b""})


async def planted_app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    await start(send)
    if scope["path"] == "/stream":
        ticker = asyncio.create_task(tick(send))  # planted
        await left(receive)
        ticker.done()  # where cancel() was meant
    await send({"type": "http.response.body", "body": b""})


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[int]:
    config = uvicorn.Config(app, port=8000, lifespan="off", timeout_graceful_shutdown=1)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    # The parts of serve() without its handlers of signals.
    await server.startup()
    yield 8000
    await server.shutdown()


def clean() -> object:
    return serving(clean_app)


def waiting() -> object:
    return serving(waiting_app)


def planted() -> object:
    return serving(planted_app)
