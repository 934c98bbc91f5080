"""The stream is registered before the frame is checked, and replaces the one in use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muxleak_vless.lifecycle import Lifecycle

if TYPE_CHECKING:
    from muxleak_vless.session import MuxSession


class Malformed(Lifecycle):
    """Answers one question."""

    def malformed(self, session: MuxSession, stream_id: int) -> None:
        """Leave the table as it is when a New is malformed; its id may be in use."""
        session.streams.pop(stream_id, None)
