"""The decisions about the life of a mux connection: one method each, with the right answer.

The session (module `session`) makes none of these decisions itself. It asks a `Lifecycle`, each
question from exactly one place; `hang_up` is asked by the server (module `inbound`). A bug of
`muxleak_vless.bugs` is a subclass that answers one question differently.
"""

# All known mux.cool servers share one shape, and differ in a few decisions of their sessions: who
# cleans up, when, how often, and what the cleanup can reach. Each decision is a method here, so
# that one session can be run with the decisions of any version (see `versions`), and so that a bug
# and its fix differ in one method and nothing else.
#
# The history of three of the methods is that of sing-box issue #2421:
#
#   sing-vmess 9b63475 (V0)  has no cleanup. The handler of each stream that the peer has not ended
#                            stays when the connection ends.
#   sing-vmess d70afe4 (V1)  adds the cleanup, at the end of the receive loop and in a watcher, so
#                            that the end of the server ends its connections. The watcher waits for
#                            the *caller's* context, which in a server ends with the process: one
#                            goroutine stays per closed connection. 350,000 were reported.
#   first proposed fix       gives each connection a child context and defers its cancel. The
#                            watcher ends, but the cleanup runs twice: in the receive loop, then in
#                            the watcher that the cancel has woken.
#   second proposed fix      calls the cleanup explicitly, once, before the receive loop returns;
#                            keeps the cancellation of the context as a fallback; makes the cleanup
#                            idempotent.
#   sing-vmess 8cd5f17 (V2)  leaves the cleanup to the watcher alone. The watcher runs once, so a
#                            stream opened after it has run is released by nothing. V1 had released
#                            it at the end of the receive loop.
#
# The second proposal alone still has the leak of V2: the cleanup has run, and a stream opened after
# it is released by nothing. So a closing session must register none (`admit`). Nor does it end the
# receive loop, which stays in a read when the server ends: the cleanup must close the transport
# (`end_link`). The reference does both. Its rules, with the methods that hold them:
#
# 1. A stream is an object; the table maps an id to its present owner (`id_reused`, `owns`,
#    `forget`).
# 2. The receive loop always stays able to see the end of the connection (`deliver`), and its
#    replies need no task (`unknown`).
# 3. A stream lasts until both its directions are done (`peer_ended`). A handler that has ended, for
#    whatever reason, closes its stream (`handler_ended`).
# 4. Closing is a state; a stream is registered neither in it (`admit`), nor beyond the limit of one
#    connection (`full`), nor before its frame has been checked whole (`malformed`).
# 5. The end of the receive loop releases everything, explicitly and exactly once (`receive_ended`,
#    `may_clean_up`, `release`), and one stream's failure does not keep the others from being
#    released (`release_failed`). The context of the connection is the fallback (`watched_context`,
#    `handler_context`). The cleanup closes the transport too (`end_link`), and so does the server
#    for connections without a session (`hang_up`). The task that served a connection waits for its
#    handlers (`join`).
# 6. Every wait for a peer has a limit (`stalled`, `idle`).
# 7. The memory that the peer can fill has a limit for each stream (`deliver`) and, over all its
#    streams, for the connection (`make_room`), beside that on their number.
# 8. Sent bytes can be decoded (`split`), and padding in received frames is skipped (`tolerates`).
#
# A question's docstring is its contract, in one line; `muxleak show` prints it. The pairs repeat it
# above their own answers: an answer that does not keep it is the bug.

from __future__ import annotations

from typing import TYPE_CHECKING

from muxleak_vless.errors import StreamReplaced, StreamStalled
from muxleak_vless.frames import data_frames

if TYPE_CHECKING:
    from muxleak_vless.address import Address
    from muxleak_vless.context import Context
    from muxleak_vless.frames import Frame
    from muxleak_vless.link import Link
    from muxleak_vless.session import MuxSession
    from muxleak_vless.stream import Stream


