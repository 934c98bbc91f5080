"""The two headers of a VLESS connection: the client's request, the server's response.

Each is sent once, as the first bytes of its direction, in any segmentation, and may share a
segment with the bytes that follow it.

Request: version (1 byte, 0), user id (16), addons length (1), addons, command (1); then the target,
absent for the mux and reverse commands. Response: version (1), addons length (1), addons.

The addons of a request are a Protocol Buffers message of at most 255 bytes with two known fields,
flow and seed.

Source: the VLESS pages of XTLS and v2fly; Xray-core `proxy/vless/encoding`. The server does not
send its response at once: it leaves with the first bytes of the downlink, as with all known
servers, so a client must not wait for it before it sends.
"""

# Three rules.
#
# 1. A byte that cannot be right is refused on arrival, not when the header is complete. A peer
#    that speaks another protocol is refused at its first byte, and holds no task until the header
#    limit.
# 2. No length is used before it is compared with the bytes at hand. sing-vmess allocates the flow
#    of the addons by its announced length first, so a header of a few bytes can make the server
#    allocate gigabytes.
# 3. Unknown addons are skipped as protobuf asks. sing-vmess reads the tag of a seed as a length,
#    and refuses a valid header.
#
# The decoders know neither users nor served commands: the server decides about both, after the
# whole header has arrived (`inbound`).
#
# Refused bytes stay in the buffer, so every further call raises an equal error, and no error has
# to be stored beside its traceback, which would be a reference cycle.

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import IntEnum
from typing import Final, Generic, NamedTuple, TypeVar
from uuid import UUID

from muxleak_vless.address import Address, decode_address, encode_address
from muxleak_vless.errors import HeaderError, TruncatedError

VERSION: Final = 0
MAX_REQUEST: Final = 533  # 1 + 16 + 1 + 255 of addons + 1 + 2 + 1 + 1 + 255 of domain

_UUID_SIZE: Final = 16
_MAX_BYTE: Final = 255

# Protocol Buffers: the field numbers and wire types of the addons.
_FLOW: Final = 1
_SEED: Final = 2
_VARINT: Final = 0
_DELIMITED: Final = 2
_FIXED: Final = {1: 8, 5: 4}  # the other wire types; groups (3 and 4) were never in proto3
_MAX_TAG: Final = 2**32 - 1
_MAX_VALUE: Final = 2**64 - 1
_MAX_VARINT: Final = 10  # bytes of 7 bits each, for 64 bits
_MORE: Final = 0x80

_T = TypeVar("_T")


class Command(IntEnum):
    """Command of a request. The last two have no target in the header."""

    TCP = 1
    UDP = 2
    MUX = 3
    REVERSE = 4


_COMMANDS: Final = {int(command): command for command in Command}
_WITHOUT_TARGET: Final = (Command.MUX, Command.REVERSE)


class Addons(NamedTuple):
    """The protobuf message of a request header; no other field is known.

    Attributes:
        flow: Name of a flow control; the only one in use is "xtls-rprx-vision".
        seed: Reserved by the protocol, never sent by known clients.
    """

    flow: str = ""
    seed: bytes = b""


class Request(NamedTuple):
    """Header that a client sends first.

    Attributes:
        user: Id of the user that the client claims to be.
        command: A `Command`, or an unknown number, whose target is read like that of TCP.
        target: Destination; None for the mux and reverse commands, which have none.
        addons: Empty unless the client uses a flow.
        version: 0, the only one that is decoded.
    """

    user: UUID
    command: int
    target: Address | None = None
    addons: Addons = Addons()
    version: int = VERSION


class Response(NamedTuple):
    """Header that a server sends before its first byte of payload.

    Attributes:
        version: Version of the request.
        addons: Up to 255 bytes that known servers leave empty and clients skip.
    """

    version: int = VERSION
    addons: bytes = b""


def _encode_addons(flow: str, seed: bytes) -> bytes:
    """Encode the fields that are not empty; without any, return no bytes."""
    message = b""
    for number, value in ((_FLOW, flow.encode()), (_SEED, seed)):
        if value:
            message += bytes((number << 3 | _DELIMITED,)) + _encode_varint(len(value)) + value
    return message


