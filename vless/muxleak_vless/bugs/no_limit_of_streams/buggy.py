"""The number of streams is not limited."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muxleak_vless.lifecycle import Lifecycle

if TYPE_CHECKING:
    from muxleak_vless.session import MuxSession


class Full(Lifecycle):
    """Answers one question."""

    def full(self, session: MuxSession) -> bool:
        """Return True if the connection has as many streams as its limit allows."""
        return False
