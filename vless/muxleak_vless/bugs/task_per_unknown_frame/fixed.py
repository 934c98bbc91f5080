"""The receive loop queues the reply at once, which needs no task."""

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
        session.refuse(stream_id)
