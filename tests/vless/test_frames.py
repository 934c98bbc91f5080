"""mux.cool frames: the vectors, three ways; truncation at every byte; what is refused and when."""

from __future__ import annotations

import gc
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muxleak_vless.address import Address, AddressType, NetworkType
from muxleak_vless.errors import FrameError, ProtocolError, TruncatedError
from muxleak_vless.frames import (
    DATA,
    MAX_DATA,
    Frame,
    FrameDecoder,
    FrameStatus,
    data_frames,
    encode_frame,
)

VECTORS: dict[str, dict[str, Any]] = json.loads(
    Path(__file__).with_name("vectors.json").read_text(encoding="utf-8")
)
WIRE = {name: bytes.fromhex(vector["hex"]) for name, vector in VECTORS["frames"].items()}
BAD = {
    name: bytes.fromhex(vector["hex"]) + bytes(vector.get("fill", 0))
    for name, vector in VECTORS["bad_frames"].items()
}
HELLO = Frame(1, FrameStatus.KEEP, DATA, data=b"hello")
LOCAL = Address("127.0.0.1", 80, AddressType.IPV4)


def drain(decoder: FrameDecoder) -> list[Frame]:
    """Take every frame that is whole."""
    return list(iter(decoder.next_frame, None))


def take(decoder: FrameDecoder, taken: list[Frame]) -> None:
    """Take every frame that is whole as the server does: runs of Keeps, and single frames."""
    frame: Frame | None = HELLO
    while frame is not None:
        for stream_id, data in decoder.keeps():
            taken.append(Frame.keep(stream_id, data))
        if (frame := decoder.next_frame()) is not None:
            taken.append(frame)


def decode(stream: bytes, size: int = 1 << 30) -> list[Frame]:
    """Read a stream that ends after its last frame and comes in pieces of one size."""
    decoder, frames = FrameDecoder(), []
    for start in range(0, len(stream), size):
        decoder.receive_data(stream[start : start + size])
        frames += drain(decoder)
    decoder.receive_eof()
    return frames


def address(fields: list[Any] | None) -> Address | None:
    """Build a vector's address."""
    return None if fields is None else Address(fields[0], fields[1], AddressType[fields[2]])


def expected_frame(vector: dict[str, Any]) -> Frame:
    """Build what a vector says; a field it does not name has no value."""
    return Frame(
        vector["id"],
        FrameStatus[vector["status"]],
        vector.get("option", 0),
        NetworkType[vector["network"]] if "network" in vector else None,
        address(vector.get("target")),
        bytes.fromhex(vector["global_id"]) if "global_id" in vector else None,
        bytes.fromhex(vector["data"]) if "data" in vector else None,
        bytes.fromhex(vector.get("padding", "")),
    )


FRAMES = {name: expected_frame(vector) for name, vector in VECTORS["frames"].items()}


@pytest.mark.parametrize("name", FRAMES)
def test_frame_vectors_whole(name: str) -> None:
    """A frame that comes at once has every field of its vector, and nothing is left."""
    assert decode(WIRE[name]) == [FRAMES[name]]


@pytest.mark.parametrize("name", FRAMES)
def test_frame_vectors_byte_by_byte(name: str) -> None:
    """Byte by byte the frame is there with its last byte and not before."""
    decoder, seen = FrameDecoder(), []
    for byte in WIRE[name]:
        decoder.receive_data(bytes((byte,)))
        seen.append(decoder.next_frame())

    assert seen[:-1] == [None] * (len(WIRE[name]) - 1)
    assert seen[-1] == FRAMES[name]
    decoder.receive_eof()


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("after", ["M5", "M6", "M2"])
def test_frame_vectors_with_a_tail(name: str, after: str) -> None:
    """What follows a frame in the same piece is the next frame, and a cut one is not given."""
    decoder = FrameDecoder()
    decoder.receive_data(WIRE[after] + WIRE[name] + WIRE[after] + WIRE["M8"][:5])

    assert drain(decoder) == [FRAMES[after], FRAMES[name], FRAMES[after]]
    decoder.receive_data(WIRE["M8"][5:])
    assert drain(decoder) == [FRAMES["M8"]]


