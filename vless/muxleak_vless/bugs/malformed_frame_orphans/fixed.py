"""A malformed frame has done nothing: a frame is checked whole before it acts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muxleak_vless.lifecycle import Lifecycle

if TYPE_CHECKING:
    from muxleak_vless.session import MuxSession


class Malformed(Lifecycle):
    """Answers one question."""

    def malformed(self, session: MuxSession, stream_id: int) -> None:
        """A New is malformed: what has it done to the stream that has its id?"""
