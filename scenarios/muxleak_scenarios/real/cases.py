"""Claims: sequences, each with its growth in sing-box and in the pair that is its twin."""

# The figures of sing-box were measured on 1.14.4 over loopback, with destinations of this project.
# 1.12.10 leaves the same in every case. Releases 1.13.0 to 1.14.1 cut a stream when one of its
# directions ends: that loses the answers of destinations that answer after the end (0 of 20, where
# the others deliver 20 of 20), and with them the leak of `_ENDED` (`for_release`). A figure is
# goroutines or tasks and descriptors for one repetition, first with the destinations alive, then
# after they have closed.
#
# - The fixed variant of every pair leaves nothing. So do the real program and both variants in the
#   control cases, which differ by a step or two from the case above them: a control shows that the
#   difference causes the leak, and not the way of counting.
# - The twin leaves less after the destination has closed, where the designs differ. sing-box copies
#   each direction of a stream by itself, so the goroutine that reads from an orphaned stream stays
#   for ever, with one descriptor. Our relay ends both directions when its destination closes, so
#   nothing stays. The figures before that are the same for both.
# - `_FULL` must block a stream to a destination that never reads, whatever the server and the
#   kernels buffer; half of it is enough for each of the three.
# - The simulation ends a write to such a destination after a second, so in the replay a handler
#   that never reads takes its place.
#
# Cases of one pair are neighbours, because they share the servers.

from __future__ import annotations

import re
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

from muxleak_scenarios.pairs.replay import SequenceReplay
from muxleak_scenarios.sequence.steps import Sequence

if TYPE_CHECKING:
    from collections.abc import Iterable

_FULL = " ".join(["a:data:1+65535"] * 8)


class Left(NamedTuple):
    """Growth for one repetition; a fraction if the repetitions differ.

    Attributes:
        tasks: goroutines or tasks, while the destinations are alive.
        descriptors: descriptors, while the destinations are alive.
        tasks_after: goroutines or tasks, after the destinations have closed.
        descriptors_after: descriptors, after the destinations have closed.
    """

    tasks: Fraction = Fraction()
    descriptors: Fraction = Fraction()
    tasks_after: Fraction = Fraction()
    descriptors_after: Fraction = Fraction()

    def __str__(self) -> str:
        if not any(self):
            return "0"
        lives, gone = self[:2], self[2:]
        return ", ".join("+".join(map(number, each)) for each in (lives, gone))


class Case(NamedTuple):
    """A sequence and its claimed growth.

    Attributes:
        name: short description.
        line: the sequence in notation.
        pair: slug of the pair with the same bug.
        real: growth of the real program.
        twin: growth of the buggy variant.
    """

    name: str
    line: str
    pair: str
    real: Left
    twin: Left

    @property
    def sequence(self) -> Sequence:
        """The steps."""
        return Sequence.parse(self.line)

    @property
    def replay(self) -> SequenceReplay:
        """Replay of the buggy variant in the simulation, which finds the same leak."""
        line = self.line.replace("@deaf", "deaf") if _FULL in self.line else self.line
        return SequenceReplay(self.pair, "buggy", Sequence.parse(line))

    @property
    def control(self) -> bool:
        """True if nothing may be left."""
        return not any(self.real)


def left(*figures: int) -> Left:
    """Return a growth of whole numbers, in the order of the attributes of `Left`."""
    return Left(*map(Fraction, figures))


def number(value: Fraction) -> str:
    """Return a figure as text: a whole number as such, a fraction with two digits."""
    return f"{value.numerator}" if value.denominator == 1 else f"{float(value):.2f}"


_NOTHING = left(0, 0, 0, 0)
_REUSED = "live_id_reused"
_MALFORMED = "malformed_frame_orphans"
_ENDED = "end_forgets_stream"
_BLOCKED = "reader_blocked_by_stream"

