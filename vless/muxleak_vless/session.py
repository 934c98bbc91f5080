"""One mux.cool connection, server side: stream table, receive loop, handlers, end.

Every decision about the life of the connection is asked of a `Lifecycle`; this module makes none.
"""

# States. A session is *open* until its cleanup has acted, then *closing*, which is never undone,
# and over when `run` returns. A stream is in the table (`streams`) until it is retired. If its
# handler still runs then, the stream is *lingering* until the task of the handler has ended. So a
# handler is reachable for as long as it runs: table and lingering streams together are
# `reachable()`.
#
# Tasks, the waits of each, and the events that end them:
#
#   receive loop  Link.receive  bytes, FIN, reset, idle and write limit; the cleanup closes the link
#   (`run`, in    Stream.room   the handler reads; the stream ends; the peer has closed (`on_eof`,
#   the caller's                even while the loop is here); the stall limit
#   task)         Unread.room   any handler reads; any stream ends; as above
#                 join          the handlers end; two close limits
#   watcher       Context.wait  `receive_ended` cancels the context; the server's context ends
#   handler,      Stream.read   data, End, or the end of the stream with its cause
#   one a stream  Stream.write  the peer reads; the link ends; the write limit ends the link
#                 other waits   `end_stream` cancels its task
#
# Invariants:
#
# 1. The cleanup acts exactly once. `may_clean_up` admits the first call, and `closing` is set
#    before anything is released, so the cleanup may be called from every path that might need it.
# 2. The receive loop calls it explicitly, in the `finally` of `run`, and then cancels the context
#    of the connection. The watcher is woken by that, finds the session closing, and ends.
# 3. The watcher is the fallback: if the server's context ends first, the watcher cleans up, and the
#    link that the cleanup closes wakes the receive loop.
# 4. No stream is registered while the session is closing, since no cleanup would end it.
# 5. The cleanup reaches its end, whatever one step or one stream raises. The error is logged.
# 6. Handlers that do not read hold less than the connection's limit of unread bytes and one frame,
#    however many they are.
# 7. The receive loop never waits for the peer to read. Replies go into the transport's buffer, and
#    a backlog above its limit ends the connection. Otherwise the loop could not see the FIN of a
#    peer that does not read.
#
# In sing-vmess d70afe4 the watcher waits for the caller's context, so the second half of rule 2
# fails: the receive loop cleans up, but nothing wakes the watcher. That is sing-box issue #2421.
# Its fix, 8cd5f17, drops the explicit call and leaves the cleanup to the watcher, without rule 4: a
# stream that arrives after the watcher has run is never released.
#
# Order. The cleanup never awaits, so no task runs between its steps and sees some streams ended and
# others not. `closing` is set first, since `on_cleanup` is the caller's code and may call the
# cleanup again; `on_cleanup` comes last, when the session has released everything else. The context
# is cancelled after the cleanup (`receive_ended`), so that everything that the context wakes finds
# the session closing. `join` comes after both, since handlers end only when they are cancelled.
#
# No reference cycles. A session that ends must be freed at once, or its sockets and buffers wait
# for a garbage collection. So causes are kept without tracebacks, a stream drops its owner when it
# ends, and `_handler_gone` drops the task, whose traceback would hold the stream.

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
    StreamStalled,
    WriteStalled,
    text_of,
)
from muxleak_vless.frames import Frame, FrameDecoder, FrameStatus, encode_end
from muxleak_vless.header import Response, encode_response
from muxleak_vless.lifecycle import Lifecycle
from muxleak_vless.limits import Limits
from muxleak_vless.stream import Stream, Unread, cancel_task

if TYPE_CHECKING:
    from collections.abc import Callable

    from muxleak_vless.address import Address
    from muxleak_vless.context import Context
    from muxleak_vless.link import Link
    from muxleak_vless.stream import Handler

log = logging.getLogger("muxleak_vless")


