"""Every decision of one run, out of two byte strings: what the program draws, what the world does.

A byte of 0, and the end of the bytes, is the default: the first of what a program picks from, first
in, first out, no fault. So a run shrinks towards the plain one, and the bytes that were used,
without trailing zeros, say all there is to say about it. The two kinds are kept apart so that a
step taken out of a program does not shift what the world does to the rest.
"""

from collections.abc import Sequence
from typing import Any, Self, TypeVar

from muxleak.introspect.waiting import AnyTask

_T = TypeVar("_T")
_BYTE = 256


class Choices:
    """Decisions read from bytes; deciding writes down the same bytes in normal form.

    A subclass invents decisions instead of reading them (see `muxleak.sim.schedulers`).

    Attributes:
        program: the bytes used so far for what the program drew.
        environment: the same for what the simulation decided; one byte for each decision.
        woken: how many decisions ran another task than the one whose turn it was.
    """

    def __init__(self, program: bytes = b"", environment: bytes = b"") -> None:
        self.program = bytearray()
        self.environment = bytearray()
        self.woken = 0
        self._given = program
        self._dealt = environment

    @classmethod
    def of(cls, data: bytes) -> Self:
        """Decisions from one string of fixed size: the first half for the program."""
        half = len(data) // 2
        return cls(data[:half], data[half:])

    def __repr__(self) -> str:
        program, environment = self._given.rstrip(b"\0"), self._dealt.rstrip(b"\0")
        return f"{type(self).__name__}({program!r}, {environment!r})"

    def trimmed(self) -> tuple[bytes, bytes]:
        """What was used, `program` and `environment`, without trailing zeros."""
        return bytes(self.program).rstrip(b"\0"), bytes(self.environment).rstrip(b"\0")

    def below(self, limit: int) -> int:
        """A number from 0 to `limit` - 1; the default is 0.

        Raises:
            ValueError: `limit` is not positive.
        """
        if limit < 1:
            raise ValueError(f"expected a positive limit, got {limit!r}")
        if limit == 1:
            return 0
        if limit > _BYTE:
            high = self.below((limit - 1) // _BYTE + 1)
            return min(high * _BYTE + self.below(_BYTE), limit - 1)
        value = self._draw(limit)
        self.program.append(value)
        return value

    def chance(self, probability: float = 0.5) -> bool:
        """True with about this probability, in steps of 1/256; the default is False."""
        value = self._draw(_BYTE)
        true = value >= _BYTE - round(_BYTE * probability) and value > 0
        self.program.append(_BYTE - 1 if true else 0)
        return true

    def pick(self, options: Sequence[_T]) -> _T:
        """One of the options; the default is the first."""
        return options[self.below(len(options))]

    def decide(self, kind: str, limit: int) -> int:
        """A decision of the world, 0 to `limit` - 1, `limit` at most 256; 0 is the plain course.

        Args:
            kind: what is decided, for those who invent: "order", "hold", "cut", "fault"...
            limit: how many ways it can go.
        """
        value = self._decide(kind, limit)
        self.environment.append(value)
        return value

    def wake(self, tasks: Sequence[AnyTask]) -> int:
        """Which of the tasks that are ready runs, by position; 0 is the one whose turn it is."""
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
