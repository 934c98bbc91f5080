"""The addons of a request header: a Protocol Buffers message of at most 255 bytes.

Only two fields are known, and one wire rule matters: no length is used before it is compared
with the bytes at hand. A reader that allocates first can be made to allocate gigabytes.
"""

from __future__ import annotations

from typing import Final

from muxleak_vless.errors import HeaderError

_FLOW: Final = 1
_SEED: Final = 2
_VARINT: Final = 0
_DELIMITED: Final = 2
_FIXED: Final = {1: 8, 5: 4}  # the other wire types; groups (3 and 4) were never in proto3
_MAX_TAG: Final = 2**32 - 1
_MAX_VALUE: Final = 2**64 - 1
_MAX_VARINT: Final = 10  # bytes of 7 bits each, for 64 bits
_MORE: Final = 0x80


def encode_addons(flow: str, seed: bytes) -> bytes:
    """Write the fields that are not empty; none at all give no bytes."""
    message = b""
    for number, value in ((_FLOW, flow.encode()), (_SEED, seed)):
        if value:
            message += bytes((number << 3 | _DELIMITED,)) + _encode_varint(len(value)) + value
    return message


def decode_addons(message: bytes, origin: int) -> tuple[str, bytes]:
    """Read flow and seed; a field that is absent is empty, the last one of a kind counts.

    Unknown fields, and known numbers with another wire type, are skipped as protobuf asks.

    Args:
        message: All the bytes of the addons.
        origin: Their offset in the stream; only error messages need it.

    Raises:
        HeaderError: The bytes are no protobuf message, or the flow is no UTF-8.
    """
    fields = {_FLOW: b"", _SEED: b""}
    at = flow_at = 0
    while at < len(message):
        start = at
        tag, at = _decode_varint(message, at, origin, _MAX_TAG)
        number, wire = tag >> 3, tag & 7
        if number == 0 or wire not in (_VARINT, _DELIMITED, *_FIXED):
            expected = "a field number above 0 with wire type 0, 1, 2 or 5"
            raise HeaderError("addons tag", origin + start, expected, f"{number} with {wire}")
        if wire == _VARINT:
            _, at = _decode_varint(message, at, origin, _MAX_VALUE)
            continue
        size = _FIXED.get(wire, 0)
        if wire == _DELIMITED:
            size, at = _decode_varint(message, at, origin, _MAX_VALUE)
        if size > len(message) - at:
            found = f"{len(message) - at} to the end of the addons"
            raise HeaderError("addons field", origin + at, f"{size} bytes", found)
        if wire == _DELIMITED and number in fields:
            fields[number] = message[at : at + size]
            flow_at = at if number == _FLOW else flow_at
        at += size
    try:
        return fields[_FLOW].decode(), fields[_SEED]
    except UnicodeDecodeError:
        found = fields[_FLOW].hex()
        raise HeaderError("addons flow", origin + flow_at, "UTF-8", found) from None


def _encode_varint(value: int) -> bytes:
    """Write 7 bits a byte, lowest first, the top bit on all but the last."""
    encoded = b""
    while value >= _MORE:
        encoded += bytes((value & 0x7F | _MORE,))
        value >>= 7
    return encoded + bytes((value,))


def _decode_varint(message: bytes, at: int, origin: int, maximum: int) -> tuple[int, int]:
    """Read a number of at most ten bytes; give it and the position after it."""
    value = 0
    encoded = message[at : at + _MAX_VARINT]
    for place, byte in enumerate(encoded):
        value |= (byte & 0x7F) << 7 * place
        if byte < _MORE and value <= maximum:
            return value, at + place + 1
        if byte < _MORE:
            break
    expected = f"0 to {maximum} in at most {_MAX_VARINT} bytes"
    raise HeaderError("addons varint", origin + at, expected, encoded.hex() or "no byte")
