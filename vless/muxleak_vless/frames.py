"""mux.cool frames: metadata of 4 to 512 bytes, then perhaps data of 0 to 65535 bytes.

Layout, the same in both directions, integers big-endian: metadata length (2 bytes, not counting
itself), metadata; if the option in it has the data bit, data length (2) and data.

Two rules: a frame is checked in full before anybody sees it; and whatever the status, the data
that a frame announces belongs to it, or framing is lost. Which ids exist is not known here.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from muxleak_vless.errors import FrameError, TruncatedError
from muxleak_vless.metadata import (
    DATA,
    ERROR,
    MAX_METADATA,
    MIN_METADATA,
    Frame,
    FrameStatus,
    decode_rest,
    encode_rest,
)

if TYPE_CHECKING:
    from muxleak_vless.address import Address

__all__ = [
    "DATA",
    "ERROR",
    "MAX_DATA",
    "Frame",
    "FrameDecoder",
    "FrameStatus",
    "data_frames",
    "encode_frame",
]

MAX_DATA: Final = 65_535  # the length has two bytes

_MAX_ID: Final = 0xFFFF
_MAX_OPTION: Final = 0xFF
_LENGTH: Final = Struct(">H")
_LENGTH_SIZE: Final = _LENGTH.size
_META: Final = Struct(">HHBB")
_META_AND_SIZE: Final = Struct(">HHBBH")
_NONE: Final = ("", 0, 0)
_STATUSES: Final = {int(status): status for status in FrameStatus}

# What runs once per frame: looking these up would cost as much as the work, and a named tuple's
# own constructor would be a call in Python.
_KEEP: Final = FrameStatus.KEEP
_KEEP_BYTE: Final = int(_KEEP)
_HEAD_SIZE: Final = _META_AND_SIZE.size
_unpack_head: Final = _META_AND_SIZE.unpack_from
_make: Final = tuple.__new__


def encode_frame(frame: Frame) -> bytes:
    """Write a frame.

    Raises:
        ValueError: A value does not fit its field, or the decoder would read another frame.
    """
    stream_id, status, option, _, _, _, data, _ = frame
    if not 0 <= stream_id <= _MAX_ID or not 0 <= option <= _MAX_OPTION:
        raise ValueError(f"frame: expected a 16-bit id, 8-bit option, got {stream_id}, {option}")
    if (data is not None) is not bool(option & DATA):
        what = "no data" if data is None else "data"
        raise ValueError(f"frame: expected data exactly with bit 1, got {option:#04x} and {what}")
    rest = encode_rest(frame)
    size = MIN_METADATA + len(rest)
    if size > MAX_METADATA:
        raise ValueError(f"metadata: expected at most {MAX_METADATA} bytes, got {size}")
    metadata = _META.pack(size, stream_id, status, option) + rest
    if data is None:
        return metadata
    if len(data) > MAX_DATA:
        expected = f"at most {MAX_DATA} bytes (data_frames splits it)"
        raise ValueError(f"frame data: expected {expected}, got {len(data)}")
    return metadata + _LENGTH.pack(len(data)) + data


def data_frames(stream_id: int, data: bytes, target: Address | None = None) -> list[bytes]:
    """Write data as Keep frames, one for each 65535 bytes begun; no data gives no frame.

    Raises:
        ValueError: A value does not fit its field, or data with a target, which is one UDP
            packet, would have to be split.
    """
    if target is not None:
        return [encode_frame(Frame.keep(stream_id, data, target))] if data else []
    if not 0 <= stream_id <= _MAX_ID:
        raise ValueError(f"stream id: expected 0 to {_MAX_ID}, got {stream_id!r}")
    pieces = (data[start : start + MAX_DATA] for start in range(0, len(data), MAX_DATA))
    head = MIN_METADATA, stream_id, _KEEP, DATA
    return [_META_AND_SIZE.pack(*head, len(piece)) + piece for piece in pieces]


class FrameDecoder:
    """Cuts the bytes of one direction into frames, in time linear in their number.

    Bytes that have arrived stay in their pieces until they complete what is waited for, and a
    whole piece is read in place; so neither single bytes nor large chunks are copied often.
    """

    __slots__ = ("_arrived", "_buffer", "_field", "_origin", "_pieces", "_pos")

    def __init__(self) -> None:
        self._buffer = b""
        self._pos = 0
        self._origin = 0  # of the buffer in the stream
        self._pieces: list[bytes] = []
        self._arrived = 0  # bytes in the pieces
        # The field in which the bytes at hand end: its name, its start in the frame, its size.
        self._field = _NONE

    def receive_data(self, data: bytes) -> None:
        """Take bytes as they came, cut anywhere."""
        if self._arrived or self._pos < len(self._buffer):
            self._pieces.append(data)
            self._arrived += len(data)
        else:
            self._origin += self._pos
            self._buffer, self._pos = data, 0

    def next_frame(self) -> Frame | None:
        """Give the next frame; None when more bytes are needed.

        Raises:
            FrameError: The next frame is malformed; every further call raises an equal error.
        """
        # Nearly all frames are Keep with data alone. Any other, and any doubt, takes the long way.
        buffer, start = self._buffer, self._pos + _HEAD_SIZE
        if start <= len(buffer):
            length, stream_id, status, option, size = _unpack_head(buffer, self._pos)
            if length == MIN_METADATA and status == _KEEP_BYTE and option == DATA:
                stop = start + size
                if stop <= len(buffer):
                    self._pos = stop
                    fields = (stream_id, _KEEP, DATA, None, None, None, buffer[start:stop], b"")
                    return _make(Frame, fields)
        elif self._pos == len(buffer) and not self._arrived:
            return None
        return self._next_frame()

    @property
    def next_new(self) -> int | None:
        """The stream that the next frame opens, malformed or not; None if it is no New, or none."""
        if len(self._buffer) - self._pos < _META.size:
            return None
        _, stream_id, status, _ = _META.unpack_from(self._buffer, self._pos)
        return int(stream_id) if status == FrameStatus.NEW else None

    def receive_eof(self) -> None:
        """Take the end of the stream, after `next_frame` has returned None.

        Raises:
            TruncatedError: The stream ended inside a frame.
            FrameError: A frame was malformed already.
            RuntimeError: A whole frame is still to be taken.
        """
        if self.next_frame() is not None:
            raise RuntimeError("frames are left: call next_frame until it returns None first")
        at_hand = len(self._buffer) - self._pos + self._arrived
        if at_hand:
            where, start, size = self._field
            offset = self._origin + self._pos + start
            raise TruncatedError.of_field(where, offset, size, at_hand - start)

    def _next_frame(self) -> Frame | None:
        # A bad frame stays where it is, and so is met again by every later call. To keep its
        # error instead would tie decoder, error and traceback into a reference cycle.
        frame = None
        while frame is None and self._refill():
            frame = self._decode()
        return frame

    def _refill(self) -> bool:
        """Tell whether the field waited for has come; if so, have it in the buffer."""
        _, start, size = self._field
        at_hand = len(self._buffer) - self._pos
        if at_hand >= start + size:
            return True
        if at_hand + self._arrived < start + size:
            return False
        if at_hand:
            self._pieces.insert(0, self._buffer[self._pos :])
        self._buffer = b"".join(self._pieces)
        self._origin += self._pos
        self._pos = self._arrived = 0
        self._pieces.clear()
        return True

    def _decode(self) -> Frame | None:
        """Read the frame at the position; None until what `_field` names has come."""
        buffer, pos = self._buffer, self._pos
        origin, at_hand = self._origin + pos, len(buffer) - pos
        if at_hand < _LENGTH_SIZE:
            self._field = ("frame metadata length", 0, _LENGTH_SIZE)
            return None
        (length,) = _LENGTH.unpack_from(buffer, pos)
        if not MIN_METADATA <= length <= MAX_METADATA:
            expected = f"{MIN_METADATA} to {MAX_METADATA}"
            raise FrameError("frame metadata length", origin, expected, str(length))
        stop = _LENGTH_SIZE + length
        if at_hand < stop:
            self._field = ("frame metadata", _LENGTH_SIZE, length)
            return None
        _, stream_id, number, option = _META.unpack_from(buffer, pos)
        status = _STATUSES.get(number)
        if status is None:
            raise FrameError("frame status", origin + 4, "1 to 4", str(number))
        metadata = buffer[pos + _LENGTH_SIZE : pos + stop]
        network, target, global_id, padding = decode_rest(metadata, status, option, origin + 2)
        data = None
        if option & DATA:
            start = stop + _LENGTH_SIZE
            if at_hand < start:
                self._field = ("frame data length", stop, _LENGTH_SIZE)
                return None
            (size,) = _LENGTH.unpack_from(buffer, pos + stop)
            stop = start + size
            if at_hand < stop:
                self._field = ("frame data", start, size)
                return None
            data = buffer[pos + start : pos + stop]
        self._pos = pos + stop
        self._field = _NONE
        return Frame(stream_id, status, option, network, target, global_id, data, padding)