CUTS = "1.13.0 to 1.14.1 cut a stream when one direction ends, so End leaves nothing there"
_CUT_SINCE, _CUT_UNTIL = (1, 13, 0), (1, 14, 2)


def for_release(cases: Iterable[Case], version: str) -> list[Case]:
    """Return cases with the growth that is claimed of a release of sing-box.

    Args:
        cases: the cases.
        version: the release, such as "1.13.21".
    """
    if not cuts(version):
        return list(cases)
    return [each._replace(real=_NOTHING) if each.pair == _ENDED else each for each in cases]


def cuts(version: str) -> bool:
    """Return True if a release of sing-box is one of those that `CUTS` describes."""
    numbers = tuple(map(int, re.findall(r"\d+", version)[:3]))
    return _CUT_SINCE <= numbers < _CUT_UNTIL


CASES = (
    Case(
        "a second New for an id that is alive",
        "a:open a:new:1:@echo a:new:1:@echo a:close",
        *(_REUSED, left(2, 1, 1, 1), left(2, 1, 0, 0)),
    ),
    Case(
        "four New for one id",
        "a:open a:new:1:@echo a:new:1:@echo a:new:1:@echo a:new:1:@echo a:close",
        *(_REUSED, left(6, 3, 3, 3), left(6, 3, 0, 0)),
    ),
    Case(
        "a second New, and End",
        "a:open a:new:1:@echo a:new:1:@echo a:end:1 a:close",
        *(_REUSED, left(2, 1, 1, 1), left(2, 1, 0, 0)),
    ),
    Case(
        "control: one New",
        "a:open a:new:1:@echo a:close",
        *(_REUSED, _NOTHING, _NOTHING),
    ),
    Case(
        "control: one New, and reset",
        "a:open a:new:1:@echo+5 a:abort",
        *(_REUSED, _NOTHING, _NOTHING),
    ),
    Case(
        "control: three streams, each with End",
        "a:open a:new:1:@echo+5 a:new:2:@echo+5 a:new:3:@echo+5 a:end:1 a:end:2 a:end:3 a:close",
        *(_REUSED, _NOTHING, _NOTHING),
    ),
    Case(
        "a malformed New for an id that is alive",
        "a:open a:new:1:@echo a:junk:network a:close",
        *(_MALFORMED, left(2, 1, 1, 1), left(2, 1, 0, 0)),
    ),
    Case(
        "control: a malformed New for a new id",
        "a:open a:junk:network a:close",
        *(_MALFORMED, _NOTHING, _NOTHING),
    ),
    Case(
        "End; the destination ignores it",
        "a:open a:new:1:@silent a:end:1 a:close",
        *(_ENDED, left(1, 1, 0, 0), left(1, 1, 0, 0)),
    ),
    Case(
        "data, End; the destination never reads",
        "a:open a:new:1:@deaf+5 a:end:1 a:close",
        *(_ENDED, left(1, 1, 0, 0), left(1, 1, 0, 0)),
    ),
    Case(
        "control: no End",
        "a:open a:new:1:@silent a:close",
        *(_ENDED, _NOTHING, _NOTHING),
    ),
    Case(
        "control: End with an error",
        "a:open a:new:1:@silent a:reset:1 a:close",
        *(_ENDED, _NOTHING, _NOTHING),
    ),
    Case(
        "more data than a destination takes that never reads",
        f"a:open a:new:1:@deaf {_FULL} a:close",
        *(_BLOCKED, left(4, 2, 0, 0), left(4, 2, 0, 0)),
    ),
    Case(
        "the same, and reset",
        f"a:open a:new:1:@deaf {_FULL} a:abort",
        *(_BLOCKED, left(4, 2, 0, 0), left(4, 2, 0, 0)),
    ),
    Case(
        "control: little data for it",
        "a:open a:new:1:@deaf+5 a:close",
        *(_BLOCKED, _NOTHING, _NOTHING),
    ),
)
"""The cases, grouped by pair."""
