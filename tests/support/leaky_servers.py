"""Six small servers with one leak each, and their fixed twins.

Each leak needs another kind of event. The twins differ in `fixed` alone, so that a test can compare
them. Where the order of cleaning up does not matter, the buggy variants clean up as well as the
fixed ones in all other courses.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

Reader: TypeAlias = asyncio.StreamReader
Writer: TypeAlias = asyncio.StreamWriter
MESSAGES = [b"hello\n", b"more\n"]


async def tick() -> None:
    """Work for a connection until it is cancelled."""
    while True:
        await asyncio.sleep(60)


class HalfClose:
    """Answers in three parts once the client has sent everything.

    A client that has closed cannot take the second part; then the cleaning up works. A client that
    has only closed its sending side takes all three.
    """

    def __init__(self, *, fixed: bool) -> None:
        self.fixed = fixed

    async def serve(self, reader: Reader, writer: Writer) -> None:
        ticker = asyncio.create_task(tick())
        answered = False
        try:
            await reader.read()
            for part in (b"1\n", b"2\n", b"3\n"):
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0.01)
            answered = True
        finally:
            if self.fixed or not answered:
                ticker.cancel()
            writer.close()


class ResetInWrite:
    """Echoes lines slowly; expects that a client resets where it reads, but not where it writes."""

    def __init__(self, *, fixed: bool) -> None:
        self.fixed = fixed

    async def serve(self, reader: Reader, writer: Writer) -> None:
        ticker = asyncio.create_task(tick())
        try:
            while line := await self.next_line(reader):
                for each in (line, line, line):
                    writer.write(each)
                    await writer.drain()
                    await asyncio.sleep(0)
        except ConnectionError:
            if not self.fixed:
                return
        except asyncio.CancelledError:
            ticker.cancel()
            raise
        finally:
            writer.close()
        ticker.cancel()

    async def next_line(self, reader: Reader) -> bytes:
        try:
            return await reader.readline()
        except (ConnectionError, ValueError):
            return b""


class TwoInOrder:
    """Tells each client when one that came before it has left.

    A client that leaves first leaves the tasks that wait for the others.
    """

    def __init__(self, *, fixed: bool) -> None:
        self.fixed = fixed
        self.clients: list[asyncio.Event] = []

    async def tell(self, left: asyncio.Event, writer: Writer) -> None:
        await left.wait()
        writer.write(b"somebody left\n")

    async def serve(self, reader: Reader, writer: Writer) -> None:
        tellers = [asyncio.create_task(self.tell(each, writer)) for each in self.clients]
        left = asyncio.Event()
        self.clients.append(left)
        try:
            await reader.read()
        finally:
            self.clients.remove(left)
            left.set()
            for each in tellers if self.fixed else ():
                each.cancel()
            writer.close()


class OneIteration(asyncio.Protocol):
    """Begins to work three iterations after a request, even if the connection is lost by then."""

    fixed = False

    def __init__(self) -> None:
        self.worker: asyncio.Task[None] | None = None
        self.lost = False

    def data_received(self, _data: bytes) -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, loop.call_soon, self.begin, loop)

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.worker is None and not (self.fixed and self.lost):
            self.worker = loop.create_task(tick())

    def connection_lost(self, _error: Exception | None) -> None:
        self.lost = True
        if self.worker is not None:
            self.worker.cancel()


class OneIterationFixed(OneIteration):
    """The fixed twin."""

    fixed = True


class StalledReader:
    """Gives up on a client that has not read its answer for five seconds."""

    def __init__(self, *, fixed: bool) -> None:
        self.fixed = fixed

    async def serve(self, reader: Reader, writer: Writer) -> None:
        ticker = asyncio.create_task(tick())
        try:
            while line := await reader.readline():
                writer.write(line)
                if not await self.drained(writer):
                    if self.fixed:
                        ticker.cancel()
                    writer.transport.abort()
                    return
        except (ConnectionError, ValueError):
            pass
        except asyncio.CancelledError:
            ticker.cancel()
            raise
        finally:
            writer.close()
        ticker.cancel()

    async def drained(self, writer: Writer) -> bool:
        try:
            await asyncio.wait_for(writer.drain(), 5)
        except TimeoutError:
            return False
        return True


class ShutdownInHandshake:
    """Refuses a client whose first line comes after the shutdown has begun."""

    def __init__(self, *, fixed: bool) -> None:
        self.fixed = fixed
        self.closing = False

    async def serve(self, reader: Reader, writer: Writer) -> None:
        ticker = asyncio.create_task(tick())
        done = True
        try:
            if await reader.readline() and self.closing:
                done = self.fixed
            elif not self.closing:
                await reader.read()
        finally:
            if done:
                ticker.cancel()
            writer.close()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[tuple[str, int]]:
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[:2]
        finally:
            self.closing = True
            server.close()


def _starter(kind: Callable[..., Any], *, fixed: bool) -> Callable[[], Any]:
    async def start() -> asyncio.Server:
        return await asyncio.start_server(kind(fixed=fixed).serve, "127.0.0.1", 0)

    start.__qualname__ = f"{kind.__name__}({fixed=})"
    return start


def _context(*, fixed: bool) -> Callable[[], Any]:
    return lambda: ShutdownInHandshake(fixed=fixed).running()


SERVERS: dict[str, tuple[Any, Any]] = {
    "half-close": (_starter(HalfClose, fixed=False), _starter(HalfClose, fixed=True)),
    "reset in a write": (_starter(ResetInWrite, fixed=False), _starter(ResetInWrite, fixed=True)),
    "two in order": (_starter(TwoInOrder, fixed=False), _starter(TwoInOrder, fixed=True)),
    "one iteration": (OneIteration, OneIterationFixed),
    "stalled reader": (_starter(StalledReader, fixed=False), _starter(StalledReader, fixed=True)),
    "shutdown": (_context(fixed=False), _context(fixed=True)),
}
"""The buggy and the fixed server, by the event that its leak needs."""
NEEDS = {
    "half-close": {"half-close"},
    "stalled reader": {"stall"},
    "shutdown": {"shutdown"},
}
"""Events without which a leak cannot be found."""
