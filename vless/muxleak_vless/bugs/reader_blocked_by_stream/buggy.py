"""The receive loop waits for a handler that does not read, and sees nothing else meanwhile."""

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
        await stream.drained()
