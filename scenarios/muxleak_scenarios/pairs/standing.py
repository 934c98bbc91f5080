"""Servers that keep something on purpose: the subjects of the negative controls.

Each is a world whose server behaves well, and has switches that take away what makes it so.
"""

from __future__ import annotations

import asyncio
from abc import ABC
from contextlib import suppress
from contextvars import Context as Variables
from functools import partial
from typing import TYPE_CHECKING, Any

from muxleak_scenarios.targets.target import Allowance, Target
from muxleak_vless import Lifecycle, NetworkType
from muxleak_vless.errors import LinkLost

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from muxleak_vless import Address, Context, Limits, MuxSession, Stream
    from muxleak_vless.link import Link
    from muxleak_vless.outbound import Dial
    from muxleak_vless.stream import Handler

POOLED = "echo.dest"


class Lingering(Target, ABC):
    """Every handler says farewell when it is done, for half the close limit, cancelled or not."""

    bounded = True

    def handler(self, dial: Dial, limits: Limits) -> Handler:
        """Serve as ever, then linger."""
        serve = super().handler(dial, limits)
        seconds = limits.close_seconds / 2 if self.bounded else None

        async def linger(stream: Stream, context: Context) -> None:
            try:
                await serve(stream, context)
            finally:
                await _farewell(seconds)

        return linger


class Pooling(Target, ABC):
    """Streams to one destination take turns on connections, one of which is kept when idle."""

    allowance = Allowance(transports=1, timers=1)
    reused = apart = True

    def handler(self, dial: Dial, limits: Limits) -> Handler:
        """Serve that destination's streams from a pool, others as ever."""
        serve = super().handler(dial, limits)
        most = self.allowance.transports if self.reused else None
        pool = Pool(dial, limits, self.context, most=most, apart=self.apart)

        async def exchange(stream: Stream, context: Context) -> None:
            if stream.target.host == POOLED and stream.network is NetworkType.TCP:
                await pool.exchange(stream)
            else:
                await serve(stream, context)

        return exchange


class Recording(Target, ABC):
    """One task writes the access log of all connections, and the first stream starts it."""

    allowance = Allowance(tasks=1)
    shared = apart = True

    def handler(self, dial: Dial, limits: Limits) -> Handler:
        """Note each stream, then serve it as ever."""
        serve = super().handler(dial, limits)
        log = AccessLog(self.context, apart=self.apart)

        async def record(stream: Stream, context: Context) -> None:
            log.note(f"{stream.target}", "all" if self.shared else context)
            await serve(stream, context)

        return record


class LingeringClose(Lifecycle):
    """Ends its direction and drops the rest of the other, until the peer ends that: for a limit."""

    def end_link(self, session: MuxSession) -> None:
        """Flush, and wait for the peer no longer than the close limit."""
        session.link.finish()

    def hang_up(self, link: Link) -> None:
        """Do the same for a connection that was refused."""
        link.finish()


class EndlessClose(Lifecycle):
    """The same without a limit."""

    def end_link(self, session: MuxSession) -> None:
        """Wait for the peer."""
        session.link.send_eof()

    def hang_up(self, link: Link) -> None:
        """Wait for the peer."""
        link.send_eof()


class Pool:
    """Connections to one destination that answers every byte with one; it keeps ``most`` idle.

    Unless ``apart``, a connection belongs to whoever dialled it, as does what it starts. Without
    ``most`` all are kept and none is used again.
    """

    def __init__(
        self, dial: Dial, limits: Limits, server: Context, *, most: int | None, apart: bool
    ) -> None:
        self._dial_to = dial
        self._limits = limits
        self._server = server
        self._most = most
        self._apart = apart
        self._idle: list[Link] = []
        server.on_cancel(self._close)

    async def exchange(self, stream: Stream) -> None:
        """Serve a stream.

        Raises:
            LinkLost: if the destination closes in the middle of an answer.
            OSError: if it cannot be reached, or the server has ended.
        """
        link = await self._take(stream.target)
        owed = 0
        try:
            while data := await stream.read():
                link.send(data)
                owed = len(data)
                while owed:
                    answer = await link.receive()
                    if not answer:
                        raise LinkLost("the destination closed in the middle of an answer")
                    owed -= len(answer)
                    await stream.write(answer)
        finally:
            if owed:
                link.close()
            else:
                self._give(link)

    async def _take(self, address: Address) -> Link:
        if self._most is None:
            await self._dial(address)
            return self._idle[-1]
        while not self._server.cancelled:
            while self._idle:
                link = self._idle.pop()
                if not (link.closing or link.ended):
                    return link
                link.close()
            await self._dial(address)
        raise ConnectionAbortedError("the server has ended")

    async def _dial(self, address: Address) -> None:
        # By way of the list: whoever is cancelled at the moment of success loses no connection.
        await _start(self._connect(address), apart=self._apart)

    async def _connect(self, address: Address) -> None:
        self._give(await self._dial_to(address, self._limits))

    def _give(self, link: Link) -> None:
        spare = self._most is None or len(self._idle) < self._most
        if link.closing or link.ended or self._server.cancelled or not spare:
            link.close()
        else:
            self._idle.append(link)

    def _close(self, _cause: BaseException) -> None:
        while self._idle:
            self._idle.pop().close()


class AccessLog:
    """Writes lines in tasks that last as long as the server; each is started by its first line.

    Unless ``apart``, a task belongs to the connection whose line was the first.
    """

    def __init__(self, server: Context, *, apart: bool) -> None:
        self.lines = 0
        self._server = server
        self._apart = apart
        self._queues: dict[object, asyncio.Queue[str]] = {}

    def note(self, line: str, writer: object) -> None:
        """Have a line written by the task of that name."""
        queue = self._queues.get(writer)
        if queue is None:
            queue = self._queues[writer] = asyncio.Queue()
            task = _start(self._write(queue), apart=self._apart)
            self._server.on_cancel(partial(_cancel, task))
        queue.put_nowait(line)

    async def _write(self, queue: asyncio.Queue[str]) -> None:
        while True:
            await queue.get()
            self.lines += 1


def _start(work: Coroutine[Any, Any, None], *, apart: bool) -> asyncio.Task[None]:
    # A context of its own is how a program says that something belongs to nobody's connection.
    variables = Variables() if apart else None
    return asyncio.get_running_loop().create_task(work, context=variables)


def _cancel(task: asyncio.Task[None], _cause: BaseException) -> None:
    task.cancel()


async def _farewell(seconds: float | None) -> None:
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()
    if seconds is not None:
        loop.call_later(seconds, over.set_result, None)
    while not over.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([over])
