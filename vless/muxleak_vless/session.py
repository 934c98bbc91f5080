"""One mux.cool connection, server side: stream table, receive loop, handlers, end.

The tasks of a connection: the caller's, which runs the receive loop in `MuxSession.run`; the
watcher, which turns the end of a context into the cleanup; and one per stream for its handler.

A stream that has left the table while its handler still runs is *lingering*, and the cleanup
reaches it there: a handler stays registered until its task has ended, not until its stream has.
Every life-cycle decision is asked of a `Lifecycle`; this file has no opinion.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

from muxleak_vless.address import NetworkType
from muxleak_vless.errors import (
    Cause,
    FrameError,
    LinkLost,
    PeerClosed,
    ProtocolError,
    StreamClosed,
    StreamReset,
    WriteStalled,
)
from muxleak_vless.frames import Frame, FrameDecoder, FrameStatus, encode_frame
from muxleak_vless.header import Response, encode_response
from muxleak_vless.lifecycle import Lifecycle
from muxleak_vless.limits import Limits
from muxleak_vless.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from muxleak_vless.address import Address
    from muxleak_vless.context import Context
    from muxleak_vless.link import Link
    from muxleak_vless.stream import Handler

log = logging.getLogger("muxleak_vless")


class MuxSession:
    """The state of one connection that carries the mux.cool command.

    ``cleanups`` counts how often the cleanup acted (right: once). ``on_cleanup`` is called each
    time with the cause: what the caller holds for the connection is given back there.
    """

    def __init__(
        self,
        link: Link,
        handler: Handler,
        parent: Context,
        *,
        lifecycle: Lifecycle | None = None,
        limits: Limits | None = None,
        on_cleanup: Callable[[BaseException], None] | None = None,
    ) -> None:
        self.link = link
        self.parent = parent
        self.context = parent.child("mux connection")
        self.lifecycle = lifecycle or Lifecycle()
        self.limits = limits or Limits()
        self.streams: dict[int, Stream] = {}
        self.closing = False
        self.cleanups = 0
        self.cause: BaseException | None = None
        self._handler = handler
        self._on_cleanup = on_cleanup
        self._lingering: dict[Stream, None] = {}
        self._watcher: asyncio.Task[None] | None = None
        self._prefix = encode_response(Response())

    def __repr__(self) -> str:
        """State without an address in memory."""
        return f"<MuxSession {len(self.streams)} streams, {'closing' if self.closing else 'open'}>"

    async def run(self, received: bytes = b"") -> BaseException:
        """Serve until the connection ends and return the cause.

        ``received`` is what came in one segment with the request header. Returns after the
        handlers that the cleanup reached have ended, or have ignored their cancellation for the
        close limit.
        """
        watched = self.lifecycle.watched_context(self)
        if watched is not None and watched.cancellable:
            self._watcher = asyncio.get_running_loop().create_task(self._watch(watched))
        link = self.link
        link.on_eof = self._link_ended
        link.on_idle = partial(self.lifecycle.idle, self)
        link.on_stalled = partial(self.lifecycle.stalled, self)
        cause: BaseException = LinkLost("the receive loop was cancelled")
        try:
            cause = await self._receive(received)
        finally:
            link.on_eof = link.on_idle = link.on_stalled = None
            self.lifecycle.receive_ended(self, cause)
        await self.lifecycle.join(self)
        return self.cause or cause

    def cleanup(self, cause: BaseException) -> None:
        """Release what the connection holds, because of ``cause``. May be called from any path."""
        if not self.lifecycle.may_clean_up(self):
            return
        self.closing = True
        self.cleanups += 1
        self.cause = self.cause or cause
        self.lifecycle.release(self, cause)
        self.lifecycle.end_link(self)
        if self._on_cleanup is not None:
            self._on_cleanup(cause)

    # Streams: what the answers are built from.

    def reachable(self) -> list[Stream]:
        """Return the streams of the table and those whose handlers are still ending."""
        return [*self.streams.values(), *self._lingering]

    @property
    def load(self) -> int:
        """How many streams there are, with those whose handlers are still ending."""
        return len(self.streams) + len(self._lingering)

    def retire(self, stream: Stream, cause: BaseException) -> None:
        """End both directions of a stream and free its id; its handler lingers until it ends."""
        stream.fail(cause)
        self.lifecycle.forget(self, stream)
        if stream.task is not None and not stream.task.done():
            self._lingering[stream] = None

    def end_stream(self, stream: Stream, cause: BaseException) -> None:
        """Retire a stream and cancel its handler; the peer is not told."""
        self.retire(stream, cause)
        if stream.task is not None:
            stream.task.cancel(f"{stream!r}")

    def reset_stream(self, stream: Stream, cause: BaseException) -> None:
        """End a stream and tell the peer that it failed."""
        if self._owns(stream):
            self.refuse(stream.stream_id)
        self.end_stream(stream, cause)

    def close_stream(self, stream: Stream, *, error: bool) -> None:
        """End a stream on our side; tell the peer, unless the id is another stream's by now."""
        if self._owns(stream):
            self._send(Frame.end(stream.stream_id, error=error))
        self.retire(stream, StreamClosed("closed by its handler"))

    def refuse(self, stream_id: int) -> None:
        """Tell the peer that there is no such stream."""
        self._send(Frame.end(stream_id, error=True))

    async def write(self, stream: Stream, data: bytes, address: Address | None) -> None:
        """Send a stream's bytes when the peer has room for them (see `StreamOwner.write`)."""
        source = address if stream.network is NetworkType.UDP else None
        # Frame by frame: a large write must not count as a backlog, nor delay others' frames.
        for frame in self.lifecycle.split(stream, data, source):
            await self.link.drain()
            if not self._owns(stream):
                raise StreamClosed(f"{stream!r} does not own its id") from stream.cause
            self._send_bytes(frame)

    # The tasks.

    async def _watch(self, watched: Context) -> None:
        cause = await watched.wait()
        self.cleanup(cause)

    async def _receive(self, data: bytes) -> BaseException:
        decoder = FrameDecoder()
        try:
            while True:
                decoder.receive_data(data)
                while (frame := decoder.next_frame()) is not None:
                    await self._handle(frame)
                data = await self.link.receive()
                if not data:
                    decoder.receive_eof()
                    return PeerClosed("the peer closed the connection")
        except (ProtocolError, Cause) as exc:
            if isinstance(exc, FrameError) and (opened := decoder.next_new) is not None:
                self.lifecycle.malformed(self, opened)
            # A kept traceback would close a cycle: cause, frame, session, cause.
            return exc.with_traceback(None)

    async def _serve(self, stream: Stream) -> None:
        error: Exception | None = None
        try:
            await self._handler(stream, self.lifecycle.handler_context(self))
        except StreamClosed as exc:
            log.debug("%r: %s", stream, exc)
        except Exception as exc:  # noqa: BLE001 - a handler is anybody's code; its error is logged
            log.info("%r: %s: %s", stream, type(exc).__name__, exc)
            error = exc.with_traceback(None)
        finally:
            self.lifecycle.handler_ended(self, stream, error)

    def _handler_gone(self, stream: Stream, _task: asyncio.Task[None]) -> None:
        self._lingering.pop(stream, None)
        # A cancelled task keeps its traceback, whose frames hold the stream: cut the cycle.
        stream.task = None

    async def join(self) -> None:
        """Wait until the handlers that the cleanup reached have ended, or are given up."""
        # Twice: a handler may spend its first cancellation on an orderly farewell of its own.
        try:
            for _ in range(2):
                tasks = [stream.task for stream in self._lingering if stream.task is not None]
                if not tasks:
                    return
                await asyncio.wait(tasks, timeout=self.limits.close_seconds)
                for stream in list(self._lingering):
                    self.end_stream(stream, self.cause or LinkLost("closed"))
        finally:
            for stream in self._lingering:
                log.warning("%r: its handler ignored its cancellation and is abandoned", stream)

    # Frames.

    async def _handle(self, frame: Frame) -> None:
        if frame.padding and not self.lifecycle.tolerates(frame):
            raise FrameError("metadata", 0, "no more than it must say", f"{frame.padding!r}")
        if frame.status is FrameStatus.NEW:
            await self._open(frame)
        elif frame.status is FrameStatus.KEEP:
            await self._data(frame)
        elif frame.status is FrameStatus.END:
            await self._end(frame)

    async def _open(self, frame: Frame) -> None:
        target, network = frame.target, frame.network
        if target is None or network is None:
            raise AssertionError("the decoder lets no New pass without a target")
        if not self.lifecycle.admit(self):
            self.refuse(frame.stream_id)
            return
        # First of all: after a refusal, too, the id means nothing to the peer any more.
        old = self.streams.get(frame.stream_id)
        if old is not None:
            self.lifecycle.id_reused(self, old)
        if self.lifecycle.full(self) or not target.host:
            self.refuse(frame.stream_id)
            return
        stream = self._start(frame.stream_id, network, target.literal)
        await self._deliver(stream, frame)

    def _start(self, stream_id: int, network: NetworkType, target: Address) -> Stream:
        stream = Stream(self, stream_id, network, target, inbox=self.limits.inbox_bytes)
        if self.link.ended:
            stream.stop_waiting()
        self.streams[stream_id] = stream
        stream.task = asyncio.get_running_loop().create_task(self._serve(stream))
        # Not in `_serve`: a task that is cancelled before its first step runs no `finally`.
        stream.task.add_done_callback(partial(self._handler_gone, stream))
        return stream

    async def _data(self, frame: Frame) -> None:
        stream = self.streams.get(frame.stream_id)
        if stream is not None:
            await self._deliver(stream, frame)
        elif frame.data:
            self.lifecycle.unknown(self, frame.stream_id)

    async def _end(self, frame: Frame) -> None:
        stream = self.streams.get(frame.stream_id)
        if stream is None:
            return
        if frame.is_error:
            self.retire(stream, StreamReset(f"stream {frame.stream_id} reset by the peer"))
            return
        await self._deliver(stream, frame)
        self.lifecycle.peer_ended(self, stream)

    async def _deliver(self, stream: Stream, frame: Frame) -> None:
        if frame.data:
            await self.lifecycle.deliver(self, stream, frame.data, frame.target)

    def _owns(self, stream: Stream) -> bool:
        return self.lifecycle.owns(self, stream)

    def _send(self, frame: Frame) -> None:
        # Replies do not wait, or the receive loop would; so their backlog has a bound.
        self._send_bytes(encode_frame(frame))
        if self.link.backlog > self.limits.backlog_bytes:
            self.link.abort(WriteStalled("the peer does not read our replies"))

    def _send_bytes(self, data: bytes) -> None:
        # The response header leaves with the first frame, as with all known servers.
        if data:
            self.link.send(self._prefix + data)
            self._prefix = b""

    def _link_ended(self) -> None:
        for stream in self.streams.values():
            stream.stop_waiting()
