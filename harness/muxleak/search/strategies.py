"""A Hypothesis strategy for the choices of a simulation.

The only module of this package that needs Hypothesis.
"""

# One byte string of fixed size, not one draw for each decision: drawing is much cheaper so, and the
# shrinker of Hypothesis works on all decisions at once. The size is fixed because Hypothesis draws
# sizes near the low end of a range, which would give mostly plain runs.

from __future__ import annotations

from typing import TYPE_CHECKING

from muxleak.extras import need_hypothesis
from muxleak.sim.choices import Choices

if TYPE_CHECKING:
    from hypothesis import strategies as st

SIZE = 512  # bytes; half of them are for the program


def any_choices(size: int = SIZE) -> st.SearchStrategy[Choices]:
    """Return a strategy for the `choices` of `simulate`, to be used in a `@given` test.

    Args:
        size: number of bytes; decisions beyond them take the plain course.

    Raises:
        ImportError: Hypothesis is not installed.
    """
    need_hypothesis("any_choices()")
    from hypothesis import strategies as st

    return st.binary(min_size=size, max_size=size).map(Choices.of)
