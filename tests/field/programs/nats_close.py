"""A client is closed while a task waits for the next message of a subscription."""

import asyncio
import json
from contextlib import suppress

import nats


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    info = {"server_id": "test", "version": "2.10.0", "max_payload": 1048576, "proto": 1}
    writer.write(b"INFO " + json.dumps(info).encode() + b"\r\n")
    while line := await reader.readline():
        if line.startswith(b"PING"):
            writer.write(b"PONG\r\n")
    writer.close()


async def use() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    client = await nats.connect(f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    subscription = await client.subscribe("news")

    async def receive() -> None:
        with suppress(nats.errors.Error):
            await subscription.next_msg(timeout=None)

    task = asyncio.create_task(receive())
    await client.flush()
    await client.close()
    await asyncio.wait([task], timeout=1)
    server.close()
