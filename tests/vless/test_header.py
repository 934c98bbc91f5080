"""Request and response headers: the vectors, three ways; the addons; what is refused and when."""

from __future__ import annotations

import gc
import json
import random
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muxleak_vless.address import Address, AddressType
from muxleak_vless.errors import HeaderError, ProtocolError, TruncatedError
from muxleak_vless.header import (
    MAX_REQUEST,
    Addons,
    Command,
    Request,
    RequestDecoder,
    Response,
    ResponseDecoder,
    encode_request,
    encode_response,
)

VECTORS: dict[str, dict[str, Any]] = json.loads(
    Path(__file__).with_name("vectors.json").read_text(encoding="utf-8")
)
USER = UUID("00112233-4455-6677-8899-aabbccddeeff")
REQUESTS = {name: bytes.fromhex(vector["hex"]) for name, vector in VECTORS["requests"].items()}
MUX = REQUESTS["H4"]

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
addons = st.builds(Addons, st.text(max_size=30), st.binary(max_size=130))
requests = st.one_of(
    st.builds(Request, st.uuids(), st.sampled_from([3, 4]), st.none(), addons, st.just(0)),
    st.builds(
        Request, st.uuids(), st.sampled_from([0, 1, 2, 5, 255]), addresses, addons, st.just(0)
    ),
)


def decode(stream: bytes) -> Request | None:
    """Read a request from bytes that come at once."""
    return RequestDecoder().receive_data(stream)


def expected_request(vector: dict[str, Any]) -> Request:
    """Build what a vector says."""
    command, target = vector["command"], vector["target"]
    if target is not None:
        host, port, kind = target
        target = Address(host, port, AddressType[kind])
    if isinstance(command, str):
        command = Command[command]
    return Request(USER, command, target, Addons(vector["flow"], bytes.fromhex(vector["seed"])))


@pytest.mark.parametrize("name", VECTORS["requests"])
@pytest.mark.parametrize("tail", [b"", b"\x00", b"tail" * 100])
def test_request_vectors_whole(name: str, tail: bytes) -> None:
    """A request that comes at once is read to its last byte, and what follows it is untouched."""
    vector = VECTORS["requests"][name]
    tail = bytes.fromhex(vector.get("then", "")) + tail
    decoder = RequestDecoder()

    assert decoder.receive_data(REQUESTS[name] + tail) == expected_request(vector)
    assert decoder.trailing == tail
    assert len(REQUESTS[name]) == vector["size"]
    decoder.receive_eof()


@pytest.mark.parametrize("name", VECTORS["requests"])
def test_request_vectors_byte_by_byte(name: str) -> None:
    """Byte by byte the request is there with its last byte and not before."""
    wire, decoder = REQUESTS[name], RequestDecoder()

    found = [decoder.receive_data(wire[at : at + 1]) for at in range(len(wire))]

    assert found[:-1] == [None] * (len(wire) - 1)
    assert found[-1] == expected_request(VECTORS["requests"][name])
    assert decoder.trailing == b""


@pytest.mark.parametrize("name", VECTORS["requests"])
def test_request_vectors_encode(name: str) -> None:
    """Encoding gives the very bytes of the vector."""
    assert encode_request(expected_request(VECTORS["requests"][name])) == REQUESTS[name]


@pytest.mark.parametrize("name", VECTORS["bad_requests"])
@pytest.mark.parametrize("tail", [b"", b"tail" * 200])
def test_request_malformed_whole(name: str, tail: bytes) -> None:
    """A malformed request is refused with its place, again and again."""
    vector = VECTORS["bad_requests"][name]
    decoder = RequestDecoder()
    with pytest.raises(HeaderError) as caught:
        decoder.receive_data(bytes.fromhex(vector["hex"]) + tail)
    with pytest.raises(HeaderError) as again:
        decoder.receive_data(MUX)
    with pytest.raises(HeaderError) as at_end:
        decoder.receive_eof()

    assert list(caught.value.args) == vector["error"]
    assert again.value.args == at_end.value.args == caught.value.args
    assert decoder.trailing == b""


