"""The first stream that cannot be released ends the cleanup."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muxleak_vless.lifecycle import Lifecycle

if TYPE_CHECKING:
    from muxleak_vless.session import MuxSession
    from muxleak_vless.stream import Stream


class ReleaseFailed(Lifecycle):
    """Answers one question."""

    def release_failed(self, session: MuxSession, stream: Stream, error: Exception) -> None:
        """Report a stream whose handler could not be cancelled, and go on with the others."""
        raise error
