"""mux.cool frames: their fields, and their encoding and decoding without I/O.

Layout, the same in both directions, integers big-endian: metadata length (2 bytes, not counting
itself), metadata (4 to 512 bytes); if the option in it has the data bit, data length (2) and data
(0 to 65535 bytes).

Metadata is stream id (2 bytes), status (1), option (1) and the rest. The rest of a New is network
(1), address and, for UDP with data, a Global ID (8). The rest of a Keep is empty, or network UDP
and the address of this packet. All other bytes have no meaning and are kept as padding.

Source: the mux.cool pages of v2fly and XTLS; sing-vmess `mux.go`; `common/mux` of Xray-core and
v2ray-core, from which the limit of 512 bytes and the tolerance of padding are taken.
"""

# Two rules.
#
# 1. A frame is decoded whole, and every error in it raised, before the session sees any of it. So
#    the session never has to undo a frame. sing-vmess enters a New into its table first and checks
#    the network byte after: a bad byte orphans the stream that has the id (the pair
#    `malformed_frame_orphans`).
# 2. Announced data belongs to its frame, whatever the status and whether the id exists or not. A
#    decoder that skips the data of a frame it does not need loses the framing. Which ids exist is
#    not known here.
#
# The decoder holds the bytes that have arrived in pieces, as they came, and joins them only once
# the field that it waits for (`_field`) is complete. So each byte is copied a bounded number of
# times, whether it arrives alone or in a large piece; a buffer that grows by `+=` on bytes would be
# quadratic. After a frame is taken, only `_pos` moves.
#
# A malformed frame is not consumed: every later call meets it again and raises an equal error. So
# no error has to be stored, which would tie decoder, error and traceback into a reference cycle.
#
# Cost: nearly all frames are Keep with data and four bytes of metadata. `keeps` yields id and data
# of such frames, with one `unpack_from` for each, since a `Frame` would cost as much again.
# `next_frame` builds one with `tuple.__new__`. Every other frame, and every doubt, goes through
# `_decode`, which makes all checks.

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

from muxleak_vless.address import NetworkType, decode_address, encode_address
from muxleak_vless.errors import FrameError, TruncatedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from muxleak_vless.address import Address

# Plain numbers: an IntFlag makes an object per test, which would double the cost of a frame.
DATA: Final = 0x01
ERROR: Final = 0x02

MAX_DATA: Final = 65_535  # the length has two bytes

_MIN_METADATA: Final = 4
_MAX_METADATA: Final = 512  # as in Xray and V2Ray; sing-vmess has no bound
_GLOBAL_ID_SIZE: Final = 8

_MAX_ID: Final = 0xFFFF
_MAX_OPTION: Final = 0xFF
_LENGTH: Final = Struct(">H")
_LENGTH_SIZE: Final = _LENGTH.size
_META: Final = Struct(">HHBB")
_META_AND_SIZE: Final = Struct(">HHBBH")
_KEEP_HEAD: Final = Struct(">HHHH")  # the same bytes; status and option are one number
_NONE: Final = ("", 0, 0)

# Positions in the metadata, from the stream id on.
_MIN_NEW: Final = 8  # id, status, option, network, port, address type
_AT_STATUS: Final = 2
_AT_NETWORK: Final = 4
_AT_TARGET: Final = 5
_NETWORKS: Final = {int(network): network for network in NetworkType}
_UDP_BYTE: Final = bytes((NetworkType.UDP,))


_Rest = tuple[NetworkType | None, "Address | None", bytes | None, bytes]
_news: dict[bytes, _Rest] = {}  # of the last News, by their metadata after the id
_MAX_NEWS: Final = 256


class FrameStatus(IntEnum):
    """Effect of a frame on its stream."""

    NEW = 1
    KEEP = 2
    END = 3
    KEEP_ALIVE = 4


_STATUSES: Final = {int(status): status for status in FrameStatus}

# Used once per frame: looking these up would cost as much as the work, and a named tuple's own
# constructor would be a call in Python.
_KEEP: Final = FrameStatus.KEEP
_KEEP_BYTE: Final = int(_KEEP)
_END: Final = int(FrameStatus.END)
_HEAD_SIZE: Final = _META_AND_SIZE.size
_unpack_head: Final = _META_AND_SIZE.unpack_from
_unpack_keep: Final = _KEEP_HEAD.unpack_from
_KEEP_WITH_DATA: Final = _KEEP_BYTE << 8 | DATA
_make: Final = tuple.__new__


