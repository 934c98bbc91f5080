"""A stream is registered after the cleanup, so nothing will end it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muxleak_vless.lifecycle import Lifecycle

if TYPE_CHECKING:
    from muxleak_vless.session import MuxSession


class Admit(Lifecycle):
    """Answers one question."""

    def admit(self, session: MuxSession) -> bool:
        """Return True if the peer may open a stream: not once the connection is closing."""
        return True
