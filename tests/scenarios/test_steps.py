"""The notation: printing and reading are inverses, and errors say why."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muxleak_scenarios import Sequence, Step, run_sequence, sequences
from muxleak_scenarios.sequence.steps import (
    BAD_HEADERS,
    DESTINATIONS,
    ENDINGS,
    HANDLERS,
    JUNK,
    MAX_GAP,
    MAX_ID,
    MAX_SIZE,
    ON_STREAM,
    OPENING,
    OPERATOR,
    PLAIN,
)
from muxleak_vless import Lifecycle
from muxleak_vless.versions import VERSIONS

STEPS = [
    *(f"a:{verb}" for verb in sorted({*PLAIN, *ENDINGS})),
    *(f"b:{verb}:7+5~1" for verb in sorted(ON_STREAM - {"keep"})),
    "b:keep:7",
    *(f"c:{verb}:1:{what}+60" for verb in sorted(OPENING) for what in HANDLERS),
    *(f"c:new:1:{what}~0" for what in DESTINATIONS),
    *(f"a:bad:{what}" for what in BAD_HEADERS),
    *(f"a:junk:{what}" for what in JUNK),
    *sorted(OPERATOR),
    "a:cut+13",
    "a:header+5",
    f"z:data:{MAX_ID}+{MAX_SIZE}~{MAX_GAP}",
    "a:open^02",
    "a:data:1+5~0^00ff01",
    "cancel~1^01",
]


@pytest.mark.parametrize("text", STEPS)
def test_step_prints_what_was_read(text: str) -> None:
    """Every verb with its arguments can be read, and prints as it was written."""
    assert str(Step.parse(text)) == text


def test_step_fields_are_those_of_the_notation() -> None:
    """A step has connection, verb, stream, ``what``, bytes and gap."""
    step = Step.parse("b:new:7:@echo+60~2")

    assert step == Step("new", "b", stream=7, what="@echo", size=60, gap=2)
    assert Step.parse("a:open~0^01ff") == Step("open", "a", gap=0, network=b"\x01\xff")


def test_step_network_at_the_end_is_plain_unless_said() -> None:
    """Trailing zeros of the network's decisions mean nothing, and are left out."""
    assert Step.parse("a:open^0200") == Step("open", "a", network=b"\2")
    assert str(Step.parse("a:open^0000")) == "a:open"


def test_step_without_a_gap_lets_the_server_rest() -> None:
    """No gap is not the same as gap 0."""
    assert Step.parse("cancel").gap is None
    assert Step.parse("cancel~0").gap == 0


@given(sequences(40))
@settings(max_examples=50, deadline=None)
def test_sequence_round_trip(sequence: Sequence) -> None:
    """Every generated sequence prints as a line that reads as the same sequence."""
    assert Sequence.parse(str(sequence)) == sequence
    assert eval(repr(sequence)) == sequence  # noqa: S307 - our own repr


def test_sequence_ignores_the_kind_of_white_space() -> None:
    """A line may be wrapped and indented."""
    assert Sequence.parse("  a:open\n\ta:close ") == Sequence.parse("a:open a:close")
    assert Sequence.parse("") == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a::open", r"expected CONNECTION:VERB\[:STREAM\]"),
        ("A:open", r"expected CONNECTION:VERB"),
        ("ab:open:1:echo:2", r"expected CONNECTION:VERB"),
        ("a:data:1+x", r"expected CONNECTION:VERB"),
        ("a:open~-1", r"expected CONNECTION:VERB"),
        ("a:data:١+5", r"expected CONNECTION:VERB"),  # noqa: RUF001 - an Arabic digit
        ("a:explode", r"expected one of .*open.*; got 'explode'"),
        ("open", r"every other verb takes one letter"),
        ("a:cancel", r"'cancel' and 'wait' take no connection"),
        ("a:wait", r"'cancel' and 'wait' take no connection"),
        ("a:new:echo", r"expected a stream id of 0 to 65535, got None"),
        ("a:data+5", r"expected a stream id of 0 to 65535, got None"),
        ("a:data:65536+5", r"expected a stream id of 0 to 65535, got 65536"),
        ("a:open:1", r"'open' takes no stream"),
        ("cancel:1", r"'cancel' takes no stream"),
        ("a:new:1", r"expected one of echo, .*@echo.*; got ''"),
        ("a:new:1:ecko", r"expected one of echo, .*; got 'ecko'"),
        ("a:udp:1:@flood", r"expected one of echo, .*@silent; got '@flood'"),
        ("a:bad:status", r"expected one of version, .*; got 'status'"),
        ("a:junk", r"expected one of status, .*; got ''"),
        ("a:end:1:echo", r"'end' takes no 'echo'"),
        ("a:close+5", r"'close' takes no size"),
        ("a:data:1+65536", r"expected a size of 0 to 65535, got 65536"),
        ("a:open~1001", r"expected a gap of 0 to 1000, got 1001"),
    ],
)
def test_step_error_says_what_was_expected(text: str, expected: str) -> None:
    """Bad notation is refused; the message has the step and the expected form."""
    with pytest.raises(ValueError, match=expected) as caught:
        Sequence.parse(f"a:open {text}")

    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("line", "canonical"),
    [
        ("", ""),
        ("c:open", "a:open a:close"),
        ("c:open~0 b:connect~0", "a:open~0 b:connect a:close~0 b:close"),
        ("b:open a:open b:close", "a:open b:open a:close b:close"),
        ("b:open b:half", "a:open a:half"),
        ("b:open b:junk:short~0", "a:open a:junk:short"),
        ("b:bad:user", "a:bad:user"),
        ("b:open c:open b:open", "a:open b:open a:open b:close~0 a:close"),
        ("b:open wait c:open", "a:open wait b:open b:close"),
        ("cancel", "cancel"),
    ],
)
def test_canonical_names_in_order_and_spells_out_closes(line: str, canonical: str) -> None:
    """Connections are named a, b, c as they come, and those left open are closed at the end."""
    sequence = Sequence.parse(line).canonical()

    assert str(sequence) == canonical
    assert sequence.canonical() == sequence


@given(sequences(8), st.sampled_from([*VERSIONS.values()]))
@settings(max_examples=30, deadline=None)
def test_canonical_is_the_same_run(sequence: Sequence, version: Callable[[], Lifecycle]) -> None:
    """The canonical sequence violates the same properties, and leaves as many tasks.

    But for bounds, which may be exceeded for the length of the last gap only.
    """
    seen = [run_sequence(each, version()) for each in (sequence, sequence.canonical())]
    lasting = [set(outcome.violated) - {"bounds"} for outcome in seen]

    assert lasting[0] == lasting[1]
    assert (seen[0].left, seen[0].cleanups) == (seen[1].left, seen[1].cleanups)


def test_canonical_keeps_the_instant_of_the_last_step() -> None:
    """After a last step with a gap the target settles all the same, before everything closes.

    Closing in the same instant would be another run: the flood would not have met a full buffer.
    """
    sequence = Sequence.parse("a:open a:new:1:@flood~0")

    assert str(sequence.canonical()) == "a:open a:new:1:@flood a:close"
