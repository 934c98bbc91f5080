"""Addresses on the wire: port, type, host. The same layout in headers and in mux frames.

Layout: port (2 bytes, big-endian), type (1), then 4 bytes of IPv4, 16 bytes of IPv6, or one
length byte and a domain. Type 2 is the domain and 3 is IPv6, which is not the order of SOCKS.
"""

# This module knows no stream: it decodes bytes that its callers have buffered. From `socket` it
# takes two pure functions only. `ipaddress` would not do: the standard text of an IPv6 address must
# not change with the Python version, as that of `ipaddress` did in 3.13.

from __future__ import annotations

from enum import IntEnum
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from muxleak_vless.errors import ProtocolError

MAX_DOMAIN: Final = 255  # the length has one byte
MAX_PORT: Final = 65_535

_PORT_AND_TYPE: Final = Struct(">HB")


class NetworkType(IntEnum):
    """Bytes (TCP) or packets (UDP); the byte that precedes a target in a mux frame."""

    TCP = 1
    UDP = 2


class AddressType(IntEnum):
    """Form of a host on the wire; the values of VLESS and mux.cool, not of SOCKS."""

    IPV4 = 1
    DOMAIN = 2
    IPV6 = 3


class Address(NamedTuple):
    """A host and a port in the form that they have on the wire.

    A domain is any 0 to 255 bytes, held as Latin-1 text: every byte has one character, so that it
    is encoded unchanged and can always be printed. A name outside ASCII must be in its IDNA form.
    An empty domain is an address, too; the sessions refuse it.

    Attributes:
        host: The standard text of an IP address, or a domain.
        port: 0 to 65535.
        kind: Form of the host on the wire.
    """

    host: str
    port: int
    kind: AddressType

    @classmethod
    def of(cls, host: str, port: int) -> Address:
        """Return the address of a host text: an IP literal, else a domain."""
        # `inet_pton` costs an exception for each text that is no literal; most names cannot be one.
        if not host[-1:].isdigit() and ":" not in host:
            return cls(host, port, AddressType.DOMAIN)
        for kind, family in _FAMILIES:
            try:
                return cls(inet_ntop(family, inet_pton(family, host)), port, kind)
            except (OSError, ValueError):  # ValueError: a NUL or a surrogate in the text
                continue
        return cls(host, port, AddressType.DOMAIN)

    @property
    def literal(self) -> Address:
        """The same address, but as an IP address if it is a domain that spells one."""
        return Address.of(self.host, self.port) if self.kind is AddressType.DOMAIN else self

    def __str__(self) -> str:
        if self.kind is AddressType.IPV6:
            return f"[{self.host}]:{self.port}"
        # Escaped: a domain is any bytes of a peer, and the text may become a line of a log. Not by
        # the codec "unicode_escape": its module is loaded at first use, which takes a descriptor.
        return f"{ascii(self.host)[1:-1]}:{self.port}"


_FAMILIES: Final = ((AddressType.IPV4, AF_INET), (AddressType.IPV6, AF_INET6))
_FAMILY: Final = dict(_FAMILIES)
# The bytes each type takes at least; the length byte of a domain says how many follow.
_SIZES: Final[dict[int, int]] = {
    AddressType.IPV4: 3 + 4,
    AddressType.DOMAIN: 3 + 1,
    AddressType.IPV6: 3 + 16,
}


def encode_address(address: Address) -> bytes:
    """Encode port, type and host.

    Raises:
        ValueError: The port, or a host of this kind, cannot be put on the wire.
    """
    host, port, kind = address
    if not 0 <= port <= MAX_PORT:
        raise ValueError(f"port: expected 0 to {MAX_PORT}, got {port!r}")
    return _PORT_AND_TYPE.pack(port, kind) + _encode_host(host, AddressType(kind))


def decode_address(
    buffer: bytes | bytearray, start: int, origin: int, error: type[ProtocolError]
) -> tuple[Address | None, int]:
    """Decode the address at `start`, which may be incomplete.

    The type is checked as soon as it is at hand, before the bytes that follow it.

    Args:
        buffer: The bytes at hand; the address may not reach past their end.
        start: Position in the buffer at which the address begins.
        origin: The buffer's own offset in the stream; only error messages need it.
        error: The error to raise, since headers and frames each have their own.

    Returns:
        The address and the number of bytes it took; or None and the number of bytes needed to
        decode further, which is always greater than the number at hand.

    Raises:
        ProtocolError: As `error`, if there is no such address type.
    """
    at_hand = len(buffer) - start
    if at_hand < _PORT_AND_TYPE.size:
        return None, _PORT_AND_TYPE.size
    port, kind = _PORT_AND_TYPE.unpack_from(buffer, start)
    size = _SIZES.get(kind)
    if size is None:
        where, expected = "address type", "1 (IPv4), 2 (domain) or 3 (IPv6)"
        raise error(where, origin + start + 2, expected, str(kind))
    host = start + _PORT_AND_TYPE.size
    if kind == AddressType.DOMAIN and at_hand >= size:
        size += buffer[host]
        host += 1
    if at_hand < size:
        return None, size
    return Address(_decode_host(buffer[host : start + size], kind), port, AddressType(kind)), size


def _encode_host(host: str, kind: AddressType) -> bytes:
    """Encode the bytes after the type byte."""
    if kind is not AddressType.DOMAIN:
        try:
            return inet_pton(_FAMILY[kind], host)
        except (OSError, ValueError) as reason:
            raise ValueError(f"host: expected an {kind.name} literal, got {host!r}") from reason
    try:
        domain = host.encode("latin-1")
    except UnicodeEncodeError as reason:
        raise ValueError(f"host: expected a domain in its IDNA form, got {host!r}") from reason
    if len(domain) > MAX_DOMAIN:
        raise ValueError(
            f"host: expected a domain of at most {MAX_DOMAIN} bytes, got {len(domain)}: {host!r}"
        )
    return bytes((len(domain),)) + domain


def _decode_host(host: bytes | bytearray, kind: int) -> str:
    """Decode a host of a known type whose bytes are all at hand."""
    if kind == AddressType.DOMAIN:
        return host.decode("latin-1")
    return inet_ntop(AF_INET if kind == AddressType.IPV4 else AF_INET6, host)
