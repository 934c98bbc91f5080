"""A New on an id in use ends the old stream first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muxleak_vless.errors import StreamReplaced
from muxleak_vless.lifecycle import Lifecycle

if TYPE_CHECKING:
    from muxleak_vless.session import MuxSession
    from muxleak_vless.stream import Stream


class IdReused(Lifecycle):
    """Answers one question."""

    def id_reused(self, session: MuxSession, old: Stream) -> None:
        """End the stream whose id the peer uses for a new one."""
        session.end_stream(old, StreamReplaced(f"stream {old.stream_id} opened again"))
