"""Encodes sequences as decisions, one row of bytes for each step, and back."""

# The decoder (`sequence.decoder`) makes a sequence of any bytes, so that chance can draw one: the
# meaning of a byte depends on the steps before. This encoding is for the opposite direction. It
# can say every step of the notation, and each step by itself, so that a step can be left out
# without a change to the others. The shrinker works on it.
#
# The draws of a step are nine bytes, numbers of two bytes with the high one first:
#
#   0    verb, its place in `_VERBS`
#   1    connection, 0 for "a"
#   2-3  stream, 0 for the id 1 and so on; the id 0 comes last
#   4    handler, destination or kind of malformed bytes, its place among those of the verb
#   5-6  size
#   7-8  gap: 0 for none, else iterations and 1
#
# The decisions of the network (``^HEX``) are those of the environment.
#
# A smaller byte is a simpler step, as everywhere: the tables begin with the plainest entry.

from __future__ import annotations

from muxleak.search.subject import Decisions
from muxleak_scenarios.sequence.steps import (
    MAX_GAP,
    MAX_ID,
    ON_STREAM,
    OPENING,
    OPERATOR,
    SIZED,
    WHAT,
    Sequence,
    Step,
)

_VERBS = (
    *("open", "close", "new", "data", "end", "connect", "header", "keep", "packet", "reset"),
    *("udp", "xudp", "keepalive", "padding", "half", "abort", "bad", "junk", "cut", "stall"),
    *("resume", "drip", "cancel", "wait"),
)
_PLACES = {verb: place for place, verb in enumerate(_VERBS)}
_NOTHING = ("",)
_WIDTH = 9
_FIRST, _LETTERS = ord("a"), 26


def encode(sequence: Sequence) -> Decisions:
    """Return the decisions that say a sequence."""
    return Decisions.joined((_draws(step), step.network) for step in sequence)


def decode(data: Decisions) -> Sequence | None:
    """Return the sequence that decisions say; None if they say none."""
    steps = []
    for draws, network in data.steps():
        step = _step(draws, network)
        if step is None:
            return None
        steps.append(step)
    return Sequence(steps)


def _draws(step: Step) -> bytes:
    what = WHAT.get(step.verb, _NOTHING).index(step.what)
    gap = 0 if step.gap is None else step.gap + 1
    connection = ord(step.connection) - _FIRST if step.connection else 0
    return bytes((_PLACES[step.verb], connection)) + b"".join(
        (
            _code(step.stream).to_bytes(2, "big"),
            bytes((what,)),
            step.size.to_bytes(2, "big"),
            gap.to_bytes(2, "big"),
        )
    )


def _code(stream: int | None) -> int:
    return 0 if stream is None else (stream - 1) % (MAX_ID + 1)


def _step(draws: bytes, network: bytes) -> Step | None:
    """Return the step that bytes say; None if they say none."""
    if len(draws) != _WIDTH or draws[0] >= len(_VERBS):
        return None
    verb, stream = _VERBS[draws[0]], (int.from_bytes(draws[2:4], "big") + 1) % (MAX_ID + 1)
    kinds = WHAT.get(verb, _NOTHING)
    names_stream = verb in ON_STREAM or verb in OPENING
    if draws[4] >= len(kinds) or (stream != 1 and not names_stream):
        return None
    size, gap = int.from_bytes(draws[5:7], "big"), int.from_bytes(draws[7:9], "big")
    if (size and verb not in SIZED) or gap > MAX_GAP + 1:
        return None
    if draws[1] >= (1 if verb in OPERATOR else _LETTERS):
        return None
    return Step(
        verb,
        "" if verb in OPERATOR else chr(_FIRST + draws[1]),
        stream if names_stream else None,
        kinds[draws[4]],
        size,
        gap - 1 if gap else None,
        network.rstrip(b"\0"),
    )
