"""A stream uses its id only while the id means this stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muxleak_vless.lifecycle import Lifecycle

if TYPE_CHECKING:
    from muxleak_vless.session import MuxSession
    from muxleak_vless.stream import Stream


class Owns(Lifecycle):
    """Answers one question."""

    def owns(self, session: MuxSession, stream: Stream) -> bool:
        """Return True if the stream's id means this stream."""
        return session.streams.get(stream.stream_id) is stream
