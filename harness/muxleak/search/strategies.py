"""Choices drawn by Hypothesis: one string of fixed size, so that its shrinker works on all at once.

The only module of this package that needs Hypothesis.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from muxleak.extras import need_hypothesis
from muxleak.sim.choices import Choices

if TYPE_CHECKING:
    from hypothesis import strategies as st

SIZE = 512  # bytes; half of them for the program. A fixed size: a range yields mostly short ones


def any_choices(size: int = SIZE) -> st.SearchStrategy[Choices]:
    """Choices for `simulate(..., choices=...)` inside a `@given` test.

    Args:
        size: bytes; decisions beyond them take the plain course.

    Raises:
        ImportError: Hypothesis is not installed.
    """
    need_hypothesis("any_choices()")
    from hypothesis import strategies as st

    return st.binary(min_size=size, max_size=size).map(Choices.of)
