"""THE SEAM: the life-cycle questions that mux servers get wrong, with the right answers.

The session (module `session`) decides nothing of its life cycle itself. It asks, each question from
exactly one place, and these answers are the reference; `hang_up` is asked by the server (module
`inbound`). A bug is one other answer: see `muxleak_vless.bugs`.

The rules that the answers keep:

1. A stream is an object; the table maps an id to its present owner (`id_reused`, `owns`, `forget`).
2. The receive loop stays able to see the end of the connection (`deliver`), and what it answers
   needs no task (`unknown`).
3. A stream lasts until both its ends are done (`peer_ended`), and a handler that has ended, for
   whatever reason, closes its stream (`handler_ended`).
4. Closing is a state; nothing is registered in it (`admit`), nor beyond what one peer may have
   (`full`), nor before a frame has been checked whole (`malformed`).
5. The end of the receive loop releases everything, explicitly, and once (`receive_ended`,
   `may_clean_up`, `release`); the per-connection context is the fallback (`watched_context`), and
   closes the transport too (`end_link`, `hang_up`). Who served it waits for its handlers (`join`).
6. Nothing waits for a peer without a limit (`stalled`, `idle`).
7. What leaves can be read, and what came is read as meant (`split`, `tolerates`).
"""

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
    """The reference answers."""

    def watched_context(self, session: MuxSession) -> Context | None:
        """Whose end makes the watcher clean up, where there is a watcher (not None)?"""
        return session.context

    def handler_context(self, session: MuxSession) -> Context:
        """Which context tells a handler that its connection has ended?"""
        return session.context

    def receive_ended(self, session: MuxSession, cause: BaseException) -> None:
        """The receive loop has ended: who releases what the connection holds?"""
        session.cleanup(cause)
        session.context.cancel(cause)

    def may_clean_up(self, session: MuxSession) -> bool:
        """Somebody asks for the cleanup: does it act?"""
        return not session.closing

    def release(self, session: MuxSession, cause: BaseException) -> None:
        """What does the cleanup release?"""
        for stream in session.reachable():
            session.end_stream(stream, cause)

    def end_link(self, session: MuxSession) -> None:
        """Does the cleanup end the transport, so that a receive loop asleep in it wakes?"""
        session.link.close()

    def admit(self, session: MuxSession) -> bool:
        """The peer opens a stream: may it be registered?"""
        return not session.closing

    def id_reused(self, session: MuxSession, old: Stream) -> None:
        """The peer opens a stream under the id of a living one: what becomes of the old one?"""
        session.end_stream(old, StreamReplaced(f"stream {old.stream_id} opened again"))

    async def deliver(
        self, session: MuxSession, stream: Stream, data: bytes, address: Address | None
    ) -> None:
        """Data has come for a stream: how long may the receive loop wait for its handler?"""
        stream.feed(data, address)
        if not await stream.room(session.limits.stall_seconds):
            session.reset_stream(stream, StreamStalled(f"{stream!r} does not read"))

    def peer_ended(self, session: MuxSession, stream: Stream) -> None:
        """The peer has ended its direction of a stream: what becomes of the stream?"""
        del session
        stream.feed_eof()

    def handler_ended(self, session: MuxSession, stream: Stream, error: Exception | None) -> None:
        """A stream's handler has returned or raised: who closes the stream?"""
        session.close_stream(stream, error=error is not None)

    def owns(self, session: MuxSession, stream: Stream) -> bool:
        """A stream is about to use its id: is it still the one that the id means?"""
        return session.streams.get(stream.stream_id) is stream

    def forget(self, session: MuxSession, stream: Stream) -> None:
        """A stream has ended: which entry does the table lose?"""
        if session.streams.get(stream.stream_id) is stream:
            del session.streams[stream.stream_id]

    def full(self, session: MuxSession) -> bool:
        """The peer opens a stream: are there too many already?"""
        return session.load >= session.limits.max_streams

    def split(self, stream: Stream, data: bytes, source: Address | None) -> list[bytes]:
        """A handler writes: in which frames does it leave?"""
        return data_frames(stream.stream_id, data, source)

    def unknown(self, session: MuxSession, stream_id: int) -> None:
        """Data has come for a stream that does not exist: how is the peer told?"""
        session.refuse(stream_id)

    def malformed(self, session: MuxSession, stream_id: int) -> None:
        """A New is malformed: what has it done to the stream that has its id?"""

    def tolerates(self, frame: Frame) -> bool:
        """A frame's metadata says more than it must: is it taken all the same?"""
        del frame
        return True

    def stalled(self, session: MuxSession) -> None:
        """The peer has not read for the write limit: does the connection end?"""
        session.link.end_stalled()

    def idle(self, session: MuxSession) -> None:
        """No byte has passed for the idle limit: does the connection end?"""
        session.link.end_idle()

    async def join(self, session: MuxSession) -> None:
        """The connection is over: does its server wait for the handlers?"""
        await session.join()

    def hang_up(self, link: Link) -> None:
        """The server is done with a connection, served or refused: who closes it?"""
        link.close()
