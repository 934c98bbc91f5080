"""The first call of the cleanup acts, and no later one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muxleak_vless.lifecycle import Lifecycle

if TYPE_CHECKING:
    from muxleak_vless.session import MuxSession


class MayCleanUp(Lifecycle):
    """Answers one question."""

    def may_clean_up(self, session: MuxSession) -> bool:
        """Return True for the first call of the cleanup, which alone acts."""
        return not session.closing