@pytest.mark.parametrize("name", FRAMES)
def test_frame_vectors_encode(name: str) -> None:
    """Encoding gives the very bytes of the vector."""
    assert encode_frame(FRAMES[name]) == WIRE[name]


def test_frame_members_are_enums() -> None:
    """Status and network of a decoded frame are the members themselves, on both ways through."""
    kept, opened = decode(WIRE["M5"] + WIRE["M3"])

    assert (kept.status, opened.status, opened.network) == (
        FrameStatus.KEEP,
        FrameStatus.NEW,
        NetworkType.UDP,
    )
    assert type(kept) is type(opened) is Frame
    assert type(kept.status) is type(opened.status) is FrameStatus
    assert type(opened.network) is NetworkType


@pytest.mark.parametrize("name", FRAMES)
def test_frame_error_bit(name: str) -> None:
    """The error bit means something on End alone."""
    assert FRAMES[name].is_error is (name == "M9")


def test_frame_domain_that_is_a_literal() -> None:
    """A domain that spells an IP address stays as sent, and says which address it is."""
    vector = VECTORS["frames"]["M14"]
    (frame,) = decode(WIRE["M14"])

    assert frame.target is not None
    assert frame.target == address(vector["target"])
    assert frame.target.literal == address(vector["literal"])


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("tail", [b"", b"tail" * 200])
@pytest.mark.parametrize("before", [b"", WIRE["M5"], WIRE["M3"] + WIRE["M6"]])
def test_frame_malformed(name: str, tail: bytes, before: bytes) -> None:
    """The frames before a bad one are delivered; then the same error comes again and again."""
    where, offset, expected, found = VECTORS["bad_frames"][name]["error"]
    decoder = FrameDecoder()
    decoder.receive_data(before + BAD[name] + tail)
    frames, errors = [], []
    for _ in range(6):
        try:
            frames.append(decoder.next_frame())
        except FrameError as error:
            errors.append(error)
            decoder.receive_data(WIRE["M5"])
    with pytest.raises(FrameError) as at_end:
        decoder.receive_eof()

    assert frames == decode(before)
    assert len(errors) == 6 - len(frames)
    for each in (*errors, at_end.value):
        assert (each.where, each.offset) == (where, len(before) + offset)
        assert (each.expected, each.found) == (expected, found)


@pytest.mark.parametrize("name", BAD)
def test_frame_malformed_is_refused_early(name: str) -> None:
    """A bad length is refused with its second byte, anything else with the metadata's last."""
    vector = VECTORS["bad_frames"][name]
    decoder = FrameDecoder()
    for byte in BAD[name][: vector["raised_at"] - 1]:
        decoder.receive_data(bytes((byte,)))
        assert decoder.next_frame() is None

    decoder.receive_data(BAD[name][vector["raised_at"] - 1 : vector["raised_at"]])
    with pytest.raises(FrameError) as caught:
        decoder.next_frame()
    assert list(caught.value.args) == vector["error"]


def test_frame_metadata_longest() -> None:
    """512 bytes of metadata pass, both ways; the encoder refuses to write 513."""
    frame = Frame(1, FrameStatus.END, padding=bytes(508))

    assert decode(encode_frame(frame)) == [frame]
    with pytest.raises(ValueError, match="metadata: expected at most 512 bytes, got 513"):
        encode_frame(frame._replace(padding=bytes(509)))


