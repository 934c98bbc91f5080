"""A stream is closed when its handler has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muxleak_vless.lifecycle import Lifecycle

if TYPE_CHECKING:
    from muxleak_vless.session import MuxSession
    from muxleak_vless.stream import Stream


class HandlerEnded(Lifecycle):
    """Answers one question."""

    def handler_ended(self, session: MuxSession, stream: Stream, error: Exception | None) -> None:
        """Close a stream whose handler has returned or raised."""
        session.close_stream(stream, error=error is not None)