@pytest.mark.parametrize("name", VECTORS["bad_requests"])
def test_request_malformed_is_refused_early(name: str) -> None:
    """The byte that cannot be right is the last one needed to refuse the request."""
    vector = VECTORS["bad_requests"][name]
    wire = bytes.fromhex(vector["hex"])
    decoder = RequestDecoder()
    for at in range(vector["raised_at"] - 1):
        assert decoder.receive_data(wire[at : at + 1]) is None

    with pytest.raises(HeaderError) as caught:
        decoder.receive_data(wire[vector["raised_at"] - 1 : vector["raised_at"]])
    assert list(caught.value.args) == vector["error"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("", Addons("", b"")),
        ("0a00", Addons("", b"")),
        ("1201ff 0a0161", Addons("a", b"\xff")),
        ("0a0161 0a026263", Addons("bc", b"")),
        ("18ff01 0a0161", Addons("a", b"")),
        ("1d00000000 190000000000000000 2203616263 0a0161", Addons("a", b"")),
        ("0801 0a0161 1001", Addons("a", b"")),
        ("0a8100 61", Addons("a", b"")),
        ("0d61616161 116262626262626262", Addons("", b"")),
    ],
)
def test_request_addons_protobuf(fields: str, expected: Addons) -> None:
    """The last of a field counts; unknown fields and known numbers of another type are skipped."""
    message = bytes.fromhex(fields)
    request = decode(MUX[:17] + bytes((len(message),)) + message + b"\x03")

    assert request is not None
    assert request.addons == expected


@pytest.mark.parametrize(
    ("size", "head"), [(0, ""), (1, "1201"), (127, "127f"), (128, "128001"), (252, "12fc01")]
)
def test_request_addons_lengths(size: int, head: str) -> None:
    """A length of 128 and more takes two bytes; an empty field takes none."""
    seed = b"x" * size
    message = bytes.fromhex(head) + seed
    wire = encode_request(Request(USER, Command.MUX, None, Addons("", seed)))

    assert wire == MUX[:17] + bytes((len(message),)) + message + b"\x03"
    assert decode(wire) == Request(USER, Command.MUX, None, Addons("", seed))


def test_request_longest() -> None:
    """The longest header has 533 bytes."""
    target = Address("a" * 255, 1, AddressType.DOMAIN)
    request = Request(USER, Command.TCP, target, Addons("", b"x" * 252))
    wire = encode_request(request)

    assert len(wire) == MAX_REQUEST == 533
    assert decode(wire) == request
    assert decode(wire[:-1]) is None


def test_request_unknown_command_is_a_number() -> None:
    """A known command comes as `Command`; an unknown one is left to the service to refuse."""
    known, unknown = decode(MUX), decode(REQUESTS["H7"])

    assert known is not None
    assert known.command is Command.MUX
    assert unknown is not None
    assert type(unknown.command) is int


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(USER, Command.TCP), "target: expected one unless"),
        (Request(USER, Command.MUX, Address.of("::1", 1)), "target: expected one unless"),
        (Request(USER, 256, Address.of("::1", 1)), "command: expected 0 to 255, got 256"),
        (Request(USER, Command.MUX, version=-1), "version: expected 0 to 255, got -1"),
        (Request(USER, 3, None, Addons("", b"x" * 253)), "addons length: expected 0 to 255, got"),
        (Request(USER, 1, Address.of("a", 65_536)), "port: expected 0 to 65535, got 65536"),
    ],
)
def test_request_not_encodable(request_: Request, message: str) -> None:
    """What does not fit the header is the caller's mistake and says which field it is."""
    with pytest.raises(ValueError, match=message) as caught:
        encode_request(request_)

    assert not isinstance(caught.value, ProtocolError)


