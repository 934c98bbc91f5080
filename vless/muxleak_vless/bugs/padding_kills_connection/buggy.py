"""Padding in metadata is taken for an error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muxleak_vless.lifecycle import Lifecycle

if TYPE_CHECKING:
    from muxleak_vless.frames import Frame


class Tolerates(Lifecycle):
    """Answers one question."""

    def tolerates(self, frame: Frame) -> bool:
        """Return True if a frame with padding in its metadata is accepted."""
        return False
