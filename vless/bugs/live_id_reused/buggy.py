"""A second New on a living id overwrites the table: the old stream can be reached by nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vless.causes import StreamReplaced
from vless.lifecycle import Lifecycle

if TYPE_CHECKING:
    from vless.session import MuxSession
    from vless.stream import Stream


class IdReused(Lifecycle):
    """Answers one question."""

    def id_reused(self, session: MuxSession, old: Stream) -> None:
        """The peer opens a stream under the id of a living one: what becomes of the old one?"""
