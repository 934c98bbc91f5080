"""The two headers of a VLESS connection: the client's request, the server's response.

Each is sent once, as the first bytes of its direction, in any segmentation, and may share a
segment with what follows it. Request: version (1 byte, 0), user id (16), addons length (1),
addons, command (1); then the target, absent for the mux and reverse commands. Response: version
(1), addons length (1), addons.

Two rules: a byte that cannot be right is refused when it arrives, not when the header is
complete; and no length is used before it is compared with the bytes at hand. Whether the user
is known and the command is served is not decided here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import IntEnum
from typing import Final, Generic, NamedTuple, TypeVar
from uuid import UUID

from muxleak_vless.addons import decode_addons, encode_addons
from muxleak_vless.address import Address, decode_address, encode_address
from muxleak_vless.errors import HeaderError, TruncatedError

VERSION: Final = 0
MAX_REQUEST: Final = 533  # 1 + 16 + 1 + 255 of addons + 1 + 2 + 1 + 1 + 255 of domain

_UUID_SIZE: Final = 16
_MAX_BYTE: Final = 255

_T = TypeVar("_T")


class Command(IntEnum):
    """What the client asks for. The last two have no target in the header."""

    TCP = 1
    UDP = 2
    MUX = 3
    REVERSE = 4


_COMMANDS: Final = {int(command): command for command in Command}
_WITHOUT_TARGET: Final = (Command.MUX, Command.REVERSE)


class Addons(NamedTuple):
    """The protobuf message of a request header; no other field is known.

    Attributes:
        flow: The name of a flow control; the only one in use is "xtls-rprx-vision".
        seed: Reserved by the protocol, never sent by known clients.
    """

    flow: str = ""
    seed: bytes = b""


class Request(NamedTuple):
    """What a client sends first.

    Attributes:
        user: Who it claims to be.
        command: A `Command`, or an unknown number, whose target is read like that of TCP.
        target: Where to; None for the mux and reverse commands, which have none.
        addons: Empty unless the client uses a flow.
        version: 0, the only one that is decoded.
    """

    user: UUID
    command: int
    target: Address | None = None
    addons: Addons = Addons()
    version: int = VERSION


class Response(NamedTuple):
    """What a server sends before its first byte of payload.

    Attributes:
        version: That of the request.
        addons: Up to 255 bytes that known servers leave empty and clients skip.
    """

    version: int = VERSION
    addons: bytes = b""


def encode_request(request: Request) -> bytes:
    """Write a request header: 19 to 533 bytes.

    Raises:
        ValueError: A value does not fit its field, or the target does not fit the command.
    """
    command, target = request.command, request.target
    if (target is None) is not (command in _WITHOUT_TARGET):
        raise ValueError(f"target: expected one unless the command is 3 or 4, got {request!r}")
    addons = encode_addons(*request.addons)
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
    """Write a response header: 2 to 257 bytes.

    Raises:
        ValueError: A value does not fit its field.
    """
    version, addons = response
    return _byte("version", version) + _byte("addons length", len(addons)) + addons


class _HeaderDecoder(ABC, Generic[_T]):
    """What the two decoders share: bytes until the header is whole, then the rest untouched."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        # The field in which the bytes at hand end: its name, its first byte, its size.
        self._field = ("", 0, 1)
        self._size: int | None = None

    @property
    def trailing(self) -> bytes:
        """The bytes that came after the header; empty until it is whole."""
        return b"" if self._size is None else bytes(self._buffer[self._size :])

    def receive_data(self, data: bytes) -> _T | None:
        """Take bytes as they came; give the header once it is whole, None until then.

        Raises:
            HeaderError: The bytes are no header; every further call raises an equal error.
            RuntimeError: The header was whole already; what follows it is not for this decoder.
        """
        if self._size is not None:
            raise RuntimeError("the header is whole: feed what follows it to the next decoder")
        self._buffer += data
        _, start, size = self._field
        if len(self._buffer) < start + size:
            return None
        # What is refused stays in the buffer, and so is refused again by every later call.
        return self._parse(self._buffer)

    def receive_eof(self) -> None:
        """Take the end of the stream; before the first byte and after the header it is clean.

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
        """Read the whole header and set `_size`; None after `_has` has said no."""

    def _has(self, where: str, start: int, size: int) -> bool:
        """Tell whether a field is at hand; if not, it is what the decoder waits for."""
        self._field = (where, start, size)
        return len(self._buffer) >= start + size

    def _check_version(self, where: str) -> None:
        if self._buffer[0] != VERSION:
            raise HeaderError(where, 0, str(VERSION), str(self._buffer[0]))


class RequestDecoder(_HeaderDecoder[Request]):
    """Reads one request header from the bytes of a client."""

    def _parse(self, buffer: bytearray) -> Request | None:
        self._check_version("request version")
        if not (self._has("user id", 1, _UUID_SIZE) and self._has("addons length", 17, 1)):
            return None
        at = 18 + buffer[17]
        if not self._has("addons", 18, buffer[17]):
            return None
        addons = Addons(*decode_addons(bytes(buffer[18:at]), 18))
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
    """Reads one response header from the bytes of a server."""

    def _parse(self, buffer: bytearray) -> Response | None:
        self._check_version("response version")
        if not self._has("addons length", 1, 1) or not self._has("addons", 2, buffer[1]):
            return None
        self._size = 2 + buffer[1]
        return Response(VERSION, bytes(buffer[2 : self._size]))


def _byte(where: str, value: int) -> bytes:
    if not 0 <= value <= _MAX_BYTE:
        raise ValueError(f"{where}: expected 0 to {_MAX_BYTE}, got {value!r}")
    return bytes((value,))
