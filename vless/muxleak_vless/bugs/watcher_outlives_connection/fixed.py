"""The watcher waits for the connection's own context, which the receive loop ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muxleak_vless.lifecycle import Lifecycle

if TYPE_CHECKING:
    from muxleak_vless.context import Context
    from muxleak_vless.session import MuxSession


class WatchedContext(Lifecycle):
    """Answers one question."""

    def watched_context(self, session: MuxSession) -> Context | None:
        """Return the context whose end makes the watcher clean up, or None for no watcher."""
        return session.context
