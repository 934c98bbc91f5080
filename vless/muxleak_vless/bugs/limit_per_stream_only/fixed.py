"""The connection has a limit of unread data over all its streams."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muxleak_vless.lifecycle import Lifecycle

if TYPE_CHECKING:
    from muxleak_vless.session import MuxSession


class MakeRoom(Lifecycle):
    """Answers one question."""

    async def make_room(self, session: MuxSession) -> None:
        """Wait until the unread data of all streams is below its limit, or reset the largest."""
        await session.make_room()
