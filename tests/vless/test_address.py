"""The address codec: layout, any domain byte, what is refused."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muxleak_vless.address import Address, AddressType, NetworkType, decode_address, encode_address
from muxleak_vless.errors import FrameError, HeaderError, ProtocolError, TruncatedError, VlessError

IPV4, DOMAIN, IPV6 = AddressType.IPV4, AddressType.DOMAIN, AddressType.IPV6

WIRE = [
    ("0050 01 7f000001", Address("127.0.0.1", 80, IPV4)),
    ("01bb 02 0b 6578616d706c652e636f6d", Address("example.com", 443, DOMAIN)),
    ("0035 03 20010db8000000000000000000000001", Address("2001:db8::1", 53, IPV6)),
    ("0000 02 00", Address("", 0, DOMAIN)),
    ("ffff 02 03 00ff2e", Address("\x00\xff.", 65_535, DOMAIN)),
    ("0001 03 00000000000000000000ffff01020304", Address("::ffff:1.2.3.4", 1, IPV6)),
]


@pytest.mark.parametrize(("text", "address"), WIRE)
def test_address_layout(text: str, address: Address) -> None:
    """Port comes first, then the type, then the host; both ways."""
    wire = bytes.fromhex(text)

    assert encode_address(address) == wire
    assert decode_address(b"##" + wire + b"tail", 2, 0, FrameError) == (address, len(wire))


@pytest.mark.parametrize(("text", "address"), WIRE)
def test_address_incomplete(text: str, address: Address) -> None:
    """Every prefix asks for more than it has, and never for more than there is."""
    wire = bytes.fromhex(text)

    needs = [decode_address(wire[:cut], 0, 0, FrameError) for cut in range(len(wire))]

    assert [None] * len(wire) == [found for found, _ in needs]
    assert all(cut < need <= len(wire) for cut, (_, need) in enumerate(needs)), address


def test_address_type_numbers() -> None:
    """Domain is 2 and IPv6 is 3, unlike SOCKS; TCP is 1 and UDP is 2."""
    assert (int(IPV4), int(DOMAIN), int(IPV6)) == (1, 2, 3)
    assert (int(NetworkType.TCP), int(NetworkType.UDP)) == (1, 2)


@pytest.mark.parametrize("kind", [0, 4, 255])
def test_address_bad_type(kind: int) -> None:
    """An unknown type is refused with its place in the stream, before a byte of the host."""
    with pytest.raises(HeaderError) as caught:
        decode_address(bytes((9, 0, 53, kind)), 1, 100, HeaderError)

    assert caught.value.where == "address type"
    assert caught.value.offset == 103
    assert caught.value.expected == "1 (IPv4), 2 (domain) or 3 (IPv6)"
    assert caught.value.found == str(kind)


@pytest.mark.parametrize(
    ("host", "expected", "text"),
    [
        ("1.2.3.4", Address("1.2.3.4", 443, IPV4), "1.2.3.4:443"),
        ("2001:DB8:0::1", Address("2001:db8::1", 443, IPV6), "[2001:db8::1]:443"),
        ("example.com", Address("example.com", 443, DOMAIN), "example.com:443"),
        ("1.2.3", Address("1.2.3", 443, DOMAIN), "1.2.3:443"),
        ("1.2.3.4\x00", Address("1.2.3.4\x00", 443, DOMAIN), r"1.2.3.4\x00:443"),
        ("\udc80", Address("\udc80", 443, DOMAIN), r"\udc80:443"),
        ("a\nb", Address("a\nb", 443, DOMAIN), r"a\nb:443"),
        ("\xe9\\", Address("\xe9\\", 443, DOMAIN), r"\xe9\\:443"),
        ("", Address("", 443, DOMAIN), ":443"),
    ],
)
def test_address_of_infers_kind(host: str, expected: Address, text: str) -> None:
    """The text alone tells the kind; the address prints as people write it, on one line."""
    address = Address.of(host, 443)

    assert address == expected
    assert str(address) == text


def test_address_literal() -> None:
    """A domain that spells an IP address becomes one; anything else stays."""
    assert Address("1.2.3.4", 80, DOMAIN).literal == Address("1.2.3.4", 80, IPV4)
    assert Address("::1", 80, DOMAIN).literal == Address("::1", 80, IPV6)
    assert Address("example.com", 80, DOMAIN).literal == Address("example.com", 80, DOMAIN)
    assert Address("1.2.3.4", 80, IPV4).literal == Address("1.2.3.4", 80, IPV4)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (Address("a", -1, DOMAIN), "port: expected 0 to 65535, got -1"),
        (Address("a", 65_536, DOMAIN), "port: expected 0 to 65535, got 65536"),
        (Address("a" * 256, 1, DOMAIN), "host: expected a domain of at most 255 bytes, got 256"),
        (Address("\u65e5.jp", 1, DOMAIN), "host: expected a domain in its IDNA form, got '\u65e5"),
        (Address("a.b", 1, IPV4), "host: expected an IPV4 literal, got 'a.b'"),
        (Address("1.2.3.4", 1, IPV6), "host: expected an IPV6 literal, got '1.2.3.4'"),
        (Address("1.2.3.4\x00", 1, IPV4), "host: expected an IPV4 literal, got '1.2.3.4"),
    ],
)
def test_address_not_encodable(address: Address, message: str) -> None:
    """What cannot be put on the wire is the caller's mistake and says which field it is."""
    with pytest.raises(ValueError, match=r"^(port|host): expected") as caught:
        encode_address(address)

    assert str(caught.value).startswith(message)
    assert not isinstance(caught.value, ProtocolError)