class Frame(NamedTuple):
    """A mux.cool frame. Encoding a decoded frame gives the same bytes.

    Attributes:
        stream_id: 0 to 65535, chosen by the client.
        status: Effect of the frame on its stream.
        option: The bits `DATA` and `ERROR`; other bits have no meaning and are kept.
        network: Network of a New; UDP if a Keep has a target; else None.
        target: Destination of a New; destination or source of the packet of a UDP Keep.
        global_id: 8 bytes that name a UDP session across connections; all zero means none.
        data: The payload; None without the data bit, which is not the same as empty.
        padding: Metadata bytes without a meaning.
    """

    stream_id: int
    status: FrameStatus
    option: int = 0
    network: NetworkType | None = None
    target: Address | None = None
    global_id: bytes | None = None
    data: bytes | None = None
    padding: bytes = b""

    @property
    def is_error(self) -> bool:
        """True for an End with the error bit; the bit has no meaning in other frames."""
        return self.status is FrameStatus.END and self.option & ERROR != 0

    @classmethod
    def new(
        cls,
        stream_id: int,
        network: NetworkType,
        target: Address,
        data: bytes | None = None,
        global_id: bytes | None = None,
    ) -> Frame:
        """Return the New that opens a stream.

        Args:
            stream_id: 0 to 65535.
            network: Network to dial.
            target: Destination to dial.
            data: First data of the stream, at most 65535 bytes; None for no data field.
            global_id: 8 bytes, only for UDP with data.
        """
        option = 0 if data is None else DATA
        return cls(stream_id, FrameStatus.NEW, option, network, target, global_id, data)

    @classmethod
    def keep(cls, stream_id: int, data: bytes, target: Address | None = None) -> Frame:
        """Return the Keep that carries data of an open stream.

        Args:
            stream_id: 0 to 65535.
            data: At most 65535 bytes.
            target: Destination or source of a UDP packet; None for bytes, and for a packet of
                the stream's own target.
        """
        network = None if target is None else NetworkType.UDP
        return cls(stream_id, FrameStatus.KEEP, DATA, network, target, None, data)

    @classmethod
    def end(cls, stream_id: int, *, error: bool = False) -> Frame:
        """Return the End that closes a stream, with the error bit if ``error``."""
        return cls(stream_id, FrameStatus.END, ERROR if error else 0)


def _encode_rest(frame: Frame) -> bytes:
    """Encode the metadata after the option byte.

    Raises:
        ValueError: A value does not fit its field, or the decoder would read another frame.
    """
    _, status, _, network, target, global_id, _, padding = frame
    if not _is_readable(frame):
        got = f"{status!r} with {network!r}, {target!r}, {global_id!r}, {padding!r}"
        raise ValueError(f"metadata: expected what the status allows, got {got}")
    if network is None or target is None:
        return padding
    return bytes((network,)) + encode_address(target) + (global_id or b"") + padding


def _decode_rest(metadata: bytes, status: FrameStatus, option: int, origin: int) -> _Rest:
    """Decode the metadata after the option byte: network, target, Global ID, padding.

    Args:
        metadata: All metadata bytes, from the stream id on.
        status: The status in the metadata.
        option: The option byte in the metadata.
        origin: The metadata's offset in the stream; only error messages need it.

    Raises:
        FrameError: A New is too short, its network unknown, or a target is malformed.
    """
    if status is FrameStatus.NEW:
        if len(metadata) < _MIN_NEW:
            expected = f"{_MIN_NEW} to {_MAX_METADATA} for New"
            raise FrameError("frame metadata length", origin - 2, expected, str(len(metadata)))
        network = _NETWORKS.get(metadata[_AT_NETWORK])
        if network is None:
            found = str(metadata[_AT_NETWORK])
            raise FrameError("network", origin + _AT_NETWORK, "1 (TCP) or 2 (UDP)", found)
    elif status is FrameStatus.KEEP and metadata[_AT_NETWORK:_AT_TARGET] == _UDP_BYTE:
        network = NetworkType.UDP
    else:
        return None, None, None, metadata[_AT_NETWORK:]
    target, size = decode_address(metadata, _AT_TARGET, origin, FrameError)
    if target is None:
        found = f"{len(metadata) - _AT_TARGET} to the end of the metadata"
        raise FrameError("target", origin + _AT_TARGET, f"{size} bytes", found)
    at = _AT_TARGET + size
    if _may_have_global_id(status, option, network) and len(metadata) - at >= _GLOBAL_ID_SIZE:
        stop = at + _GLOBAL_ID_SIZE
        return network, target, metadata[at:stop], metadata[stop:]
    return network, target, None, metadata[at:]


