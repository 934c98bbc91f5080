"""The end of the server does not wake a receive loop that waits in the transport."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muxleak_vless.lifecycle import Lifecycle

if TYPE_CHECKING:
    from muxleak_vless.session import MuxSession


class EndLink(Lifecycle):
    """Answers one question."""

    def end_link(self, session: MuxSession) -> None:
        """Close the transport in the cleanup, so that a receive loop that waits in it wakes."""
