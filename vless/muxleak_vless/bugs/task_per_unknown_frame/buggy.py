"""Each frame for an unknown stream starts a task that waits to send the reply."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from muxleak_vless.errors import StreamClosed
from muxleak_vless.lifecycle import Lifecycle

if TYPE_CHECKING:
    from muxleak_vless.session import MuxSession


class Unknown(Lifecycle):
    """Answers one question."""

    def unknown(self, session: MuxSession, stream_id: int) -> None:
        """Answer data for an unknown stream, without a wait and without a task."""
        _ = asyncio.get_running_loop().create_task(_refuse_later(session, stream_id))


async def _refuse_later(session: MuxSession, stream_id: int) -> None:
    with suppress(StreamClosed):
        await session.link.drain()
        session.refuse(stream_id)