def _decode_new(metadata: bytes, status: FrameStatus, option: int, origin: int) -> _Rest:
    """Decode as `_decode_rest`, for a New.

    Clients open many streams to few destinations, so the last results are kept.
    """
    known = _news.get(metadata[_AT_STATUS:])
    if known is None:
        known = _decode_rest(metadata, status, option, origin)
        if len(_news) >= _MAX_NEWS:
            _news.clear()
        _news[metadata[_AT_STATUS:]] = known
    return known


def _may_have_global_id(status: FrameStatus, option: int, network: NetworkType | None) -> bool:
    return status == FrameStatus.NEW and network == NetworkType.UDP and option & DATA != 0


def _is_readable(frame: Frame) -> bool:
    """Return True if the rest, once encoded, decodes to the same fields."""
    _, status, option, network, target, global_id, _, padding = frame
    if (network is None) is not (target is None):
        return False
    may_have_id = _may_have_global_id(status, option, network)
    if global_id is not None:
        return may_have_id and target is not None and len(global_id) == _GLOBAL_ID_SIZE
    if status == FrameStatus.NEW:
        return target is not None and not (may_have_id and len(padding) >= _GLOBAL_ID_SIZE)
    if status == FrameStatus.KEEP:
        return network == NetworkType.UDP if target is not None else padding[:1] != _UDP_BYTE
    return target is None


def encode_frame(frame: Frame) -> bytes:
    """Encode a frame.

    Raises:
        ValueError: A value does not fit its field, or the decoder would read another frame.
    """
    stream_id, status, option, _, _, _, data, _ = frame
    if not 0 <= stream_id <= _MAX_ID or not 0 <= option <= _MAX_OPTION:
        raise ValueError(f"frame: expected a 16-bit id, 8-bit option, got {stream_id}, {option}")
    if (data is not None) is not bool(option & DATA):
        got = "no data" if data is None else "data"
        raise ValueError(f"frame: expected data exactly with bit 1, got {option:#04x} and {got}")
    rest = _encode_rest(frame)
    size = _MIN_METADATA + len(rest)
    if size > _MAX_METADATA:
        raise ValueError(f"metadata: expected at most {_MAX_METADATA} bytes, got {size}")
    metadata = _META.pack(size, stream_id, status, option) + rest
    if data is None:
        return metadata
    if len(data) > MAX_DATA:
        expected = f"at most {MAX_DATA} bytes (data_frames splits it)"
        raise ValueError(f"frame data: expected {expected}, got {len(data)}")
    return metadata + _LENGTH.pack(len(data)) + data


def encode_end(stream_id: int, *, error: bool = False) -> bytes:
    """Encode the End that closes a stream, as `encode_frame` does `Frame.end`.

    Args:
        stream_id: 0 to 65535.
        error: True for the error bit.

    Raises:
        ValueError: The id does not fit its field.
    """
    if not 0 <= stream_id <= _MAX_ID:
        raise ValueError(f"stream id: expected 0 to {_MAX_ID}, got {stream_id!r}")
    return _META.pack(_MIN_METADATA, stream_id, _END, ERROR if error else 0)


def data_frames(stream_id: int, data: bytes, target: Address | None = None) -> list[bytes]:
    """Encode data as Keep frames, one for each 65535 bytes begun; no data gives no frame.

    Args:
        stream_id: 0 to 65535.
        data: Bytes of any length, or one UDP packet.
        target: Destination or source of the packet; None for bytes.

    Raises:
        ValueError: A value does not fit its field, or data with a target, which is one UDP
            packet, would have to be split.
    """
    if target is not None:
        return [encode_frame(Frame.keep(stream_id, data, target))] if data else []
    if not 0 <= stream_id <= _MAX_ID:
        raise ValueError(f"stream id: expected 0 to {_MAX_ID}, got {stream_id!r}")
    if 0 < len(data) <= MAX_DATA:
        return [_META_AND_SIZE.pack(_MIN_METADATA, stream_id, _KEEP_BYTE, DATA, len(data)) + data]
    pieces = (data[start : start + MAX_DATA] for start in range(0, len(data), MAX_DATA))
    return [frame for piece in pieces for frame in data_frames(stream_id, piece)]


