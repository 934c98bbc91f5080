"""The decoder: total, stable under growth, and aware of the open connections."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muxleak_scenarios import Sequence, Step, sequences
from muxleak_scenarios.sequence.decoder import CONNECTIONS, UNKNOWN, WIDTH, decode
from muxleak_scenarios.sequence.steps import (
    BAD_HEADERS,
    DESTINATIONS,
    ENDINGS,
    HANDLERS,
    JUNK,
    ON_STREAM,
    OPENING,
    OPERATOR,
    PLAIN,
)

STARTS = {"open", "connect"}
FORGETTING = {*ENDINGS, "junk", "cut"}


@pytest.fixture(scope="module")
def steps() -> list[Step]:
    """The steps of many random scripts, always the same."""
    random = Random(0)
    return [step for _ in range(300) for step in decode(random.randbytes(WIDTH * 60))]


@given(st.binary(max_size=WIDTH * 30))
@settings(max_examples=100, deadline=None)
def test_decode_takes_any_bytes(script: bytes) -> None:
    """Every byte string is a sequence that the notation accepts."""
    sequence = decode(script)

    assert len(sequence) <= len(script) // WIDTH
    assert Sequence.parse(str(sequence)) == sequence


@given(st.binary(max_size=WIDTH * 10), st.binary(max_size=WIDTH * 10))
@settings(max_examples=50, deadline=None)
def test_decode_of_a_longer_script_begins_with_that_of_a_shorter(head: bytes, tail: bytes) -> None:
    """Later bytes change no earlier step, so that cutting a script cuts the sequence."""
    whole = head[: len(head) // WIDTH * WIDTH]

    assert decode(whole + tail)[: len(decode(whole))] == decode(whole)


@given(
    st.binary(max_size=WIDTH * 10),
    st.integers(0, 10),
    st.binary(min_size=WIDTH - 1, max_size=WIDTH - 1),
)
@settings(max_examples=50, deadline=None)
def test_decode_skips_a_step_that_begins_with_zero(script: bytes, at: int, rest: bytes) -> None:
    """A first byte of zero is no step, whatever its other bytes are."""
    at = min(at, len(script) // WIDTH) * WIDTH

    assert decode(script[:at] + b"\0" + rest + script[at:]) == decode(script)
    assert decode(bytes(len(script))) == ()


def test_decode_ignores_what_is_no_whole_step() -> None:
    """Bytes after the last whole step are left."""
    step = b"\1".ljust(WIDTH, b"\0")

    assert decode(step[:-1]) == ()
    assert decode(step + step[:-1]) == decode(step) == Sequence.parse("a:open")


def test_decode_leaves_most_of_the_network_as_it_is() -> None:
    """Small bytes take the plain course; on real time the network is left alone."""
    script = b"\1\0\0\2" + bytes([128, 131]) + b"\1\0\0\2" + bytes([129, 0])

    assert str(decode(script)) == "a:open~0^0003 a:new:1:echo~0^01"
    assert str(decode(script, virtual=False)) == "a:open~0 a:new:1:echo~0"


@given(sequences(40))
@settings(max_examples=50, deadline=None)
def test_decode_names_only_what_is_open(sequence: Sequence) -> None:
    """A step names a connection that is open, and a stream opened on it or the unknown one."""
    streams: dict[str, set[int | None]] = {}
    for step in sequence:
        name = step.connection
        if step.verb in STARTS:
            assert name not in streams
            streams[name] = {UNKNOWN}
        elif step.verb == "wait":
            streams.clear()
        elif step.verb not in {"bad", *OPERATOR}:
            assert name in streams
        if step.verb in OPENING:
            streams[name].add(step.stream)
        elif step.verb in ON_STREAM:
            assert step.stream in streams[name]
        elif step.verb in FORGETTING:
            del streams[name]


@given(sequences(40))
@settings(max_examples=50, deadline=None)
def test_decode_sends_no_frames_before_the_header(sequence: Sequence) -> None:
    """A connection without a whole header gets one, or ends."""
    headerless: set[str] = set()
    for step in sequence:
        if step.verb == "connect":
            headerless.add(step.connection)
        elif step.connection in headerless:
            assert step.verb in {"header", "close", "half", "abort", "cut"}
            if step.verb != "header" or not step.size:
                headerless.remove(step.connection)
        elif step.verb == "wait":
            headerless.clear()


def test_decode_reaches_every_verb(steps: list[Step]) -> None:
    """Nothing of the vocabulary is out of reach."""
    expected = {*PLAIN, *ENDINGS, *ON_STREAM, *OPENING, *OPERATOR, "bad", "junk", "cut"}

    assert {step.verb for step in steps} == expected
    assert {step.connection for step in steps} == {*CONNECTIONS, ""}
    assert {step.gap for step in steps} == {None, 0, 1, 2}


def test_decode_reaches_everything_that_verbs_take(steps: list[Step]) -> None:
    """Every handler, destination, bad header and malformed frame is drawn."""
    taken = {verb: {step.what for step in steps if step.verb == verb} for verb in ("bad", "junk")}
    served = {step.what for step in steps if step.verb in OPENING}

    assert served == {*HANDLERS, *DESTINATIONS}
    assert taken == {"bad": {*BAD_HEADERS}, "junk": {*JUNK}}


def test_decode_reopens_ids_in_use(steps: list[Step]) -> None:
    """Some ids are opened again while their first stream is open."""
    opened: dict[str, list[int | None]] = {}
    again = 0
    for step in steps:
        if step.verb in STARTS:
            opened[step.connection] = []
        elif step.verb in OPENING:
            again += step.stream in opened[step.connection]
            opened[step.connection].append(step.stream)

    assert again


@given(sequences(40, virtual=False))
@settings(max_examples=50, deadline=None)
def test_sequences_without_waits_have_none(sequence: Sequence) -> None:
    """For targets on real time, no step lets idle intervals pass."""
    assert all(step.verb != "wait" for step in sequence)
    assert len(sequence) <= 40
