"""Subjects: everything that a search can run from decisions, and the outcome of one run.

A subject is an async program on the simulator, a server under generated connections, a pair of mux
sessions, or a server behind a socket. The search, the shrinker, replays and reports know no other
kind of thing.
"""

# A run is a function of its decisions: two byte strings (`muxleak.sim.choices`). The contract
# between a subject and the engine is small:
#
# - `run` never raises for a fault of the subject. The fault is the outcome.
# - `Outcome.data` holds the decisions that the run used, in normal form. A run with exactly these
#   is the same run. So the engine compares, shrinks and stores `data`, and never the input.
# - `Outcome.signature` is equal for two runs that fail in the same way. The shrinker keeps only
#   runs with the signature that it began with, or it would slip from one bug to another.
# - `Decisions.starts` are the offsets in the program's bytes at which a step of the subject begins.
#   Deleting a whole step is what shortens a run most; a subject that does not mark its steps is
#   shrunk by blocks of a few sizes instead.
#
# `AsyncSubject` is the same for a server behind a real socket, where a run takes real time.

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from muxleak.checks.report import LeakGroup
    from muxleak.sim.choices import Choices


class Decisions(NamedTuple):
    """The decisions of a run.

    Attributes:
        program: the draws of the subject, one or more bytes each.
        environment: the decisions about arrivals, faults and wake-ups, one byte each.
        starts: offsets in `program` at which a step begins, ascending; empty if none is marked.
    """

    program: bytes = b""
    environment: bytes = b""
    starts: tuple[int, ...] = ()

    def order(self) -> tuple[object, ...]:
        """Return a sort key: smaller is simpler, and the program counts first."""
        return (
            len(self.program),
            len(self.environment) - self.environment.count(0),
            len(self.environment),
            self.program,
            self.environment,
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one run of a subject.

    Attributes:
        data: the decisions that the run used, in normal form.
        verdict: one line that says what is wrong; "" if nothing is.
        signature: equal for two runs that fail in the same way; None if nothing is wrong.
        steps: the steps of the run in words, in order, each fault that was drawn at its place.
        groups: the groups of a leak, largest first.
        error: the exception behind the verdict, if there is one.
        beyond: True if the run needs permuted wake-ups of tasks, which stock asyncio never shows.
        trace: the hash of all events of a traced run; "" otherwise.
    """

    data: Decisions
    verdict: str = ""
    signature: Hashable = None
    steps: tuple[str, ...] = ()
    groups: tuple[LeakGroup, ...] = ()
    error: BaseException | None = None
    beyond: bool = False
    trace: str = ""

    @property
    def failed(self) -> bool:
        """True if something is wrong."""
        return self.signature is not None


class Subject(Protocol):
    """Something that runs from decisions, at once."""

    @property
    def name(self) -> str:
        """The name in reports and files, such as "module:callable" or "V1"."""

    def portfolio(self, seed: int) -> Iterator[Choices]:
        """Yield choices to run with, without end; the first take the plainest course."""

    def run(self, choices: Choices, *, traced: bool = False) -> Outcome:
        """Run once.

        Args:
            choices: decide everything that is free.
            traced: True to compute `Outcome.trace`; such a run is slower.
        """
