"""A stateless server answers a request, as it has answered another one before."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from mcp.server.fastmcp import FastMCP

server = FastMCP("example", stateless_http=True)
app = server.streamable_http_app()


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@asynccontextmanager
async def service() -> AsyncIterator[None]:
    async with server.session_manager.run():
        await use()  # sse-starlette keeps one watcher a thread on purpose
        yield


async def use() -> None:
    request = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    accept = {"accept": "application/json, text/event-stream"}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
        answer = await client.post("/mcp", json=request, headers=accept, follow_redirects=True)
        assert '"add"' in answer.text, answer.text
