"""A connection on which no byte passes stays open, with or without a peer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muxleak_vless.lifecycle import Lifecycle

if TYPE_CHECKING:
    from muxleak_vless.session import MuxSession


class Idle(Lifecycle):
    """Answers one question."""

    def idle(self, session: MuxSession) -> None:
        """End a connection on which no byte has passed for the idle limit."""
