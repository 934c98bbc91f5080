"""Length-framed UDP packets."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muxleak_vless.errors import TruncatedError
from muxleak_vless.packets import PacketDecoder, encode_packet


def drain(decoder: PacketDecoder) -> list[bytes]:
    """Take every packet that is whole."""
    return list(iter(decoder.next_packet, None))


def test_packet_layout() -> None:
    """A packet is its length in two bytes, then its payload; an empty one is a packet too."""
    assert encode_packet(b"hi") == bytes.fromhex("0002 6869")
    assert encode_packet(b"") == bytes.fromhex("0000")


def test_packet_longest() -> None:
    """65535 bytes pass; one more is refused, as a packet is never split."""
    decoder = PacketDecoder()
    decoder.receive_data(encode_packet(b"x" * 65_535))

    assert drain(decoder) == [b"x" * 65_535]
    with pytest.raises(ValueError, match="packet: expected at most 65535 bytes, got 65536"):
        encode_packet(b"x" * 65_536)


@pytest.mark.parametrize("step", [1, 2, 3, 1000])
def test_packet_segmentation(step: int) -> None:
    """Packets come out the same however the stream is cut, and none before it is whole."""
    stream = bytes.fromhex("0002 6869 0000 0001 78")
    decoder = PacketDecoder()
    seen: list[tuple[int, bytes]] = []
    for stop in range(step, len(stream) + step, step):
        decoder.receive_data(stream[stop - step : stop])
        seen += [(stop, packet) for packet in drain(decoder)]
    decoder.receive_eof()

    assert [packet for _, packet in seen] == [b"hi", b"", b"x"]
    assert [stop for stop, _ in seen] == [-(-end // step) * step for end in (4, 6, 9)]


@pytest.mark.parametrize(
    ("cut", "where", "offset", "expected", "found"),
    [
        (6, "packet length", 5, "2 bytes", "end of stream after 1"),
        (7, "packet", 7, "3 bytes", "end of stream after 0"),
        (9, "packet", 7, "3 bytes", "end of stream after 2"),
    ],
)
def test_packet_truncated(cut: int, where: str, offset: int, expected: str, found: str) -> None:
    """A stream that ends inside a packet says in which field, counted from its begin."""
    decoder = PacketDecoder()
    decoder.receive_data(bytes.fromhex("0001 68 0000 0003 616263")[:cut])

    assert drain(decoder) == [b"h", b""]
    with pytest.raises(TruncatedError) as caught:
        decoder.receive_eof()
    assert caught.value.args == (where, offset, expected, found)


def test_packet_clean_end() -> None:
    """The end before the first byte and the end between two packets are clean."""
    decoder = PacketDecoder()
    decoder.receive_eof()
    decoder.receive_data(encode_packet(b"hi"))

    assert drain(decoder) == [b"hi"]
    decoder.receive_eof()


@pytest.mark.parametrize("payload", [b"", b"hi"])
def test_packet_eof_too_early(payload: bytes) -> None:
    """To announce the end while packets are left would lose them: a mistake of the caller."""
    decoder = PacketDecoder()
    decoder.receive_data(encode_packet(payload))

    with pytest.raises(RuntimeError, match="packets are left"):
        decoder.receive_eof()
    assert drain(decoder) == [payload]


@settings(deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=8), st.lists(st.integers(0, 2500), max_size=8))
def test_packet_round_trip(payloads: list[bytes], cuts: list[int]) -> None:
    """Any packets, cut anywhere, come back as they were."""
    stream = b"".join(map(encode_packet, payloads))
    ends = sorted(min(cut, len(stream)) for cut in cuts)
    decoder = PacketDecoder()
    seen = []
    for start, stop in zip([0, *ends], [*ends, len(stream)], strict=True):
        decoder.receive_data(stream[start:stop])
        seen += drain(decoder)
    decoder.receive_eof()

    assert seen == payloads


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_packet_arbitrary_bytes(data: bytes) -> None:
    """Any bytes are packets and perhaps a beginning of one: what was taken encodes to a prefix."""
    decoder = PacketDecoder()
    decoder.receive_data(data)
    whole = b"".join(map(encode_packet, drain(decoder)))

    assert data.startswith(whole)
    if whole == data:
        decoder.receive_eof()
    else:
        with pytest.raises(TruncatedError):
            decoder.receive_eof()
