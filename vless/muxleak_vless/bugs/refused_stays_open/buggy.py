"""The server leaves a refused connection open."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muxleak_vless.lifecycle import Lifecycle

if TYPE_CHECKING:
    from muxleak_vless.link import Link


class HangUp(Lifecycle):
    """Answers one question."""

    def hang_up(self, link: Link) -> None:
        """Close the link of a connection that the server has served or refused."""
