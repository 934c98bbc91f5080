"""Hypothesis strategies for connection sequences.

One fixed-size draw of bytes, decoded by state (module `decoder`): about twenty times cheaper per
step than a list of drawn steps, and it shrinks as far. The size is fixed because Hypothesis draws
sizes that may vary near the bottom of their range.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from muxleak.extras import need_hypothesis
from muxleak_scenarios.sequence.decoder import STEPS, WIDTH, decode

if TYPE_CHECKING:
    from hypothesis import strategies as st

    from muxleak_scenarios.sequence.steps import Sequence


def sequences(steps: int = STEPS, *, virtual: bool = True) -> st.SearchStrategy[Sequence]:
    """Sequences of at most ``steps`` steps over up to three connections at a time.

    Without ``virtual`` none lets idle intervals pass: for worlds on real time.

    Raises:
        ImportError: Hypothesis is not installed.
    """
    need_hypothesis("sequences()")
    from hypothesis import strategies as st

    size = WIDTH * steps
    return st.binary(min_size=size, max_size=size).map(partial(decode, virtual=virtual))
