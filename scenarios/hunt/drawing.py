"""Random sequences for a server that is not ours, from the decoder that all searches share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scenarios.hunt.destinations import KINDS
from scenarios.script import SIZES, WIDTH, decode
from scenarios.steps import MAX_SIZE, OPERATOR, Sequence

if TYPE_CHECKING:
    from random import Random

STEPS = 30
_UNHEARD = {*OPERATOR, "udp", "xudp"}
"""Steps that cannot be taken here: those of the operator, and UDP, for which nothing is hosted."""
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
    "@hang": "@refuse",
}
"""What serves a stream in place of what only a server of ours has; for the rest, an echo."""


def draw(random: Random) -> Sequence:
    """Draw a sequence of at most `STEPS` steps, every close spelled out."""
    steps = []
    for step in decode(random.randbytes(WIDTH * STEPS), virtual=False):
        if step.verb in _UNHEARD:
            continue
        drawn = step
        if step.verb == "new" and step.what not in KINDS:
            drawn = drawn._replace(what=_INSTEAD.get(step.what, "@echo"))
        if step.size in SIZES[-2:]:
            # What is much for limits as small as ours is nothing for others.
            drawn = drawn._replace(size=MAX_SIZE)
        steps.append(drawn)
    return Sequence(steps).canonical()