class Lifecycle:
    """Answers the life-cycle questions of a session as the reference does.

    Only `deliver`, `make_room` and `join` may wait. All others run to their end within one step of
    the task that asks, so no other task sees half of a decision.

    The arguments have the same meaning in all methods:

    - ``session``: the session that asks; answers act through its methods.
    - ``stream``, ``old``: the stream that the question is about; ``old`` has an id that a New uses.
    - ``stream_id``: an id on the wire without a stream, or of a New that could not be decoded.
    - ``cause``: the reason for the end of the connection.
    - ``error``: the exception of a handler, None if it returned; or that of its cancellation.
    - ``data``: bytes of any length, or one UDP packet.
    - ``address``, ``source``: destination or source of a UDP packet, None for the stream's target.
    """

    # A child of the server's context: it ends with the server, and with its connection. V1 watches
    # the parent, so each closed connection leaves its watcher (pair watcher_outlives_connection).
    def watched_context(self, session: MuxSession) -> Context | None:
        """Return the context whose end makes the watcher clean up, or None for no watcher."""
        return session.context

    # V0 and V1 passed the parent, so a handler that obeys its context was deaf to the end of its
    # own connection (pair handler_sees_wrong_context); V2 passes the connection's.
    def handler_context(self, session: MuxSession) -> Context:
        """Return the context that tells a handler of the end of its connection."""
        return session.context

    # In this order: whatever the context wakes finds the session closing, and its own call of the
    # cleanup does nothing. V2 only cancels, and leaves the cleanup to a watcher that may have run.
    def receive_ended(self, session: MuxSession, cause: BaseException) -> None:
        """Clean up after the end of the receive loop, then end the connection's context."""
        session.cleanup(cause)
        session.context.cancel(cause)

    # The first call sets `closing`. Without the check the receive loop and the watcher both clean
    # up, and the caller's resources are given back twice (pair cleanup_runs_twice).
    def may_clean_up(self, session: MuxSession) -> bool:
        """Return True for the first call of the cleanup, which alone acts."""
        return not session.closing

    # `reachable`, not the table: a handler whose stream has left the table may still run.
    def release(self, session: MuxSession, cause: BaseException) -> None:
        """End every stream whose handler may still run."""
        for stream in session.reachable():
            session.end_stream(stream, cause)

    # The error is that of one stream. Raised, it would end the loop over all streams in `release`,
    # and the streams after it would never be released (pair cleanup_stops_half_way).
    def release_failed(self, session: MuxSession, stream: Stream, error: Exception) -> None:
        """Report a stream whose handler could not be cancelled, and go on with the others."""
        session.report(stream, error)

    # The end of a context does not wake a read of the transport: no version of sing-vmess closes
    # the transport, and its receive loop stays until the peer acts (pair server_end_unheard).
    def end_link(self, session: MuxSession) -> None:
        """Close the transport in the cleanup, so that a receive loop that waits in it wakes."""
        session.link.close()

    # The cleanup runs once, so nothing would end a stream that is registered after it.
    def admit(self, session: MuxSession) -> bool:
        """Return True if the peer may open a stream: not once the connection is closing."""
        return not session.closing

    # All three known servers overwrite the entry, and the old stream is then out of reach.
    def id_reused(self, session: MuxSession, old: Stream) -> None:
        """End the stream whose id the peer uses for a new one."""
        session.end_stream(old, StreamReplaced(f"stream {old.stream_id} opened again"))

    # Only the receive loop can see that the peer has closed, so it may not wait for a handler
    # without a limit. The wait also ends with the stream and with the peer's end (`stop_waiting`).
    async def deliver(
        self, session: MuxSession, stream: Stream, data: bytes, address: Address | None
    ) -> None:
        """Pass data to a stream, and wait for room in it for the stall limit at most."""
        stream.feed(data, address)
        if not await stream.room(session.limits.stall_seconds):
            session.reset_stream(stream, StreamStalled(f"{stream!r} does not read"))

    # The limit of `deliver` is that of one stream, and 4,096 streams just below it hold a gigabyte.
    # Asked only when the connection has no room.
    async def make_room(self, session: MuxSession) -> None:
        """Wait until the unread data of all streams is below its limit, or reset the largest."""
        await session.make_room()

    # An End ends one direction. Removed here, the stream would be out of reach of the cleanup while
    # its handler goes on with the other direction (pair end_forgets_stream).
    def peer_ended(self, session: MuxSession, stream: Stream) -> None:
        """End the input of a stream whose peer has ended its direction; the stream stays."""
        del session
        stream.feed_eof()

    # A handler that raises early cannot be relied upon to close: in sing-box 1.10 no failed dial
    # did, and the next data for such a stream blocked the receive loop.
    def handler_ended(self, session: MuxSession, stream: Stream, error: Exception | None) -> None:
        """Close a stream whose handler has returned or raised."""
        session.close_stream(stream, error=error is not None)

    # Asked before each use of the id. The number may belong to a newer stream by now.
    def owns(self, session: MuxSession, stream: Stream) -> bool:
        """Return True if the stream's id means this stream."""
        return session.streams.get(stream.stream_id) is stream

    # The comparison and the removal are one step, without an await between them.
    def forget(self, session: MuxSession, stream: Stream) -> None:
        """Remove an ended stream from the table, unless its entry is another stream's."""
        if session.streams.get(stream.stream_id) is stream:
            del session.streams[stream.stream_id]

    # `load` counts handlers, not entries: New and reset in turn would pass a limit on entries.
    def full(self, session: MuxSession) -> bool:
        """Return True if the connection has as many streams as its limit allows."""
        return session.load >= session.limits.max_streams

    # A frame's length has 16 bits. sing-vmess cuts the length, not the data.
    def split(self, stream: Stream, data: bytes, source: Address | None) -> list[bytes]:
        """Return the frames of one write, each with no more data than its length can say."""
        return data_frames(stream.stream_id, data, source)

    # sing-vmess starts a goroutine per reply, so the peer decides how many there are.
    def unknown(self, session: MuxSession, stream_id: int) -> None:
        """Answer data for an unknown stream, without a wait and without a task."""
        session.refuse(stream_id)

    # The error of the frame then ends the connection, and the cleanup ends the stream.
    def malformed(self, session: MuxSession, stream_id: int) -> None:
        """Leave the table as it is when a New is malformed; its id may be in use."""

    # As Xray-core and v2ray-core. sing-vmess reads padding as an address, and fails.
    def tolerates(self, frame: Frame) -> bool:
        """Return True if a frame with padding in its metadata is accepted."""
        del frame
        return True

    # Asked by a timer of the link. A reset: an orderly end would wait for the peer once more.
    def stalled(self, session: MuxSession) -> None:
        """End a connection whose peer has not read for the write limit."""
        session.link.end_stalled()

    # Asked by a timer of the link. A peer without a network sends no FIN.
    def idle(self, session: MuxSession) -> None:
        """End a connection on which no byte has passed for the idle limit."""
        session.link.end_idle()

    # A cancellation is a request, and `join` repeats it. V2 may return before its cleanup has run.
    async def join(self, session: MuxSession) -> None:
        """Wait within limits for the handlers of a connection that is over."""
        await session.join()

    # Asked in one `finally` of the server, for connections served, refused and failed.
    def hang_up(self, link: Link) -> None:
        """Close the link of a connection that the server has served or refused."""
        link.close()