@pytest.mark.parametrize(
    ("cut", "where", "offset", "expected"),
    [
        (1, "user id", 1, "16 bytes"),
        (16, "user id", 1, "16 bytes"),
        (17, "addons length", 17, "1 bytes"),
        (18, "addons", 18, "18 bytes"),
        (35, "addons", 18, "18 bytes"),
        (36, "command", 36, "1 bytes"),
        (37, "target", 37, "3 bytes"),
        (40, "target", 37, "4 bytes"),
        (41, "target", 37, "15 bytes"),
        (51, "target", 37, "15 bytes"),
    ],
)
def test_request_truncated(cut: int, where: str, offset: int, expected: str) -> None:
    """A stream that ends inside the header says in which field and how far it came."""
    decoder = RequestDecoder()

    assert decoder.receive_data(REQUESTS["H2"][:cut]) is None
    with pytest.raises(TruncatedError) as caught:
        decoder.receive_eof()
    assert caught.value.args == (where, offset, expected, f"end of stream after {cut - offset}")


@pytest.mark.parametrize("name", VECTORS["requests"])
def test_request_every_prefix_is_truncated(name: str) -> None:
    """Of all places to end inside a header only the one before the first byte is clean."""
    RequestDecoder().receive_eof()
    for cut in range(1, len(REQUESTS[name])):
        decoder = RequestDecoder()

        assert decoder.receive_data(REQUESTS[name][:cut]) is None
        with pytest.raises(TruncatedError):
            decoder.receive_eof()


def test_request_feeding_on_is_refused() -> None:
    """After the header the decoder takes no byte, lest payload be lost in it."""
    decoder = RequestDecoder()
    decoder.receive_data(MUX)

    with pytest.raises(RuntimeError, match="the header is whole"):
        decoder.receive_data(b"payload")


def test_request_nothing_fed() -> None:
    """Empty input changes nothing."""
    decoder = RequestDecoder()

    assert decoder.receive_data(b"") is None
    decoder.receive_eof()
    assert decoder.receive_data(MUX) == Request(USER, Command.MUX)


def test_request_failure_leaves_no_cycle() -> None:
    """A failed decoder is freed by counting references alone."""
    gc.collect()
    gc.disable()
    try:
        decoder = RequestDecoder()
        for _ in range(2):
            with pytest.raises(HeaderError):
                decoder.receive_data(b"\x01")
        del decoder
        found = [thing for thing in gc.get_objects() if isinstance(thing, RequestDecoder)]
    finally:
        gc.enable()

    assert found == []


@pytest.mark.parametrize("name", VECTORS["responses"])
def test_response_vectors(name: str) -> None:
    """A response is read whole, byte by byte and with what follows; and written the same."""
    vector = VECTORS["responses"][name]
    wire, tail = bytes.fromhex(vector["hex"]), bytes.fromhex(vector["then"])
    expected = Response(0, bytes.fromhex(vector["addons"]))
    whole, slow = ResponseDecoder(), ResponseDecoder()

    assert whole.receive_data(wire + tail) == expected
    assert whole.trailing == tail
    assert [slow.receive_data(wire[at : at + 1]) for at in range(len(wire))] == [
        *[None] * (len(wire) - 1),
        expected,
    ]
    assert encode_response(expected) == wire


def test_response_wrong_version() -> None:
    """Another version is refused at the first byte."""
    with pytest.raises(HeaderError) as caught:
        ResponseDecoder().receive_data(b"\x02")

    assert caught.value.args == ("response version", 0, "0", "2")


@pytest.mark.parametrize(
    ("cut", "where", "offset", "expected"),
    [(1, "addons length", 1, "1 bytes"), (2, "addons", 2, "3 bytes"), (4, "addons", 2, "3 bytes")],
)
def test_response_truncated(cut: int, where: str, offset: int, expected: str) -> None:
    """A stream that ends inside the response says where; before it, it is clean."""
    decoder = ResponseDecoder()
    decoder.receive_eof()

    assert decoder.receive_data(bytes.fromhex("0003010203")[:cut]) is None
    with pytest.raises(TruncatedError) as caught:
        decoder.receive_eof()
    assert caught.value.args == (where, offset, expected, f"end of stream after {cut - offset}")


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (Response(256), "version: expected 0 to 255, got 256"),
        (Response(0, b"x" * 256), "addons length: expected 0 to 255, got 256"),
    ],
)
def test_response_not_encodable(response: Response, message: str) -> None:
    """What does not fit a byte is the caller's mistake."""
    with pytest.raises(ValueError, match=message):
        encode_response(response)


