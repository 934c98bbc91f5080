"""The steps of a case, and their notation: ``open new:1 data:1!0 cancel:1``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

STREAM_STEPS = ("new", "data", "half", "reset", "cancel")
"""Steps of one stream."""
STEPS = ("open", *STREAM_STEPS, "end", "error", "stall", "timeout", "shutdown")
"""All steps; `close` is performed after the last one, and not written."""
STREAMS = 4
"""The highest number of a stream."""
GAPS = 3
"""The longest gap that is drawn, in iterations of the loop."""
_STEP = re.compile(r"([a-z]+)(?::(\d))?(?:!(\d))?")


class CaseStep(NamedTuple):
    """One step.

    Attributes:
        verb: one of `STEPS`.
        stream: the number of the stream, from 1; None for a step of the connection.
        gap: iterations of the loop until the next step; None to let the loop settle.
    """

    verb: str
    stream: int | None = None
    gap: int | None = None

    def __str__(self) -> str:
        stream = "" if self.stream is None else f":{self.stream}"
        return f"{self.verb}{stream}" + ("" if self.gap is None else f"!{self.gap}")


def parse_steps(text: str) -> tuple[CaseStep, ...]:
    """Read steps from their notation.

    Raises:
        ValueError: a word is no step; the message says which, and the steps that there are.
    """
    return tuple(map(_parse, text.split()))


def steps_in_notation(steps: Iterable[CaseStep]) -> str:
    """Return the notation of steps."""
    return " ".join(map(str, steps))


def _parse(word: str) -> CaseStep:
    found = _STEP.fullmatch(word)
    if found is None or found[1] not in STEPS:
        known = ", ".join(f"{each}:1" if each in STREAM_STEPS else each for each in STEPS)
        raise ValueError(f"expected one of {known}, each with a gap such as !0, got {word[:40]!r}")
    verb, stream, gap = found.groups()
    if (stream is not None) != (verb in STREAM_STEPS):
        expected = "a stream, as in" if stream is None else "no stream, as in"
        shown = f"{verb}:1" if stream is None else verb
        raise ValueError(f"expected {expected} {shown}, got {word!r}")
    if stream is not None and not 1 <= int(stream) <= STREAMS:
        raise ValueError(f"expected a stream from 1 to {STREAMS}, got {word!r}")
    return CaseStep(verb, *(None if each is None else int(each) for each in (stream, gap)))
