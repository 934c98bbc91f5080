"""Connecting is cancelled, each time a little later."""

import asyncio
from contextlib import suppress

import anyio
from anyio.abc import SocketStream


async def serve(stream: SocketStream) -> None:
    async with stream:
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            await stream.receive()


async def connect(port: int, turns: int) -> None:
    async def later(scope: anyio.CancelScope) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(later, group.cancel_scope)
        stream = await anyio.connect_tcp("127.0.0.1", port)
        await stream.aclose()


async def use() -> None:
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as group,
    ):
        group.start_soon(listener.serve, serve)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        for turns in range(12):
            await connect(port, turns)
        group.cancel_scope.cancel()
