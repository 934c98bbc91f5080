"""The cleanup forgets the streams of the connection: their handlers wait for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muxleak_vless.lifecycle import Lifecycle

if TYPE_CHECKING:
    from muxleak_vless.session import MuxSession


class Release(Lifecycle):
    """Answers one question."""

    def release(self, session: MuxSession, cause: BaseException) -> None:
        """End every stream whose handler may still run."""
        session.streams.clear()
