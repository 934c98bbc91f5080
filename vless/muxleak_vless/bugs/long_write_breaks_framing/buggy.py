"""A long write leaves as one frame, with the lower 16 bits of its length."""

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
        cut = len(data) & 0xFFFF
        return [encode_frame(Frame.keep(stream.stream_id, data[:cut], source)) + data[cut:]]
