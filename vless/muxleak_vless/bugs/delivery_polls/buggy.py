"""The receive loop polls for room until there is room."""

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
        """Pass data to a stream, and wait for room in it for the stall limit at most."""
        stream.feed(data, address)
        while not await stream.room(0):
            pass
