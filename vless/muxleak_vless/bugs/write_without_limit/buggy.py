"""The wait for a peer that does not read has no limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muxleak_vless.lifecycle import Lifecycle

if TYPE_CHECKING:
    from muxleak_vless.session import MuxSession


class Stalled(Lifecycle):
    """Answers one question."""

    def stalled(self, session: MuxSession) -> None:
        """End a connection whose peer has not read for the write limit."""
