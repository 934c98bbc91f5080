"""Only the owner of the entry removes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muxleak_vless.lifecycle import Lifecycle

if TYPE_CHECKING:
    from muxleak_vless.session import MuxSession
    from muxleak_vless.stream import Stream


class Forget(Lifecycle):
    """Answers one question."""

    def forget(self, session: MuxSession, stream: Stream) -> None:
        """Remove an ended stream from the table, unless its entry is another stream's."""
        if session.streams.get(stream.stream_id) is stream:
            del session.streams[stream.stream_id]
