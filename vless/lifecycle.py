"""THE SEAM: the life-cycle questions that mux servers get wrong, with the right answers.

The session (`vless.session`) decides nothing of its life cycle itself. It asks, each question from
exactly one place, and these answers are the reference. A bug is one other answer: see `vless.bugs`.

The rules that the answers keep:

1. A stream is an object; the table maps an id to its present owner (`id_reused`).
2. The receive loop stays able to see the end of the connection (`deliver`).
3. A handler that has ended, for whatever reason, closes its stream (`handler_ended`).
4. Closing is a state; nothing is registered in it (`admit`).
5. The end of the receive loop releases everything, explicitly, and once (`receive_ended`,
   `may_clean_up`, `release`); the per-connection context is the fallback (`watched_context`), and
   closes the transport too (`end_link`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vless.causes import StreamReplaced, StreamStalled

if TYPE_CHECKING:
    from vless.address import Address
    from vless.context import Context
    from vless.session import MuxSession
    from vless.stream import Stream


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

    def handler_ended(self, session: MuxSession, stream: Stream, error: Exception | None) -> None:
        """A stream's handler has returned or raised: who closes the stream?"""
        session.close_stream(stream, error=error is not None)
