"""Subjects: everything that a search can run from decisions, and the outcome of one run.

A subject is an async program on the simulator, a server under generated connections, a pair of mux
sessions, or a server behind a socket. The search, the shrinker, replays and reports know no other
kind of thing.
"""

# A run is a function of its decisions: two byte strings (`muxleak.sim.choices`). The contract
# between a subject and the engine is small:
#
# - `run` never raises for a fault of the subject. The fault is the outcome.
# - `Outcome.data` holds the decisions that a failing run used, in normal form. A run with exactly
#   these is the same run. So the engine compares, shrinks and stores `data`, and never the input.
# - `Subject.same` tells whether two runs fail in the same way. The shrinker keeps only runs that
#   do, or it would slip from one bug to another.
# - `Decisions.starts` mark where a step of the subject begins, in both strings. Deleting a step
#   with all that was decided during it is what shortens a run most, and moves no later decision
#   to another event. A subject that marks no steps is shrunk by blocks of a few sizes instead.
#
# `Advice` has defaults that suit a program of which nothing is known. It says which decisions mean
# nothing (`normal`), which large cuts and lower values are worth a run (`cuts`, `lower`), and which
# runs are shorter than a given one and yet not made from it (`shorter`).

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from hashlib import sha256
from random import Random
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from muxleak.sim.choices import Choices
from muxleak.sim.replay import Replay, recorded_groups

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator

    from muxleak.checks.report import LeakGroup

StepBytes = tuple[bytes, bytes]
"""The draws of one step, and the decisions of the environment until the next."""

_DIGITS = 16  # of the hash of a signature
_REDRAWN = 2  # steps that `Subject.shorter` draws anew, at most


class Decisions(NamedTuple):
    """The decisions of a run.

    Attributes:
        program: the draws of the subject, one or more bytes each.
        environment: the decisions about arrivals, faults and wake-ups, one byte each.
        starts: for each step that the subject marks, the offsets in `program` and in `environment`
            at which it begins; ascending.
    """

    program: bytes = b""
    environment: bytes = b""
    starts: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, choices: Choices) -> Decisions:
        """Return the decisions that a run has used, without defaults at the end."""
        program, environment = choices.trimmed()
        starts = choices.starts
        # A step without any byte of its own left is the default, too.
        while starts and starts[-1][0] >= len(program) and starts[-1][1] >= len(environment):
            starts = starts[:-1]
        return cls(program, environment, tuple(starts))

    @property
    def order(self) -> tuple[object, ...]:
        """A sort key: smaller is simpler, and the program counts first."""
        return (
            len(self.starts),
            len(self.program),
            len(self.environment) - self.environment.count(0),
            len(self.environment),
            self.program,
            self.environment,
        )

    def steps(self) -> list[StepBytes]:
        """Return the marked steps; decisions before the first mark belong to the first."""
        ends = [*self.starts[1:], (len(self.program), len(self.environment))]
        steps, at, other = [], 0, 0
        for program, environment in ends if self.starts else ():
            steps.append((self.program[at:program], self.environment[other:environment]))
            at, other = program, environment
        return steps

    @classmethod
    def joined(cls, steps: Iterable[StepBytes]) -> Decisions:
        """Return the decisions of a run with these steps."""
        program, environment, starts = bytearray(), bytearray(), []
        for draws, decided in steps:
            starts.append((len(program), len(environment)))
            program += draws
            environment += decided
        return cls(bytes(program), bytes(environment), tuple(starts))


