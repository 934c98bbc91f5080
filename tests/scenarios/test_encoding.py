"""The encoding of sequences for the shrinker: it says every step, and each by itself."""

from random import Random

import pytest
from hypothesis import given, settings

from muxleak.search.subject import Decisions
from muxleak_scenarios import Sequence, load_pairs, sequences
from muxleak_scenarios.sequence.encoding import decode, encode
from muxleak_scenarios.sequence.shrinking import cuts, is_connected, normal

LINES = (
    "a:open a:close",
    "b:connect~2 b:header+5 b:header^0102 cancel~0 wait",
    "a:open a:new:0:@hang+65535~1000 a:xudp:65535:stubborn a:udp:1:@silent^00ff01",
    "a:bad:garbage c:open c:junk:domain z:open z:cut+13 z:stall z:resume z:drip z:abort",
    "a:open a:packet:9+5 a:keep:3 a:reset:1+1 a:end:2 a:padding a:keepalive+3 a:half",
)


@pytest.mark.parametrize("line", [*LINES, *(pair.facts.minimal for pair in load_pairs().values())])
def test_encoding_says_every_step(line: str) -> None:
    """A sequence comes back as it was, whatever its steps."""
    sequence = Sequence.parse(line)

    assert decode(encode(sequence)) == sequence


@settings(max_examples=50, database=None, deadline=None, derandomize=True)
@given(sequences(20))
def test_encoding_says_each_step_by_itself(sequence: Sequence) -> None:
    """Without any one step, the others are what they were."""
    steps = encode(sequence).steps()

    for gone in range(len(steps)):
        rest = decode(Decisions.joined([*steps[:gone], *steps[gone + 1 :]]))
        assert rest == (*sequence[:gone], *sequence[gone + 1 :])


def test_encoding_refuses_bytes_that_say_nothing() -> None:
    """Random bytes are no steps, or steps of the notation; nothing else comes out."""
    random = Random(0)
    read = 0
    for _ in range(20_000):
        draws = bytes([random.randrange(26), random.randrange(3), 0, random.randrange(3)])
        draws += bytes([random.randrange(30), 0, random.randrange(2), 0, random.randrange(3)])
        sequence = decode(Decisions.joined([(draws, b"\1\0")]))
        if sequence is not None:
            read += 1
            assert Sequence.parse(str(sequence)) == sequence
            assert encode(sequence) == Decisions.joined([(draws, b"\1")])

    assert 100 < read < 20_000
    assert decode(Decisions.joined([(b"\0", b"")])) is None


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("c:open b:open c:close~0 b:close", "a:open b:open"),
        ("a:open b:open b:close a:close", "a:open b:open b:close a:close"),
        ("b:open b:new:1:echo b:close~0 cancel", "a:open a:new:1:echo a:close~0 cancel"),
        ("a:open~1", "a:open~1"),
    ],
)
def test_normal_form_has_the_fewest_steps(line: str, expected: str) -> None:
    """Connections are named in order; closes that every run makes are left out, and no others."""
    assert str(normal(Sequence.parse(line))) == expected


@settings(max_examples=100, database=None, deadline=None, derandomize=True)
@given(sequences(12))
def test_normal_form_is_the_same_run(sequence: Sequence) -> None:
    """Its canonical form is that of the sequence."""
    assert normal(sequence).canonical() == sequence.canonical()


def test_cuts_are_simpler() -> None:
    """One connection, all but one, one step for two, streams from 1, an echo for a destination."""
    sequence = Sequence.parse("a:connect a:header b:open b:new:7:@hang a:new:9:echo")

    assert [str(each) for each in cuts(sequence)] == [
        "a:connect a:header a:new:9:echo",
        "b:open b:new:7:@hang",
        "b:open b:new:7:@hang",
        "a:connect a:header a:new:9:echo",
        "a:open b:open b:new:7:@hang a:new:9:echo",
        "a:connect a:header b:open b:new:1:@hang a:new:2:echo",
        "a:connect a:header b:open b:new:7:@echo a:new:9:echo",
    ]


def test_a_sequence_must_connect_first() -> None:
    """A step of a connection that no step has opened is no run."""
    assert is_connected(Sequence.parse("cancel a:bad:user a:close b:open"))
    assert not is_connected(Sequence.parse("a:open b:close"))
