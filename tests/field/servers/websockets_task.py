"""A websockets handler that pushes news to its client until that has said goodbye."""

import asyncio

from websockets.asyncio.server import ServerConnection, serve

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
HELLO = b"\x81\x85\0\0\0\0hello"
CLOSE = b"\x88\x82\0\0\0\0\x03\xe8"
MESSAGES = [UPGRADE, HELLO, CLOSE, UPGRADE + HELLO]


async def push(connection: ServerConnection, news: asyncio.Queue[str]) -> None:
    while True:
        await connection.send(await news.get())


async def clean_handler(connection: ServerConnection) -> None:
    pusher = asyncio.create_task(push(connection, asyncio.Queue()))
    try:
        async for message in connection:
            await connection.send(message)
    finally:
        pusher.cancel()


async def planted_handler(connection: ServerConnection) -> None:
    pusher = asyncio.create_task(push(connection, asyncio.Queue()))  # planted
    # An unclean end raises out of the loop: the line below it is not reached.
    async for message in connection:
        await connection.send(message)
    pusher.cancel()


def clean() -> serve:
    return serve(clean_handler, "127.0.0.1", 8000)


def planted() -> serve:
    return serve(planted_handler, "127.0.0.1", 8000)
