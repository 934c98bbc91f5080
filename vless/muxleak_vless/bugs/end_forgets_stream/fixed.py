"""The End ends one direction; the stream stays until its handler is done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muxleak_vless.lifecycle import Lifecycle

if TYPE_CHECKING:
    from muxleak_vless.session import MuxSession
    from muxleak_vless.stream import Stream


class PeerEnded(Lifecycle):
    """Answers one question."""

    def peer_ended(self, session: MuxSession, stream: Stream) -> None:
        """End the input of a stream whose peer has ended its direction; the stream stays."""
        del session
        stream.feed_eof()
