"""Draws random sequences for a hunt, from the decoder that all searches share."""

# The decoder draws for the server of this project, in three respects that another server does not
# share, so each step is adapted after the draw:
#
# - Handlers run inside our server only. A destination with the same effect on the session takes the
#   place of each.
# - Steps of the operator (a shutdown, a wait for idle limits) are not in a client's power.
# - The two largest sizes exceed the limits of our server, which are small. Another server's limits
#   are not known, so these sizes become the largest that a frame can have.

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
"""Destinations that take the place of handlers; an echo takes that of all others."""


def hosted(step: Step) -> Step:
    """Return a step for any server, with a destination in place of a handler."""
    kinds = KINDS if step.verb == "new" else DATAGRAM_DESTINATIONS
    if step.verb not in OPENING or step.what in kinds:
        return step
    stand_in = _INSTEAD.get(step.what, "@echo")
    return step._replace(what=stand_in if stand_in in kinds else "@silent")


def draw(random: Random) -> Sequence:
    """Draw a sequence of at most `STEPS` steps, with a close for every open connection."""
    steps = []
    for step in decode(random.randbytes(WIDTH * STEPS), virtual=False):
        if step.verb in OPERATOR:
            continue
        drawn = hosted(step)
        if step.size in SIZES[-2:]:
            drawn = drawn._replace(size=MAX_SIZE)
        steps.append(drawn)
    return Sequence(steps).canonical()
