"""A handler watches the context of its connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muxleak_vless.lifecycle import Lifecycle

if TYPE_CHECKING:
    from muxleak_vless.context import Context
    from muxleak_vless.session import MuxSession


class HandlerContext(Lifecycle):
    """Answers one question."""

    def handler_context(self, session: MuxSession) -> Context:
        """Return the context that tells a handler of the end of its connection."""
        return session.context
