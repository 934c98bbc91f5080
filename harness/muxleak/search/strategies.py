"""Choices drawn by Hypothesis: one string of fixed size, so that its shrinker works on all at once.

The only module here that needs Hypothesis, and so not imported by the package itself.
"""

from hypothesis import strategies as st

from muxleak.sim.choices import Choices

SIZE = 512  # bytes; half of them for the program. A fixed size: a range yields mostly short ones


def any_choices(size: int = SIZE) -> st.SearchStrategy[Choices]:
    """Choices for `simulate(..., choices=...)` inside a `@given` test.

    Args:
        size: bytes; decisions beyond them take the plain course.
    """
    return st.binary(min_size=size, max_size=size).map(Choices.of)
