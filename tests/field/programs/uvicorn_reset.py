"""A client reads an answer and resets its connection, and the server stops."""

import asyncio
import socket
import struct
from typing import Any

import uvicorn


async def app(scope: dict[str, Any], _receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    headers = [(b"content-length", b"6")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"answer"})


async def use() -> None:
    config = uvicorn.Config(app, lifespan="off", log_level="error", timeout_keep_alive=600)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(server.serve([listener]))
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        await reader.readuntil(b"answer")
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        await asyncio.sleep(0.1)
        server.should_exit = True
        await serving
