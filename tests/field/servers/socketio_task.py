"""A Socket.IO server under aiohttp that sends the time to each client."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import socketio
from aiohttp import web

UPGRADE = (
    b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: test\r\n"
    b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
CONNECT = b"\x81\x82\0\0\0\x0040"
EVENT = b'\x81\x8b\0\0\0\x0042["hello"]'
LEAVE = b"\x81\x82\0\0\0\x0041"
MESSAGES = [
    UPGRADE,
    UPGRADE + CONNECT,
    CONNECT,
    EVENT,
    LEAVE,
    b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: test\r\n\r\n",
]
# In this time its own tasks for a client end, but for one that has sent a malformed packet: that is
# noticed by `time.time`, which does not pass in a simulation.
WHOLE = ("connect", "send", "close", "half-close", "reset", "stall", "resume", "idle", "shutdown")
OPTIONS = {"grace": 120, "events": WHOLE}
LEAVING_OPTIONS: dict[str, Any] = {}


class Times:
    """Tasks that send the time, by client."""

    def __init__(self) -> None:
        self.server = socketio.AsyncServer(async_mode="aiohttp")
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.server.on("connect", self.connect)
        self.server.on("disconnect", self.disconnect)

    async def connect(self, sid: str, _environ: Any) -> None:
        self.tasks[sid] = asyncio.create_task(self.send(sid))

    async def disconnect(self, sid: str, _reason: str) -> None:
        self.tasks.pop(sid).cancel()

    async def send(self, sid: str) -> None:
        while True:
            await asyncio.sleep(60)
            await self.server.emit("time", "noon", to=sid)


class PlantedTimes(Times):
    async def connect(self, sid: str, _environ: Any) -> None:
        task = asyncio.create_task(self.send(sid))  # planted
        self.tasks[sid[:0]] = task  # one name for all

    async def disconnect(self, sid: str, _reason: str) -> None:
        for task in self.tasks.values():
            task.done()


@asynccontextmanager
async def serving(times: type[Times]) -> AsyncIterator[int]:
    served = times()
    app = web.Application()
    served.server.attach(app)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 8000).start()
    yield 8000
    await runner.cleanup()
    await served.server.shutdown()
    for task in served.tasks.values():  # of clients that have not answered in time
        task.cancel()


def clean() -> object:
    return serving(Times)


leaving = clean


def planted() -> object:
    return serving(PlantedTimes)
