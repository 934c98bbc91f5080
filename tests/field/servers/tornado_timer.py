"""A tornado server that greets its clients and reminds them of their silence."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tornado.ioloop import IOLoop
from tornado.iostream import IOStream, StreamClosedError
from tornado.tcpserver import TCPServer

MESSAGES = [b"hello\n", b"how are you?\n", b"\n"]
HOUR = 3600


def remind(stream: IOStream) -> None:
    if not stream.closed():
        stream.write(b"are you there?\n")


class CleanServer(TCPServer):
    async def handle_stream(self, stream: IOStream, address: object) -> None:
        loop = IOLoop.current()
        reminder = loop.call_later(HOUR, remind, stream)
        try:
            while True:
                await stream.write(await stream.read_until(b"\n", max_bytes=10_000))
        except StreamClosedError:
            pass
        finally:
            loop.remove_timeout(reminder)


class PlantedServer(TCPServer):
    async def handle_stream(self, stream: IOStream, address: object) -> None:
        loop = IOLoop.current()
        reminder = loop.call_later(HOUR, remind, stream)  # planted
        try:
            while await stream.read_until(b"\n", max_bytes=10_000) != b"\n":
                await stream.write(b"hello\n")
            loop.remove_timeout(reminder)
            stream.close()
        except StreamClosedError:
            pass


@asynccontextmanager
async def serving(server: TCPServer) -> AsyncIterator[int]:
    server.listen(0, "127.0.0.1")
    yield next(iter(server._sockets.values())).getsockname()[1]
    server.stop()


def clean() -> object:
    return serving(CleanServer())


def planted() -> object:
    return serving(PlantedServer())
