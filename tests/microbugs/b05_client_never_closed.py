"""A client connection is used and never closed."""

import asyncio

SERVERS: list[asyncio.Server] = []
WRITERS: list[asyncio.StreamWriter] = []


async def echo(  # leak: task, transport? (growth)
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    while data := await reader.read(100):
        writer.write(data)
    writer.close()


async def before() -> None:
    # The server is older than the check, so its end is charged to the handler.
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    SERVERS.append(server)


async def operation() -> None:
    port = SERVERS[0].sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)  # leak: transport
    WRITERS.append(writer)
    writer.write(b"ping")
    await reader.readexactly(4)