class FrameDecoder:
    """Cuts the bytes of one direction into frames, in time linear in their number.

    Arrived bytes stay in their pieces until the field that the decoder waits for is complete, and
    a whole piece is read in place; so neither single bytes nor large chunks are copied often.
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
        """Append received bytes, cut anywhere."""
        if self._arrived or self._pos < len(self._buffer):
            self._pieces.append(data)
            self._arrived += len(data)
        else:
            self._origin += self._pos
            self._buffer, self._pos = data, 0

    def keeps(self) -> Iterator[tuple[int, bytes]]:
        """Take the frames at hand that are a Keep with data alone, up to the first that is none.

        Such a frame has no target and no padding. One that has only arrived in part, or in two
        pieces, is left to `next_frame`. Take all before more bytes are received.

        Yields:
            Stream id and data. The frame is taken before it is yielded.
        """
        buffer = self._buffer
        end, start = len(buffer), self._pos + _HEAD_SIZE
        while start <= end:
            length, stream_id, kind, size = _unpack_keep(buffer, start - _HEAD_SIZE)
            stop = start + size
            if kind != _KEEP_WITH_DATA or length != _MIN_METADATA or stop > end:
                return
            self._pos = stop
            yield stream_id, buffer[start:stop]
            start = stop + _HEAD_SIZE

    def next_frame(self) -> Frame | None:
        """Return the next frame, None if more bytes are needed.

        Raises:
            FrameError: The next frame is malformed; every further call raises an equal error.
        """
        # Nearly all frames are Keep with data alone. All others, and all doubts, go to `_decode`.
        buffer, start = self._buffer, self._pos + _HEAD_SIZE
        if start <= len(buffer):
            length, stream_id, status, option, size = _unpack_head(buffer, self._pos)
            if length == _MIN_METADATA and status == _KEEP_BYTE and option == DATA:
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
        """Id of the stream that the next frame opens, malformed or not; None if it is no New."""
        if len(self._buffer) - self._pos < _META.size:
            return None
        _, stream_id, status, _ = _META.unpack_from(self._buffer, self._pos)
        return int(stream_id) if status == FrameStatus.NEW else None

    def receive_eof(self) -> None:
        """Accept the end of the stream, after `next_frame` has returned None.

        Raises:
            TruncatedError: The stream ended inside a frame.
            FrameError: A frame was malformed already.
            RuntimeError: A whole frame has not been taken yet.
        """
        if self.next_frame() is not None:
            raise RuntimeError("frames are left: call next_frame until it returns None first")
        at_hand = len(self._buffer) - self._pos + self._arrived
        if at_hand:
            where, start, size = self._field
            offset = self._origin + self._pos + start
            raise TruncatedError.of_field(where, offset, size, at_hand - start)

    def _next_frame(self) -> Frame | None:
        # `_decode` stops at the first field that is not in the buffer, which may be in the pieces.
        frame = None
        while frame is None and self._refill():
            frame = self._decode()
        return frame

    def _refill(self) -> bool:
        """Return True if the field that is waited for has arrived; it is then in the buffer."""
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
        """Decode the frame at the position; return None if the field in `_field` is needed."""
        buffer, pos = self._buffer, self._pos
        origin, at_hand = self._origin + pos, len(buffer) - pos
        if at_hand < _LENGTH_SIZE:
            self._field = ("frame metadata length", 0, _LENGTH_SIZE)
            return None
        (length,) = _LENGTH.unpack_from(buffer, pos)
        if not _MIN_METADATA <= length <= _MAX_METADATA:
            expected = f"{_MIN_METADATA} to {_MAX_METADATA}"
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
        decode = _decode_new if status is FrameStatus.NEW else _decode_rest
        network, target, global_id, padding = decode(metadata, status, option, origin + 2)
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