def test_address_longest_domain() -> None:
    """255 bytes are the most a length byte can announce."""
    address = Address("a" * 255, 1, DOMAIN)

    assert decode_address(encode_address(address), 0, 0, FrameError) == (address, 259)


@settings(deadline=None)
@given(st.binary(max_size=255), st.integers(0, 65_535))
def test_address_any_domain_round_trip(domain: bytes, port: int) -> None:
    """Every domain byte survives decoding and encoding, and is text that can be printed."""
    wire = port.to_bytes(2, "big") + bytes((2, len(domain))) + domain

    address, size = decode_address(wire, 0, 0, FrameError)

    assert address is not None
    assert size == len(wire)
    assert encode_address(address) == wire
    assert str(address).encode()


@settings(deadline=None)
@given(st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16)))
def test_address_any_ip_round_trip(host: bytes) -> None:
    """Every IP address survives, and its text is read back as the same address."""
    wire = b"\x00\x35" + (b"\x01" if len(host) == 4 else b"\x03") + host

    address, _ = decode_address(wire, 0, 0, FrameError)

    assert address is not None
    assert encode_address(address) == wire
    assert Address.of(address.host, address.port) == address


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_address_arbitrary_bytes(data: bytes) -> None:
    """Arbitrary bytes give an address, a need or the error asked for; nothing else."""
    if len(data) >= 3 and data[2] not in (1, 2, 3):
        with pytest.raises(FrameError):
            decode_address(data, 0, 0, FrameError)
        return
    address, size = decode_address(data, 0, 0, FrameError)

    assert (size <= len(data)) is (address is not None)


def test_errors_survive_copies() -> None:
    """A protocol error keeps its type, fields and message through pickle and copy."""
    error = FrameError("frame metadata length", 35, "4 to 512", "513")

    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301 - our bytes
        assert type(twin) is FrameError
        assert vars(twin) == vars(error)
        assert str(twin) == "frame metadata length at byte 35: expected 4 to 512, got 513"


def test_errors_family() -> None:
    """One except clause catches all; a truncated stream is told apart from a malformed one."""
    assert issubclass(ProtocolError, VlessError)
    assert issubclass(ProtocolError, ValueError)
    assert issubclass(TruncatedError, ProtocolError)
    assert not issubclass(TruncatedError, FrameError)
    assert str(TruncatedError.of_field("frame data", 9, 5, 2)) == (
        "frame data at byte 9: expected 5 bytes, got end of stream after 2"
    )
