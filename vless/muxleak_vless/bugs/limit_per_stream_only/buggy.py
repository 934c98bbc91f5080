"""Each stream has a limit of unread data, and the connection has none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muxleak_vless.lifecycle import Lifecycle

if TYPE_CHECKING:
    from muxleak_vless.session import MuxSession


class MakeRoom(Lifecycle):
    """Answers one question."""

    async def make_room(self, session: MuxSession) -> None:
        """Wait until the unread data of all streams is below its limit, or reset the largest."""
