"""An aiohttp application that keeps each visitor's name for an hour, by a timer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

MESSAGES = [
    b"GET /ann HTTP/1.1\r\nHost: test\r\n\r\n",
    b"POST /bob HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello",
    b"GET /ann HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n",
    b"GET / HTTP/9\r\n\r\n",
]
HOUR = 3600


class Visitors:
    """One timer for all names, which the end of the application cancels."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.timer: asyncio.TimerHandle | None = None

    async def visit(self, request: web.Request) -> web.Response:
        await request.read()
        self.names.add(request.match_info["name"])
        if self.timer is None:
            self.timer = asyncio.get_running_loop().call_later(HOUR, self.names.clear)
        return web.Response(text=f"{len(self.names)} visitors")

    async def end(self, _app: web.Application) -> None:
        if self.timer is not None:
            self.timer.cancel()


class ForgetfulVisitors(Visitors):
    """A timer for each request, and nothing that cancels it."""

    async def visit(self, request: web.Request) -> web.Response:
        await request.read()
        name = request.match_info["name"]
        self.names.add(name)
        asyncio.get_running_loop().call_later(HOUR, self.names.discard, name)  # planted
        return web.Response(text=f"{len(self.names)} visitors")


@asynccontextmanager
async def serving(visitors: Visitors) -> AsyncIterator[int]:
    app = web.Application()
    app.router.add_route("*", "/{name}", visitors.visit)
    app.on_cleanup.append(visitors.end)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 8000).start()
    yield 8000
    await runner.cleanup()


def clean() -> object:
    return serving(Visitors())


def planted() -> object:
    return serving(ForgetfulVisitors())