@settings(deadline=None)
@given(requests, st.binary(max_size=20), st.lists(st.integers(0, 600), max_size=8))
def test_request_round_trip(request_: Request, tail: bytes, cuts: list[int]) -> None:
    """Any request, cut anywhere, comes back as it was, with nothing lost behind it."""
    stream = encode_request(request_)
    ends = sorted(min(cut, len(stream) - 1) for cut in cuts)
    decoder = RequestDecoder()
    for start, stop in zip([0, *ends], ends, strict=False):
        assert decoder.receive_data(stream[start:stop]) is None

    assert decoder.receive_data(stream[ends[-1] if ends else 0 :] + tail) == request_
    assert decoder.trailing == tail


@settings(deadline=None)
@given(st.binary(max_size=255), st.binary(max_size=20), st.integers(0, 300))
def test_response_round_trip(addons: bytes, tail: bytes, cut: int) -> None:
    """Any response, cut anywhere, comes back as it was, with nothing lost behind it."""
    response = Response(0, addons)
    stream = encode_response(response)
    cut = min(cut, len(stream) - 1)
    decoder = ResponseDecoder()

    assert decoder.receive_data(stream[:cut]) is None
    assert decoder.receive_data(stream[cut:] + tail) == response
    assert decoder.trailing == tail


def outcome(stream: bytes, size: int) -> tuple[object, ...]:
    """Feed pieces of one size until something comes of it."""
    decoder = RequestDecoder()
    try:
        for start in range(0, len(stream), size):
            found = decoder.receive_data(stream[start : start + size])
            if found is not None:
                rest = stream[start + size :]
                return found, decoder.trailing + rest
        decoder.receive_eof()
    except ProtocolError as error:
        return type(error), error.args
    return ()


@settings(deadline=None)
@given(
    st.one_of(
        st.binary(max_size=80), st.builds(lambda rest: MUX[:17] + rest, st.binary(max_size=80))
    ),
    st.integers(1, 80),
)
def test_request_arbitrary_bytes(stream: bytes, size: int) -> None:
    """Arbitrary bytes raise nothing but a protocol error, the same however they are cut."""
    assert outcome(stream, size) == outcome(stream, 1)


@pytest.mark.slow
def test_header_a_million_random_strings() -> None:
    """Random and mutated headers raise protocol errors only, and reach every one of them."""
    rng = random.Random(2421)
    seeds = [
        *REQUESTS.values(),
        *(bytes.fromhex(v["hex"]) for v in VECTORS["bad_requests"].values()),
    ]
    met: dict[str, int] = {}
    for _ in range(1_000_000):
        stream = mutate(rng, rng.choice(seeds))
        decoder = RequestDecoder() if rng.random() < 0.9 else ResponseDecoder()
        try:
            found = decoder.receive_data(stream)
            decoder.receive_eof()
            what = "empty" if found is None else "header"
        except ProtocolError as error:
            inside = 0 <= error.offset <= len(stream)
            what = f"{type(error).__name__} {error.where}" if inside else f"outside: {error}"
        met[what] = met.get(what, 0) + 1

    refused = ("request version", "address type", "addons tag", "addons field", "addons varint")
    assert {f"HeaderError {where}" for where in (*refused, "addons flow")} < set(met)
    assert [what for what in met if what.startswith("outside")] == []
    assert met["header"] > 50_000


def mutate(rng: random.Random, seed: bytes) -> bytes:
    """Make a string of pure chance, or a valid one with some bytes changed, cut or inserted."""
    if rng.random() < 0.2:
        return rng.randbytes(rng.randrange(64))
    stream = bytearray(seed + rng.randbytes(rng.randrange(8)))
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(stream))
        stream[at : at + rng.randrange(2)] = rng.randbytes(rng.randrange(3))
        stream = stream or bytearray(1)
    return bytes(stream[: rng.randrange(len(stream)) + 1])