@pytest.mark.parametrize("cut", range(27))
def test_frame_truncated_at_every_byte(cut: int) -> None:
    """The end of the stream is clean before a frame, and inside one says where it fell."""
    decoder = FrameDecoder()
    decoder.receive_data(WIRE["M5"] + WIRE["M2"][:cut])

    assert drain(decoder) == [HELLO]
    if cut == 0:
        decoder.receive_eof()
        return
    with pytest.raises(TruncatedError) as caught:
        decoder.receive_eof()
    if cut < 2:
        where, start, size = "frame metadata length", 0, 2
    elif cut < 22:
        where, start, size = "frame metadata", 2, 20
    elif cut < 24:
        where, start, size = "frame data length", 22, 2
    else:
        where, start, size = "frame data", 24, 3
    assert caught.value.where == where
    assert caught.value.offset == len(WIRE["M5"]) + start
    assert caught.value.expected == f"{size} bytes"
    assert caught.value.found == f"end of stream after {cut - start}"


def test_frame_truncated_after_pieces() -> None:
    """Bytes that wait in pieces count as well, and the error comes again."""
    decoder = FrameDecoder()
    for byte in WIRE["M5"] + WIRE["M2"][:26]:
        decoder.receive_data(bytes((byte,)))
        decoder.next_frame()

    for _ in range(2):
        with pytest.raises(TruncatedError) as caught:
            decoder.receive_eof()
        assert caught.value.args == ("frame data", 37, "3 bytes", "end of stream after 2")


def test_frame_eof_too_early() -> None:
    """To announce the end while frames are left would lose them: a mistake of the caller."""
    decoder = FrameDecoder()
    decoder.receive_data(WIRE["M5"])

    with pytest.raises(RuntimeError, match="frames are left"):
        decoder.receive_eof()


def test_frame_clean_end() -> None:
    """No byte at all is a clean end."""
    decoder = FrameDecoder()
    decoder.receive_data(b"")
    decoder.receive_eof()

    assert decoder.next_frame() is None


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (Frame.new(1, NetworkType.TCP, LOCAL), FRAMES["M1"]),
        (
            Frame.new(0, NetworkType.UDP, Address.of("8.8.8.8", 53), b"x", bytes(range(1, 9))),
            FRAMES["M4"],
        ),
        (Frame.keep(1, b"hello"), FRAMES["M5"]),
        (Frame.keep(1, b""), FRAMES["M12"]),
        (Frame.keep(3, b"hi", Address.of("8.8.4.4", 53)), FRAMES["M7"]),
        (Frame.end(1), FRAMES["M8"]),
        (Frame.end(1, error=True), FRAMES["M9"]),
    ],
)
def test_frame_constructors(frame: Frame, expected: Frame) -> None:
    """The short ways to make a frame set the option bits that belong to it."""
    assert frame == expected


TARGET = {"target": LOCAL, "network": NetworkType.UDP}


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (Frame(-1, FrameStatus.END), "16-bit id"),
        (Frame(65_536, FrameStatus.END), "16-bit id"),
        (Frame(1, FrameStatus.END, 256), "8-bit option"),
        (Frame(1, FrameStatus.KEEP, data=b"x"), "data exactly with bit 1, got 0x00 and data"),
        (Frame(1, FrameStatus.KEEP, DATA), "data exactly with bit 1, got 0x01 and no data"),
        (Frame.keep(1, b"x" * 65_536), "at most 65535 bytes .data_frames splits it., got 65536"),
        (Frame(1, FrameStatus.NEW), "what the status allows, got <FrameStatus.NEW"),
        (Frame(1, FrameStatus.NEW, target=LOCAL), "what the status allows"),
        (Frame(1, FrameStatus.NEW, network=NetworkType.TCP), "what the status allows"),
        (
            Frame(1, FrameStatus.END, network=NetworkType.TCP, target=LOCAL),
            "what the status allows",
        ),
        (
            Frame(1, FrameStatus.KEEP, network=NetworkType.TCP, target=LOCAL),
            "what the status allows",
        ),
        (Frame(1, FrameStatus.KEEP, padding=b"\x02"), "what the status allows"),
        (Frame(1, FrameStatus.KEEP, global_id=bytes(8)), "what the status allows"),
        (Frame.new(1, NetworkType.UDP, LOCAL, b"", bytes(7)), "what the status allows"),
        (Frame.new(1, NetworkType.UDP, LOCAL, None, bytes(8)), "what the status allows"),
        (Frame.new(1, NetworkType.TCP, LOCAL, b"", bytes(8)), "what the status allows"),
        (Frame.new(1, NetworkType.UDP, LOCAL, b"")._replace(padding=bytes(8)), "what the status"),
        (
            Frame.new(1, NetworkType.TCP, LOCAL._replace(port=-1)),
            "port: expected 0 to 65535, got -1",
        ),
    ],
)
def test_frame_not_encodable(frame: Frame, message: str) -> None:
    """What the decoder would not read back as it is, is the caller's mistake."""
    with pytest.raises(ValueError, match=message) as caught:
        encode_frame(frame)

    assert not isinstance(caught.value, ProtocolError)