_NONE = Decisions()


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one run of a subject.

    Attributes:
        data: the decisions that the run used, in normal form; left out if nothing is wrong.
        signature: equal for two runs that fail in the same way; None if nothing is wrong.
        verdict: one line that says what is wrong; "" if nothing is.
        steps: the steps of the run in words, in order, each fault that was drawn at its place.
        groups: the groups of a leak, largest first.
        error: the exception behind the verdict, if there is one.
        beyond: True if the run needs permuted wake-ups of tasks, which stock asyncio never shows.
        trace: the hash of all events of a traced run; "" otherwise.
        connections: number of connections that the run opened, where the subject counts them.
    """

    data: Decisions = _NONE
    signature: Hashable = None
    verdict: str = ""
    steps: tuple[str, ...] = ()
    groups: tuple[LeakGroup, ...] = ()
    error: BaseException | None = None
    beyond: bool = False
    trace: str = ""
    connections: int = 0

    @property
    def failed(self) -> bool:
        """True if something is wrong."""
        return self.signature is not None

    def recorded(self, kind: str, name: str) -> Replay:
        """Return the replay of the run, as far as it is the same for all kinds of subjects.

        Args:
            kind: one of `muxleak.sim.replay.KINDS`.
            name: the name of the subject.
        """
        return Replay(
            self.data.program,
            self.data.environment,
            kind=kind,
            name=name,
            trace=self.trace,
            verdict=self.verdict,
            signature=_hash(self.signature),
            steps=self.steps,
            groups=recorded_groups(self.groups),
        )


def _hash(signature: Hashable) -> str:
    """Return a hash that is the same in every process; "" for None."""
    if signature is None:
        return ""
    parts = signature if isinstance(signature, frozenset) else [signature]
    words = sorted(
        " ".join(map(_word, each if isinstance(each, tuple) else [each])) for each in parts
    )
    return sha256("\n".join(words).encode()).hexdigest()[:_DIGITS]


def _word(part: object) -> str:
    return part.__name__ if isinstance(part, type) else str(part)


OutcomeT = TypeVar("OutcomeT", bound=Outcome)


class Advice:
    """Advice for the shrinker; this class has none, and fits everything.

    Attributes:
        costly: True if a run takes real time, and need not repeat itself: then the shrinker leaves
            out the passes that cost many runs.
    """

    costly = False

    def normal(self, data: Decisions) -> Decisions | None:
        """Return the simplest decisions of the same run; None if no run has these."""
        return data

    def cuts(self, data: Decisions) -> Iterator[Decisions]:
        """Yield large cuts that are worth a run before all others."""
        del data
        yield from ()

    def lower(self, data: Decisions) -> Iterator[Decisions] | None:
        """Return decisions with lower values, if no others are worth a run; None to try them all.

        Args:
            data: decisions of which no step can go.
        """
        del data
        return None

    def shorter(self, data: Decisions, seed: int) -> Iterator[Decisions]:
        """Yield decisions with fewer steps, at random: cuts after which the rest is drawn anew.

        Args:
            data: decisions with marked steps.
            seed: of all chance.
        """
        chance = Random(seed)  # noqa: S311 - a search, not a secret
        steps = data.steps()
        while len(steps) > 1:
            fewer = list(steps)
            del fewer[chance.randrange(len(fewer))]
            for _ in range(chance.randint(1, _REDRAWN)):
                at = chance.randrange(len(fewer))
                draws, decided = fewer[at]
                fewer[at] = chance.randbytes(len(draws)), decided
            yield Decisions.joined(fewer)


class Subject(Advice, ABC, Generic[OutcomeT]):
    """Something that runs from decisions, with outcomes of its own class.

    Attributes:
        name: the name in reports and files, such as "module:callable" or "V1".
    """

    name: str

    @abstractmethod
    def portfolio(self, seed: int) -> Iterator[Choices]:
        """Yield choices to run with, without end; the first take the plainest course.

        Args:
            seed: of all chance.
        """

    @abstractmethod
    def run(self, choices: Choices, *, traced: bool = False) -> OutcomeT:
        """Run once.

        Args:
            choices: decide everything that is free.
            traced: True to fill in everything of the outcome; False where only `data` and
                `signature` are read, so that a search can make many runs.
        """

    def choices(self, data: Decisions) -> Choices:
        """Return choices that repeat these decisions."""
        return Choices(data.program, data.environment)

    @abstractmethod
    def replay(self, outcome: OutcomeT) -> Replay:
        """Return the facts by which a traced run can be repeated in another process."""

    def repeat(self, replay: Replay) -> OutcomeT:
        """Run a recorded run again; the outcome has its trace even if nothing is wrong."""
        return self.run(self.choices(Decisions(replay.program, replay.environment)), traced=True)

    def same(self, first: OutcomeT, other: OutcomeT) -> bool:
        """Return True if a run fails in the way in which the first did."""
        return other.signature == first.signature

    def narrowed(self, first: OutcomeT) -> Subject[OutcomeT]:
        """Return the subject for the runs that are to fail as a first one did."""
        del first
        return self
