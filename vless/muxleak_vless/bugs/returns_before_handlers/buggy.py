"""The connection is over when its receive loop is; no task waits for its handlers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muxleak_vless.lifecycle import Lifecycle

if TYPE_CHECKING:
    from muxleak_vless.session import MuxSession


class Join(Lifecycle):
    """Answers one question."""

    async def join(self, session: MuxSession) -> None:
        """Wait within limits for the handlers of a connection that is over."""
