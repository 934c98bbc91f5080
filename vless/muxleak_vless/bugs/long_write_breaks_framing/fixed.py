"""A long write leaves as several frames, none longer than its length can say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muxleak_vless.frames import Frame, data_frames, encode_frame
from muxleak_vless.lifecycle import Lifecycle

if TYPE_CHECKING:
    from muxleak_vless.address import Address
    from muxleak_vless.stream import Stream


class Split(Lifecycle):
    """Answers one question."""

    def split(self, stream: Stream, data: bytes, source: Address | None) -> list[bytes]:
        """Return the frames of one write, each with no more data than its length can say."""
        return data_frames(stream.stream_id, data, source)
