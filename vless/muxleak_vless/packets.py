"""UDP packets over a byte stream: a length of two bytes, big-endian, then the payload.

A connection with the UDP command carries such packets after its headers, in both directions. All
packets belong to the request's target. A length of 0 is legal, though some peers drop such packets
(the writers of Xray-core and v2ray-core).
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from muxleak_vless.errors import TruncatedError

MAX_PAYLOAD: Final = 65_535  # the length has two bytes

_LENGTH: Final = Struct(">H")


def encode_packet(payload: bytes) -> bytes:
    """Encode a packet: the length, then the payload.

    Raises:
        ValueError: The payload is longer than 65535 bytes; a packet is never split.
    """
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"packet: expected at most {MAX_PAYLOAD} bytes, got {len(payload)}")
    return _LENGTH.pack(len(payload)) + payload


class PacketDecoder:
    """Cuts the bytes of one direction into packets; it knows no address."""

    __slots__ = ("_buffer", "_consumed")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._consumed = 0

    def receive_data(self, data: bytes) -> None:
        """Append received bytes, cut anywhere."""
        self._buffer += data

    def next_packet(self) -> bytes | None:
        """Return the next payload, which may be empty; None if more bytes are needed."""
        buffer = self._buffer
        if len(buffer) < _LENGTH.size:
            return None
        stop = _LENGTH.size + _LENGTH.unpack_from(buffer)[0]
        if len(buffer) < stop:
            return None
        payload = bytes(buffer[_LENGTH.size : stop])
        # Cheap: a bytearray drops its front by moving an offset, not the rest of the bytes.
        del buffer[:stop]
        self._consumed += stop
        return payload

    def receive_eof(self) -> None:
        """Accept the end of the stream, after `next_packet` has returned None.

        Raises:
            TruncatedError: The stream ended inside a packet.
            RuntimeError: A whole packet has not been taken yet.
        """
        at_hand = len(self._buffer)
        if at_hand == 0:
            return
        if at_hand < _LENGTH.size:
            where, start, size = "packet length", 0, _LENGTH.size
        else:
            where, start, size = "packet", _LENGTH.size, _LENGTH.unpack_from(self._buffer)[0]
        if at_hand - start >= size:
            raise RuntimeError("packets are left: call next_packet until it returns None first")
        raise TruncatedError.of_field(where, self._consumed + start, size, at_hand - start)
