"""The receive loop asks again and again whether there is room."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muxleak_vless.errors import StreamStalled
from muxleak_vless.lifecycle import Lifecycle

if TYPE_CHECKING:
    from muxleak_vless.address import Address
    from muxleak_vless.session import MuxSession
    from muxleak_vless.stream import Stream


class Deliver(Lifecycle):
    """Answers one question."""

    async def deliver(
        self, session: MuxSession, stream: Stream, data: bytes, address: Address | None
    ) -> None:
        """Data has come for a stream: how long may the receive loop wait for its handler?"""
        stream.feed(data, address)
        while not await stream.room(0):
            pass
