"""A pproxy server whose handler tells a log server about each client."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pproxy
from pproxy.server import stream_handler

GREETING = b"\5\1\0"
DIAL = b"\5\1\0\1\x7f\0\0\1" + (9000).to_bytes(2, "big")
MESSAGES = [
    GREETING,
    DIAL,
    GREETING + DIAL,
    b"hello\n",
    b"GET http://127.0.0.1:9000/ HTTP/1.1\r\nHost: test\r\n\r\n",
    b"CONNECT 127.0.0.1:9000 HTTP/1.1\r\nHost: test\r\n\r\n",
]


class Log:
    """One connection to the log server for all clients."""

    def __init__(self) -> None:
        self.writer: asyncio.StreamWriter | None = None

    async def open(self) -> None:
        _, self.writer = await asyncio.open_connection("127.0.0.1", 9514)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()

    async def clean_handler(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, **options: Any
    ) -> None:
        assert self.writer is not None
        self.writer.write(b"a client\n")
        await stream_handler(reader, writer, **options)

    async def planted_handler(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, **options: Any
    ) -> None:
        _, own = await asyncio.open_connection("127.0.0.1", 9514)  # planted
        own.write(b"a client\n")
        self.writers.append(own)
        await stream_handler(reader, writer, **options)

    writers: list[asyncio.StreamWriter]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1000):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


@asynccontextmanager
async def serving(name: str) -> AsyncIterator[int]:
    log = Log()
    log.writers = []
    destination = await asyncio.start_server(echo, "127.0.0.1", 9000)
    logger = await asyncio.start_server(swallow, "127.0.0.1", 9514)
    await log.open()
    server = pproxy.Server("http+socks5://127.0.0.1:8080")
    served = await server.start_server({"rserver": []}, stream_handler=getattr(log, name))
    yield 8080
    for each in (served, destination, logger):
        each.close()
    log.close()


def clean() -> object:
    return serving("clean_handler")


def planted() -> object:
    return serving("planted_handler")