@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        (0, []),
        (1, [1]),
        (65_535, [65_535]),
        (65_536, [65_535, 1]),
        (1 << 20, [65_535] * 16 + [16]),
    ],
)
def test_data_frames_split(size: int, sizes: list[int]) -> None:
    """Data of any size goes out in frames of at most 65535 bytes, and nothing sends nothing."""
    data = random.Random(size).randbytes(size)
    pieces = data_frames(7, data)
    frames = decode(b"".join(pieces))

    assert [len(frame.data or b"") for frame in frames] == sizes
    assert len(pieces) == len(sizes)
    assert b"".join(frame.data or b"" for frame in frames) == data
    assert all(frame == Frame.keep(7, frame.data or b"") for frame in frames)


def test_data_frames_packet() -> None:
    """Data with a target is one packet, which is never split."""
    source = Address.of("8.8.8.8", 53)

    assert data_frames(3, b"hi", source) == [WIRE["server UDP Keep"]]
    assert data_frames(3, b"", source) == []
    with pytest.raises(ValueError, match="at most 65535 bytes"):
        data_frames(3, b"x" * (MAX_DATA + 1), source)


@pytest.mark.parametrize("stream_id", [-1, 65_536])
def test_data_frames_bad_id(stream_id: int) -> None:
    """An id outside 16 bits is the caller's mistake."""
    with pytest.raises(ValueError, match=f"stream id: expected 0 to 65535, got {stream_id}"):
        data_frames(stream_id, b"x")


def test_frame_largest_byte_by_byte() -> None:
    """The longest data arrives whole in single bytes."""
    frame = Frame.new(1, NetworkType.TCP, LOCAL, bytes(range(256)) * 255 + bytes(255))
    stream = encode_frame(frame)

    assert frame.data is not None
    assert len(frame.data) == MAX_DATA
    assert decode(stream, 1) == [frame]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_frame_pieces_are_joined_seldom(size: int) -> None:
    """A long frame's pieces are joined once per field, after the first one: time is linear."""
    stream = encode_frame(Frame.new(1, NetworkType.TCP, LOCAL, bytes(MAX_DATA)))
    decoder = FrameDecoder()
    buffers = [decoder._buffer]
    for start in range(0, len(stream), size):
        decoder.receive_data(stream[start : start + size])
        decoder.next_frame()
        if decoder._buffer is not buffers[-1]:
            buffers.append(decoder._buffer)

    assert len(buffers) <= 6
    assert sum(map(len, buffers)) < 2 * len(stream)


def test_frame_backlog_is_joined_seldom() -> None:
    """What waits to be taken is not copied again by each piece that comes behind it."""
    decoder = FrameDecoder()
    decoder.receive_data(WIRE["M5"] * 100)
    copied = 0
    for _ in range(500):
        before = decoder._buffer
        decoder.receive_data(WIRE["M5"] * 2)
        assert decoder.next_frame() == HELLO
        copied += 0 if decoder._buffer is before else len(decoder._buffer)

    assert copied < 2 * (100 + 1000) * len(WIRE["M5"])


