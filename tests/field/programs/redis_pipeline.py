"""A pipeline is cancelled while it gives its connection back."""

import asyncio

from redis.asyncio import Redis
from redis.asyncio.connection import Connection, ConnectionPool


async def use() -> None:
    asked = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            words = []
            for _ in range(int(line[1:])):
                length = int((await reader.readline())[1:])
                words.append((await reader.readexactly(length + 2)).strip())
            if words[0] == b"UNWATCH":
                asked.set()  # and never answers
            else:
                writer.write(b"+OK\r\n")
        writer.close()

    async def transaction() -> None:
        async with client.pipeline() as pipeline:
            await pipeline.watch("key")

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    pool = ConnectionPool(Connection, host="127.0.0.1", port=port, protocol=2)
    client = Redis(connection_pool=pool)
    task = asyncio.create_task(transaction())
    await asked.wait()
    task.cancel()
    await asyncio.wait([task])
    server.close()
    KEPT.append(client)  # as a service keeps its client


KEPT: list[Redis] = []
