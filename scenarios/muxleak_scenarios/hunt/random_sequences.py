"""Random sequences for a server that is not ours, from the decoder that all searches share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muxleak_scenarios.hunt.destinations import KINDS
from muxleak_scenarios.sequence.decoder import SIZES, WIDTH, decode
from muxleak_scenarios.sequence.steps import (
    DATAGRAM_DESTINATIONS,
    MAX_SIZE,
    OPENING,
    OPERATOR,
    Sequence,
)

if TYPE_CHECKING:
    from random import Random

    from muxleak_scenarios.sequence.steps import Step

STEPS = 30
_INSTEAD = {
    "sink": "@silent",
    "linger": "@silent",
    "stubborn": "@deaf",
    "deaf": "@deaf",
    "return": "@close",
    "close": "@close",
    "raise": "@reset",
    "flood": "@flood",
    "bulk": "@flood",
}
"""What serves a stream in place of what only a server of ours has; for the rest, an echo."""


def hosted(step: Step) -> Step:
    """Return a step as it can be taken at a server that is not ours: served by a destination."""
    kinds = KINDS if step.verb == "new" else DATAGRAM_DESTINATIONS
    if step.verb not in OPENING or step.what in kinds:
        return step
    stand_in = _INSTEAD.get(step.what, "@echo")
    return step._replace(what=stand_in if stand_in in kinds else "@silent")


def draw(random: Random) -> Sequence:
    """Draw a sequence of at most `STEPS` steps, every close spelled out."""
    steps = []
    for step in decode(random.randbytes(WIDTH * STEPS), virtual=False):
        if step.verb in OPERATOR:
            continue
        drawn = hosted(step)
        if step.size in SIZES[-2:]:
            # What is much for limits as small as ours is nothing for others.
            drawn = drawn._replace(size=MAX_SIZE)
        steps.append(drawn)
    return Sequence(steps).canonical()
