"""Hypothesis strategies for connection sequences."""

# A sequence is one draw of bytes, whose size is fixed; the head of `decoder` says why. This module
# is apart from the decoder because it needs Hypothesis, which hunts and replays do without.

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from muxleak.extras import need_hypothesis
from muxleak_scenarios.sequence.decoder import STEPS, WIDTH, decode

if TYPE_CHECKING:
    from hypothesis import strategies as st

    from muxleak_scenarios.sequence.steps import Sequence


def sequences(steps: int = STEPS, *, virtual: bool = True) -> st.SearchStrategy[Sequence]:
    """Return a strategy for sequences over up to three connections at a time.

    Args:
        steps: the most steps.
        virtual: as in `decode`; False for targets on real time.

    Raises:
        ImportError: Hypothesis is not installed.
    """
    need_hypothesis("sequences()")
    from hypothesis import strategies as st

    size = WIDTH * steps
    return st.binary(min_size=size, max_size=size).map(partial(decode, virtual=virtual))