class MuxSession:
    """One connection that carries the mux.cool command, on the server.

    Args:
        link: The connection, after its request header.
        handler: Serves each stream, in a task of its own.
        parent: Context of the server; the connection's own is a child of it.
        lifecycle: Answers to the life-cycle questions; the reference by default.
        limits: Limits of time and size.
        on_cleanup: Called with the cause each time the cleanup acts, to give back the resources
            that the caller holds for the connection.

    Attributes:
        context: Ends with the connection, or earlier with ``parent``.
        streams: The stream table: open streams by id.
        unread: Counts the bytes that the handlers have not taken.
        closing: True once the cleanup has acted.
        cleanups: Number of times that the cleanup has acted; one is right.
        cause: Cause given to the first cleanup, None before it.
    """

    __slots__ = (
        "__weakref__",
        "_handler",
        "_lingering",
        "_on_cleanup",
        "_prefix",
        "_watcher",
        "cause",
        "cleanups",
        "closing",
        "context",
        "lifecycle",
        "limits",
        "link",
        "parent",
        "streams",
        "unread",
    )

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
        self.unread = Unread(self.limits.unread_bytes)
        self.closing = False
        self.cleanups = 0
        self.cause: BaseException | None = None
        self._handler = handler
        self._on_cleanup = on_cleanup
        self._lingering: dict[Stream, None] = {}
        self._watcher: asyncio.Task[None] | None = None
        self._prefix = encode_response(Response())

    def __repr__(self) -> str:
        """Return the state, without an address in memory: reports must not differ between runs."""
        return f"<MuxSession {len(self.streams)} streams, {'closing' if self.closing else 'open'}>"

    async def run(self, received: bytes = b"") -> BaseException:
        """Serve until the connection ends and return the cause.

        Returns after the handlers that the cleanup reached have ended, or have ignored two
        cancellations, each for the close limit.

        Args:
            received: Bytes that came in one segment with the request header.
        """
        # A context that nothing can cancel needs no watcher (Go: `Done()` is nil).
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
        # A dict that has been emptied keeps its memory, and a leaked watcher keeps the session.
        for table in (self.streams, self._lingering):
            if not table:
                table.clear()
        return self.cause or cause

    def cleanup(self, cause: BaseException) -> None:
        """Release the resources of the connection, once. May be called from any path."""
        if not self.lifecycle.may_clean_up(self):
            return
        self.closing = True
        self.cleanups += 1
        self.cause = self.cause or cause
        self._attempt(self.lifecycle.release, self, cause)
        self._attempt(self.lifecycle.end_link, self)
        if self._on_cleanup is not None:
            self._attempt(self._on_cleanup, cause)

    # Operations on streams, of which the answers of a `Lifecycle` are built.

    def reachable(self) -> list[Stream]:
        """Return the streams of the table and those whose handlers are still ending."""
        return [*self.streams.values(), *self._lingering]

    @property
    def load(self) -> int:
        """Number of streams, including those whose handlers are still ending."""
        return len(self.streams) + len(self._lingering)

    def retire(self, stream: Stream, cause: BaseException) -> None:
        """End both directions of a stream and free its id; it lingers while its handler runs."""
        stream.fail(cause)
        self.lifecycle.forget(self, stream)
        if stream.task is not None and not stream.task.done():
            self._lingering[stream] = None

    def end_stream(self, stream: Stream, cause: BaseException) -> None:
        """Retire a stream and cancel its handler, without a frame to the peer."""
        self.retire(stream, cause)
        if stream.task is not None and (error := cancel_task(stream.task, stream)) is not None:
            self.lifecycle.release_failed(self, stream, error)

    def report(self, stream: Stream, error: Exception) -> None:
        """Log that a stream's handler could not be cancelled; `join` tries once more."""
        log.warning("%r: cannot be released: %s: %s", stream, type(error).__name__, text_of(error))

    def reset_stream(self, stream: Stream, cause: BaseException) -> None:
        """End a stream and send the peer an End with the error bit, if the id is this stream's."""
        if self._owns(stream):
            self.refuse(stream.stream_id)
        self.end_stream(stream, cause)

    def close_stream(self, stream: Stream, *, error: bool) -> None:
        """Retire a stream and send the peer an End, if the id is still this stream's."""
        if self._owns(stream):
            self._send(encode_end(stream.stream_id, error=error))
        self.retire(stream, StreamClosed("closed by its handler"))

    async def make_room(self) -> None:
        """Wait for room in the connection; for each stall limit that passes, reset one stream.

        It is the stream with the most unread bytes, which need not be the one with the newest.
        """
        while not await self.unread.room(self.limits.stall_seconds):
            fullest = max(self.streams.values(), key=lambda stream: stream.unread, default=None)
            if fullest is None or not fullest.unread:
                return  # Only with wrong answers: the bytes are those of streams out of reach.
            self.reset_stream(fullest, StreamStalled(f"{fullest!r} holds the most unread data"))

    def refuse(self, stream_id: int) -> None:
        """Send the peer an End with the error bit for an id."""
        self._send(encode_end(stream_id, error=True))

    async def write(self, stream: Stream, data: bytes, address: Address | None) -> None:
        """Send a stream's bytes when the peer has room for them (see `StreamOwner.write`).

        Raises:
            StreamClosed: If the connection ends, or the id becomes another stream's.
        """
        source = address if stream.network is NetworkType.UDP else None
        # Wait before each frame: a large write must not count as backlog, nor delay the frames of
        # other streams. After each wait the id may be another stream's.
        for frame in self.lifecycle.split(stream, data, source):
            await self.link.drain()
            if not self._owns(stream):
                raise StreamClosed(f"{stream!r} does not own its id") from stream.cause
            self._send_bytes(frame)

    def _attempt(self, step: Callable[..., None], *args: object) -> None:
        try:
            step(*args)
        except Exception:  # an error of one step must not keep the next ones from releasing theirs
            log.exception("%r: a step of the cleanup raised", self)

    # Tasks.

    async def _watch(self, watched: Context) -> None:
        cause = await watched.wait()
        self.cleanup(cause)

    async def _receive(self, data: bytes) -> BaseException:
        decoder = FrameDecoder()
        try:
            while True:
                decoder.receive_data(data)
                while True:
                    for stream_id, payload in decoder.keeps():
                        stream = self._keep(stream_id, payload)
                        if stream is not None:
                            await self._deliver(stream, payload, None)
                    if (frame := decoder.next_frame()) is None:
                        break
                    stream = self._handle(frame)
                    if stream is not None:
                        last = frame.status is FrameStatus.END
                        await self._deliver(stream, frame.data, frame.target, last=last)
                stream = None  # An ended stream must not be kept while the loop waits.
                data = await self.link.receive()
                if not data:
                    decoder.receive_eof()
                    return PeerClosed("the peer closed the connection")
        except (ProtocolError, Cause) as exc:
            if isinstance(exc, FrameError) and (opened := decoder.next_new) is not None:
                self.lifecycle.malformed(self, opened)
            # A kept traceback would close a cycle: cause, stack frame, session, cause.
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
        # A cancelled task keeps its traceback, whose stack frames hold the stream: cut the cycle.
        stream.task = None

    async def join(self) -> None:
        """Wait until the lingering handlers have ended, for two close limits at most.

        A handler that still runs after the first is cancelled again; one that still runs after the
        second is abandoned with a warning in the log.
        """
        # Twice: a handler may catch its first cancellation to end in good order.
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

    def _handle(self, frame: Frame) -> Stream | None:
        """Take a frame; return the stream that its data is for, and that an End without error ends.

        None if there is nothing to deliver.
        """
        if frame.padding and not self.lifecycle.tolerates(frame):
            raise FrameError("metadata", 0, "no padding", f"{frame.padding!r}")
        if frame.status is FrameStatus.NEW:
            return self._open(frame)
        if frame.status is FrameStatus.KEEP:
            return self._keep(frame.stream_id, frame.data)
        stream = self.streams.get(frame.stream_id) if frame.status is FrameStatus.END else None
        if stream is not None and frame.is_error:
            self.retire(stream, StreamReset(f"stream {frame.stream_id} reset by the peer"))
            return None
        return stream

    def _open(self, frame: Frame) -> Stream | None:
        target, network = frame.target, frame.network
        if target is None or network is None:
            raise AssertionError("the decoder lets no New pass without a target")
        if not self.lifecycle.admit(self):
            self.refuse(frame.stream_id)
            return None
        # Before the refusals below: once the peer has sent a New, it does not mean the old stream
        # by this id any more, also if the new stream is refused.
        old = self.streams.get(frame.stream_id)
        if old is not None:
            self.lifecycle.id_reused(self, old)
        if self.lifecycle.full(self) or not target.host:
            self.refuse(frame.stream_id)
            return None
        return self._start(frame.stream_id, network, target.literal)

    def _start(self, stream_id: int, network: NetworkType, target: Address) -> Stream:
        inbox = self.limits.inbox_bytes
        stream = Stream(self, stream_id, network, target, inbox=inbox, connection=self.unread)
        if self.link.ended:
            stream.stop_waiting()
        self.streams[stream_id] = stream
        stream.task = asyncio.get_running_loop().create_task(self._serve(stream))
        # A callback, not a `finally` in `_serve`: a task cancelled before its first step runs none.
        stream.task.add_done_callback(partial(self._handler_gone, stream))
        return stream

    def _keep(self, stream_id: int, data: bytes | None) -> Stream | None:
        stream = self.streams.get(stream_id)
        if stream is None and data:
            self.lifecycle.unknown(self, stream_id)
        return stream

    async def _deliver(
        self, stream: Stream, data: bytes | None, target: Address | None, *, last: bool = False
    ) -> None:
        if data:
            await self.lifecycle.deliver(self, stream, data, target)
            if self.unread.full:
                await self.lifecycle.make_room(self)
        if last:
            self.lifecycle.peer_ended(self, stream)

    def _owns(self, stream: Stream) -> bool:
        return self.lifecycle.owns(self, stream)

    def _send(self, frame: bytes) -> None:
        # Replies do not wait, since the receive loop sends them; so their backlog has a limit.
        self._send_bytes(frame)
        if self.link.backlog > self.limits.backlog_bytes:
            self.link.abort(WriteStalled("the peer does not read our replies"))

    def _send_bytes(self, data: bytes) -> None:
        # The response header leaves with the first frame, as with all known servers.
        if data:
            self.link.send(self._prefix + data)
            self._prefix = b""

    def _link_ended(self) -> None:
        self.unread.stop_waiting()
        for stream in self.streams.values():
            stream.stop_waiting()
