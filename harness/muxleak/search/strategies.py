"""A Hypothesis strategy for the choices of a simulation, which are drawn while the program runs."""

# Hypothesis shrinks a test case by deleting and lowering single draws. So each draw of the program
# is a draw of its own, made when the program asks: a shrinker that deletes the two or three draws
# of an event deletes the event. One string of bytes, drawn beforehand, cannot be shortened by an
# event in the middle, and its shrunk examples keep events that do not matter.
#
# The decisions of the environment are far more numerous, and most of them do not matter. They come
# in blocks: the first decision after a draw of the program draws a block for itself and those that
# follow. So an event keeps its few decisions beside it, is deleted together with them, and no draw
# moves if all of them are set to the plain course, which takes one attempt for each block. Blocks
# are bytes where draws are integers; if a deletion lines them up with each other, Hypothesis puts
# the simplest value in place, which is plain.
#
# Draws go to Hypothesis's own data object, which takes half the time of a strategy. `st.data()`
# offers the object; its two methods are no documented interface, and a test runs them.
#
# Hypothesis ends an example that draws more than it wants by an exception. It must not reach the
# program, whose tasks would end in the middle and drop their connections unclosed. So from then on
# draws take the plain course, by which the run comes to its end. Hypothesis has noted the end of
# the example by then, and counts neither a result nor an error of it.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from muxleak.extras import need_hypothesis
from muxleak.sim.choices import Choices

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis import strategies as st

SIZE = 512
"""The most decisions that are drawn; half of them are for the program."""
_BLOCK = 8  # bytes: one says if the block is plain, the others are decisions
_STEP = 16  # bytes of the block for a step of a state machine
_PLAIN = 32  # first bytes below this make a block plain: an eighth of them

_T = TypeVar("_T")


class Source(Protocol):
    """The part of Hypothesis's data object that is used."""

    @property
    def frozen(self) -> bool:
        """True once the example has ended, after which a draw raises."""

    def draw_integer(self, min_value: int, max_value: int) -> int:
        """Draw a number between two others, these included; it shrinks to the least."""

    def draw_bytes(self, min_size: int, max_size: int) -> bytes:
        """Draw bytes; they shrink to zeros."""


class DrawnChoices(Choices):
    """Draws decisions from Hypothesis at the moment in which they are needed.

    Args:
        source: the data of the example that runs.
        most: number of decisions that are drawn for the program, and for the environment; the
            others take the plain course.
        size: bytes of a block of decisions.
    """

    def __init__(self, source: Source, most: int, size: int = _BLOCK) -> None:
        super().__init__()
        self._source, self._most, self._size = source, most, size
        self._block = b""
        self._next = size

    def __repr__(self) -> str:
        program, environment = self.trimmed()
        if not (program or environment):
            return "<choices that are drawn as the program runs>"
        return f"Choices({program!r}, {environment!r})"

    def _draw(self, limit: int) -> int:
        if len(self.program) >= self._most or self._source.frozen:
            return 0
        self._next = self._size
        return self._ask(self._source.draw_integer, 0, limit - 1, 0)

    def _decide(self, kind: str, limit: int) -> int:
        del kind
        if len(self.environment) >= self._most or self._source.frozen:
            return 0
        if self._next >= self._size:
            size, plain = self._size, bytes(self._size)
            self._block = self._ask(self._source.draw_bytes, size, size, plain)
            self._next = 1
        value = self._block[self._next]
        self._next += 1
        return value % limit if self._block[0] >= _PLAIN else 0

    def _ask(self, draw: Callable[[int, int], _T], low: int, high: int, plain: _T) -> _T:
        try:
            return draw(low, high)
        except BaseException:
            if not self._source.frozen:
                raise
            return plain


class StepChoices(DrawnChoices):
    """Draws the decisions of each step of a state machine as one block, if they fit.

    Hypothesis deletes up to five draws at once, and has made some of its own for each step. So the
    draws of the program, the gaps, are taken from the block as well.

    Args:
        source: the data of the example that runs.
        most: number of decisions that are drawn; the others take the plain course.
    """

    def __init__(self, source: Source, most: int) -> None:
        super().__init__(source, most, _STEP)

    def begin_step(self) -> None:
        """Begin a new block."""
        super().begin_step()
        self._next = self._size

    def _draw(self, limit: int) -> int:
        return self._decide("draw", limit)


def any_choices(size: int = SIZE) -> st.SearchStrategy[Choices]:
    """Return a strategy for the `choices` of `simulate`, to be used in a `@given` test.

    The decisions are drawn while the program runs, so that Hypothesis can shrink the example event
    by event. Use each value for one run.

    Args:
        size: the most decisions that are drawn, half of them for the program; those beyond take
            the plain course.

    Raises:
        ImportError: Hypothesis is not installed.
    """
    need_hypothesis("any_choices()")
    from hypothesis import strategies as st

    @st.composite
    def any_choices(draw: st.DrawFn) -> Choices:
        data: Any = draw(st.data())
        return DrawnChoices(data.conjecture_data, size // 2)

    return any_choices()