def test_frame_backlog_stays_in_order() -> None:
    """Frames may be taken later than they come, one at a time, while more arrives."""
    names = [name for name in FRAMES for _ in range(3)]
    decoder, taken = FrameDecoder(), []
    for name in names:
        decoder.receive_data(WIRE[name][:3])
        decoder.receive_data(WIRE[name][3:] + WIRE["M6"])
        taken.append(decoder.next_frame())
    taken += drain(decoder)

    assert taken == [frame for name in names for frame in (FRAMES[name], FRAMES["M6"])]


def test_frame_failure_leaves_no_cycle() -> None:
    """A failed decoder is freed by counting references alone."""
    gc.collect()
    gc.disable()
    try:
        decoder = FrameDecoder()
        decoder.receive_data(BAD["E8"])
        for _ in range(2):
            with pytest.raises(FrameError):
                decoder.next_frame()
        del decoder
        found = [thing for thing in gc.get_objects() if isinstance(thing, FrameDecoder)]
    finally:
        gc.enable()

    assert found == []


addresses = st.one_of(
    st.builds(
        lambda host, port: Address(host.decode("latin-1"), port, AddressType.DOMAIN),
        st.binary(max_size=255),
        st.integers(0, 65_535),
    ),
    st.builds(
        lambda ip, port: Address.of(str(ip), port), st.ip_addresses(), st.integers(0, 65_535)
    ),
)
ids = st.integers(0, 65_535)
payloads = st.one_of(st.none(), st.binary(max_size=40))


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    """Any frame the encoder takes."""
    status = draw(st.sampled_from(FrameStatus))
    data = draw(payloads)
    option = draw(st.integers(0, 127)) << 1 | (data is not None)
    frame = Frame(draw(ids), status, option, data=data, padding=draw(st.binary(max_size=7)))
    if status is FrameStatus.NEW:
        network = draw(st.sampled_from(NetworkType))
        frame = frame._replace(network=network, target=draw(addresses))
        if network is NetworkType.UDP and data is not None and draw(st.booleans()):
            frame = frame._replace(global_id=draw(st.binary(min_size=8, max_size=8)))
    elif status is FrameStatus.KEEP and draw(st.booleans()):
        frame = frame._replace(network=NetworkType.UDP, target=draw(addresses))
    elif status is FrameStatus.KEEP and frame.padding[:1] == b"\x02":
        frame = frame._replace(padding=b"")
    return frame


@settings(deadline=None)
@given(st.lists(frames(), max_size=5), st.lists(st.integers(0, 2000), max_size=8))
def test_frame_round_trip(sent: list[Frame], cuts: list[int]) -> None:
    """Any frames, cut anywhere, come back as they were."""
    stream = b"".join(map(encode_frame, sent))
    ends = sorted(min(cut, len(stream)) for cut in cuts)
    decoder, received = FrameDecoder(), []
    for start, stop in zip([0, *ends], [*ends, len(stream)], strict=True):
        decoder.receive_data(stream[start:stop])
        received += drain(decoder)
    decoder.receive_eof()

    assert received == sent


def outcome(
    stream: bytes, size: int, *, runs: bool = False
) -> tuple[list[Frame], tuple[object, ...]]:
    """Feed pieces of one size; give the frames, and how it ended."""
    decoder = FrameDecoder()
    taken: list[Frame] = []
    try:
        for start in range(0, len(stream), size):
            decoder.receive_data(stream[start : start + size])
            if runs:
                take(decoder, taken)
            while (frame := decoder.next_frame()) is not None:
                taken.append(frame)
        decoder.receive_eof()
    except ProtocolError as error:
        return taken, (type(error), *error.args)
    return taken, ()


@settings(deadline=None)
@given(
    st.lists(
        st.one_of(st.sampled_from([*WIRE.values(), *BAD.values()]), st.binary(max_size=30)),
        max_size=5,
    ),
    st.integers(1, 100),
)
def test_frame_arbitrary_bytes(parts: list[bytes], size: int) -> None:
    """Arbitrary bytes raise nothing but a protocol error, the same however they are cut."""
    stream = b"".join(parts)
    taken, end = outcome(stream, size)

    assert (taken, end) == outcome(stream, 1)
    assert (taken, end) == outcome(stream, size, runs=True) == outcome(stream, 1, runs=True)
    assert stream.startswith(b"".join(map(encode_frame, taken)))
    assert bool(end) is (b"".join(map(encode_frame, taken)) != stream)