def _decode_addons(message: bytes, origin: int) -> tuple[str, bytes]:
    """Decode flow and seed; an absent field is empty, the last one of a kind counts.

    Unknown fields, and known numbers with another wire type, are skipped as protobuf asks.

    Args:
        message: All bytes of the addons.
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
    """Encode 7 bits a byte, lowest first, the top bit on all but the last."""
    encoded = b""
    while value >= _MORE:
        encoded += bytes((value & 0x7F | _MORE,))
        value >>= 7
    return encoded + bytes((value,))


def _decode_varint(message: bytes, at: int, origin: int, maximum: int) -> tuple[int, int]:
    """Decode a number of at most ten bytes; return it and the position after it."""
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


def _byte(where: str, value: int) -> bytes:
    if not 0 <= value <= _MAX_BYTE:
        raise ValueError(f"{where}: expected 0 to {_MAX_BYTE}, got {value!r}")
    return bytes((value,))


def encode_request(request: Request) -> bytes:
    """Encode a request header: 19 to 533 bytes.

    Raises:
        ValueError: A value does not fit its field, or the target does not fit the command.
    """
    command, target = request.command, request.target
    if (target is None) is not (command in _WITHOUT_TARGET):
        raise ValueError(f"target: expected one unless the command is 3 or 4, got {request!r}")
    addons = _encode_addons(*request.addons)
    return b"".join(
        (
            _byte("version", request.version),
            request.user.bytes,
            _byte("addons length", len(addons)),
            addons,
            _byte("command", command),
            b"" if target is None else encode_address(target),
        )
    )


def encode_response(response: Response) -> bytes:
    """Encode a response header: 2 to 257 bytes.

    Raises:
        ValueError: A value does not fit its field.
    """
    version, addons = response
    return _byte("version", version) + _byte("addons length", len(addons)) + addons


class _HeaderDecoder(ABC, Generic[_T]):
    """Base of both decoders: collects bytes until the header is whole, and keeps the rest as is."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        # The field in which the bytes at hand end: its name, its first byte, its size.
        self._field = ("", 0, 1)
        self._size: int | None = None

    @property
    def trailing(self) -> bytes:
        """Bytes received after the header; empty until the header is whole."""
        return b"" if self._size is None else bytes(self._buffer[self._size :])

    def receive_data(self, data: bytes) -> _T | None:
        """Append received bytes; return the header once it is whole, None until then.

        Raises:
            HeaderError: The bytes are no header; every further call raises an equal error.
            RuntimeError: The header was whole already; further bytes are for the next decoder.
        """
        if self._size is not None:
            raise RuntimeError("the header is whole: feed the bytes after it to the next decoder")
        self._buffer += data
        _, start, size = self._field
        if len(self._buffer) < start + size:
            return None
        return self._parse(self._buffer)

    def receive_eof(self) -> None:
        """Accept the end of the stream, which is clean before the first byte and after the header.

        Raises:
            TruncatedError: The stream ended inside the header.
            HeaderError: It was malformed already.
        """
        if self._buffer and self._size is None:
            self._parse(self._buffer)
            where, start, size = self._field
            raise TruncatedError.of_field(where, start, size, len(self._buffer) - start)

    @abstractmethod
    def _parse(self, buffer: bytearray) -> _T | None:
        """Decode the whole header and set `_size`; return None if `_has` returned False."""

    def _has(self, where: str, start: int, size: int) -> bool:
        """Return True if a field is at hand; if not, the decoder waits for that field."""
        self._field = (where, start, size)
        return len(self._buffer) >= start + size

    def _check_version(self, where: str) -> None:
        if self._buffer[0] != VERSION:
            raise HeaderError(where, 0, str(VERSION), str(self._buffer[0]))


class RequestDecoder(_HeaderDecoder[Request]):
    """Decodes one request header from the bytes of a client."""

    def _parse(self, buffer: bytearray) -> Request | None:
        self._check_version("request version")
        if not (self._has("user id", 1, _UUID_SIZE) and self._has("addons length", 17, 1)):
            return None
        at = 18 + buffer[17]
        if not self._has("addons", 18, buffer[17]):
            return None
        addons = Addons(*_decode_addons(bytes(buffer[18:at]), 18))
        if not self._has("command", at, 1):
            return None
        command = buffer[at]
        at += 1
        target = None
        if command not in _WITHOUT_TARGET:
            target, size = decode_address(buffer, at, 0, HeaderError)
            if not self._has("target", at, size):
                return None
            at += size
        self._size = at
        user = UUID(bytes=bytes(buffer[1:17]))
        return Request(user, _COMMANDS.get(command, command), target, addons)


class ResponseDecoder(_HeaderDecoder[Response]):
    """Decodes one response header from the bytes of a server."""

    def _parse(self, buffer: bytearray) -> Response | None:
        self._check_version("response version")
        if not self._has("addons length", 1, 1) or not self._has("addons", 2, buffer[1]):
            return None
        self._size = 2 + buffer[1]
        return Response(VERSION, bytes(buffer[2 : self._size]))
