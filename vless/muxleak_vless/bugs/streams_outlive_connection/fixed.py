"""The cleanup ends every stream that the connection can reach, and its handler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muxleak_vless.lifecycle import Lifecycle

if TYPE_CHECKING:
    from muxleak_vless.session import MuxSession


class Release(Lifecycle):
    """Answers one question."""

    def release(self, session: MuxSession, cause: BaseException) -> None:
        """End every stream whose handler may still run."""
        for stream in session.reachable():
            session.end_stream(stream, cause)