KEEP = encode_frame(HELLO)


@pytest.mark.parametrize(
    ("stream", "left"),
    [
        (KEEP * 3, b""),
        (KEEP * 2 + KEEP[:-1], KEEP[:-1]),
        (KEEP + KEEP[:7], KEEP[:7]),
        (KEEP + WIRE["server UDP Keep"] + KEEP, WIRE["server UDP Keep"] + KEEP),
        (KEEP + bytes.fromhex("0005000102010000"), bytes.fromhex("0005000102010000")),
        (KEEP + bytes.fromhex("0004000102030000"), bytes.fromhex("0004000102030000")),
        (KEEP + bytes.fromhex("0004000102000000"), bytes.fromhex("0004000102000000")),
        (KEEP + encode_frame(Frame.end(1)), encode_frame(Frame.end(1))),
        (encode_frame(Frame.keep(7, b"")), b""),
        (b"", b""),
    ],
    ids=[
        "whole",
        "part",
        "head",
        "udp",
        "padding",
        "option",
        "dataless",
        "end",
        "empty",
        "nothing",
    ],
)
def test_keeps_stop_at_the_first_other_frame(stream: bytes, left: bytes) -> None:
    """Each Keep with data alone is taken from the piece, and nothing behind the first other."""
    decoder = FrameDecoder()
    decoder.receive_data(stream)
    taken = [Frame.keep(*each) for each in decoder.keeps()]

    assert b"".join(map(encode_frame, taken)) + left == stream


def test_keeps_are_taken_before_they_are_yielded() -> None:
    """A session that ends at a Keep leaves the decoder behind it."""
    decoder = FrameDecoder()
    decoder.receive_data(KEEP * 2)
    next(iter(decoder.keeps()))

    assert drain(decoder) == [HELLO]


@pytest.mark.slow
def test_frame_a_million_random_strings() -> None:
    """Random and mutated frames raise protocol errors only, and reach every one of them."""
    rng = random.Random(2421)
    seeds = [*WIRE.values(), *(wire[:40] for wire in BAD.values())]
    met: dict[str, int] = {}
    for _ in range(1_000_000):
        stream = mutate(rng, rng.choice(seeds) + rng.choice(seeds))
        size = rng.choice((1 << 30, rng.randrange(1, 40)))
        taken, end = outcome(stream, size, runs=rng.random() < 0.5)

        assert stream.startswith(b"".join(map(encode_frame, taken)))
        kind, where, offset = end[:3] if end else (None, "end", len(stream))
        assert isinstance(offset, int)
        assert 0 <= offset <= len(stream)
        what = f"{getattr(kind, '__name__', 'clean')} {where}"
        met[what] = met.get(what, 0) + 1

    refused = ("frame metadata length", "frame status", "network", "address type", "target")
    cut = ("frame metadata length", "frame metadata", "frame data length", "frame data")
    expected = {f"FrameError {where}" for where in refused}
    assert expected | {f"TruncatedError {where}" for where in cut} | {"clean end"} == set(met)
    assert met["clean end"] > 10_000


def mutate(rng: random.Random, seed: bytes) -> bytes:
    """Make a string of pure chance, or a valid one with some bytes changed, cut or inserted."""
    if rng.random() < 0.2:
        return rng.randbytes(rng.randrange(64))
    stream = bytearray(seed)
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(stream))
        stream[at : at + rng.randrange(2)] = rng.randbytes(rng.randrange(3))
        stream = stream or bytearray(1)
    return bytes(stream if rng.random() < 0.5 else stream[: rng.randrange(len(stream)) + 1])
