"""The finding of a search: the simplest failing run that it has reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic

from muxleak.search.subject import OutcomeT

if TYPE_CHECKING:
    from muxleak.sim.replay import Replay

_STEPS_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Finding(Generic[OutcomeT]):
    """The simplest failing run that a search has reached.

    Attributes:
        subject: the name of the subject.
        outcome: the outcome of the run.
        replay: the facts by which the run can be repeated.
        examples: number of runs until the first failure, that one included.
        connections: number of connections that those runs opened, where the subject counts them.
        shrinks: number of runs spent on shrinking.
        remembered: True if an earlier search had found it.
        ended: the reason why the search ended before it was done with shrinking; "" if it was.
    """

    subject: str
    outcome: OutcomeT
    replay: Replay
    examples: int
    connections: int
    shrinks: int
    remembered: bool = False
    ended: str = ""

    @property
    def error(self) -> BaseException:
        """The exception that the run raised, or that its verdict stands for."""
        return self.outcome.error or AssertionError(self.outcome.verdict)

    @property
    def steps(self) -> tuple[str, ...]:
        """The steps in words, in order, each fault that was drawn at its place."""
        return self.outcome.steps

    @property
    def beyond(self) -> bool:
        """True if it needs permuted wake-ups of tasks, which stock asyncio never shows."""
        return self.outcome.beyond

    def __str__(self) -> str:
        lines = [f"{type(self.error).__name__}: {self.error}"]
        if self.steps:
            more = len(self.steps) - _STEPS_SHOWN
            rest = f" | and {more} more" if more > 0 else ""
            lines.append(f"steps: {' | '.join(self.steps[:_STEPS_SHOWN])}{rest}")
        if self.beyond:
            lines.append("needs wakeups=True: stock asyncio does not wake tasks in this order")
        lines.append(f"found in run {self.examples}, replay with: {self.replay.line}")
        return "\n".join(lines)
