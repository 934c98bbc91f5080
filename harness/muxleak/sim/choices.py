"""The decisions of one run, read from two byte strings: the program's draws and the environment's.

The program draws operands and lengths for itself; the environment decides the order of arrivals,
the cutting of bytes, faults, cancellations and wake-ups.
"""

# The rules that every reader and writer of these bytes keeps:
#
# - A byte of 0 means the default, and so does the end of the bytes. The default is the plain
#   course: the first option, first in, first out, no fault. An empty string is the plain run.
# - A decision is written back in normal form (reduced modulo its limit), so that two byte strings
#   which lead to the same run become equal once they have been used. The bytes that a run used,
#   without trailing zeros, say everything about it: they are the replay, and they are the input of
#   the shrinker.
# - Smaller bytes are a simpler run. The shrinker knows nothing else about their meaning.
# - The program's draws and the environment's decisions stand in two strings, because a shrinker
#   that deletes a step of the program must not shift the decisions about all later arrivals.
# - A decision of the environment takes exactly one byte, whatever its limit, so that its position
#   identifies it. `few` (see `schedulers`) relies on that.

from collections.abc import Sequence
from typing import Any, Self, TypeVar

from muxleak.introspect.waiting import AnyTask

_T = TypeVar("_T")
_BYTE = 256


class Choices:
    """Reads decisions from bytes, and writes the bytes that were used in normal form.

    A subclass invents decisions instead of reading them (see `muxleak.sim.schedulers`).

    Args:
        program: bytes for the draws of the program; draws beyond their end take the default.
        environment: bytes for the decisions of the simulation; the same holds.

    Attributes:
        program: the bytes used so far for the draws of the program.
        environment: the bytes used so far for the decisions of the simulation, one for each.
        starts: for each step that was marked, the numbers of bytes used before it in `program` and
            in `environment`.
        woken: number of decisions that ran another task than the one whose turn it was.
    """

    def __init__(self, program: bytes = b"", environment: bytes = b"") -> None:
        self.program = bytearray()
        self.environment = bytearray()
        self.starts: list[tuple[int, int]] = []
        self.woken = 0
        self._given = program
        self._dealt = environment

    @classmethod
    def of(cls, data: bytes) -> Self:
        """Make choices of one byte string: its first half is for the program."""
        half = len(data) // 2
        return cls(data[:half], data[half:])

    def __repr__(self) -> str:
        program, environment = self._given.rstrip(b"\0"), self._dealt.rstrip(b"\0")
        return f"{type(self).__name__}({program!r}, {environment!r})"

    def trimmed(self) -> tuple[bytes, bytes]:
        """Return the used bytes, `program` and `environment`, without trailing zeros."""
        return bytes(self.program).rstrip(b"\0"), bytes(self.environment).rstrip(b"\0")

    def begin_step(self) -> None:
        """Mark that the next step of the program begins, so that a shrinker can delete it whole.

        A program marks each event that it draws, before its first draw. Give all events the same
        number of draws, and operands that do not depend on the events before, as far as possible.
        """
        self.starts.append((len(self.program), len(self.environment)))

    def below(self, limit: int) -> int:
        """Draw a number from 0 to `limit` - 1; the default is 0.

        Raises:
            ValueError: `limit` is not positive.
        """
        if limit < 1:
            raise ValueError(f"expected a positive limit, got {limit!r}")
        if limit == 1:
            return 0
        if limit > _BYTE:
            # The high byte first, so that a smaller first byte is a smaller number.
            high = self.below((limit - 1) // _BYTE + 1)
            return min(high * _BYTE + self.below(_BYTE), limit - 1)
        value = self._draw(limit)
        self.program.append(value)
        return value

    def chance(self, probability: float = 0.5) -> bool:
        """Draw True with about this probability, in steps of 1/256; the default is False."""
        value = self._draw(_BYTE)
        # Large bytes are True, so that shrinking leads to False. Written back as 0 or 255: all
        # bytes that mean the same become one.
        true = value >= _BYTE - round(_BYTE * probability) and value > 0
        self.program.append(_BYTE - 1 if true else 0)
        return true

    def pick(self, options: Sequence[_T]) -> _T:
        """Draw one of the options; the default is the first."""
        return options[self.below(len(options))]

    def decide(self, kind: str, limit: int) -> int:
        """Return a decision of the environment, from 0 to `limit` - 1; 0 is the plain course.

        Args:
            kind: the kind of decision, for subclasses that invent: "order", "hold", "cut",
                "fault", "connect", "latency", "drop", "tie", "cancel", "wake".
            limit: number of ways it can go, at most 256.
        """
        value = self._decide(kind, limit)
        self.environment.append(value)
        return value

    def wake(self, tasks: Sequence[AnyTask]) -> int:
        """Return the position of the ready task that runs; 0 is the one whose turn it is."""
        value = self._wake(tasks[:_BYTE])
        self.environment.append(value)
        if value:
            self.woken += 1
        return value

    def _draw(self, limit: int) -> int:
        at = len(self.program)
        return self._given[at] % limit if at < len(self._given) else 0

    def _decide(self, kind: str, limit: int) -> int:
        del kind
        at = len(self.environment)
        return self._dealt[at] % limit if at < len(self._dealt) else 0

    def _wake(self, tasks: Sequence[Any]) -> int:
        return self._decide("wake", len(tasks))
