"""A server under connection sequences, as a subject of the search."""

# A run performs the steps of a sequence up to the first violation that counts: the steps after it
# cannot matter, so a shrinker must not spend runs on them. The run itself goes on as ever (every
# connection is closed, the server is ended), so it is the run of the shorter sequence.
#
# Random bytes search (`decoder`), since every byte string is a sequence; the shrinker works on
# another encoding, in which each step stands for itself (`encoding`).
#
# Two runs fail in the same way if they violate a property in common. A search that shrinks keeps to
# the properties that its first finding violated, or it would slip to another, simpler violation.

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING

from muxleak.search.subject import Decisions, Outcome, Subject
from muxleak.sim.choices import Choices
from muxleak.sim.replay import SEQUENCE
from muxleak_scenarios.sequence import encoding
from muxleak_scenarios.sequence.decoder import STEPS, random_sequence
from muxleak_scenarios.sequence.describe import step_in_words
from muxleak_scenarios.sequence.properties import PROPERTIES, SequenceOutcome, ViolationError
from muxleak_scenarios.sequence.shrinking import SequenceAdvice, normal
from muxleak_scenarios.sequence.steps import Sequence
from muxleak_scenarios.targets.run import run_sequence
from muxleak_scenarios.targets.simulated import SimTarget

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from muxleak.sim.replay import Replay
    from muxleak_scenarios.targets.target import Target
    from muxleak_vless import Lifecycle


_EMPTY = Sequence()


class SequenceChoices(Choices):
    """The choices of a run that performs a sequence.

    Args:
        sequence: the steps.
    """

    def __init__(self, sequence: Sequence) -> None:
        super().__init__()
        self.sequence = sequence


@dataclass(frozen=True, slots=True)
class SequenceRunOutcome(Outcome):
    """The outcome of one run of a server.

    Attributes:
        sequence: the steps that were performed.
        result: the violations, and the tasks that were left.
    """

    sequence: Sequence = _EMPTY
    result: SequenceOutcome = field(default_factory=SequenceOutcome)

    @property
    def violated(self) -> tuple[str, ...]:
        """The violated properties, in the order of `PROPERTIES`."""
        return self.result.violated


class SequenceSubject(SequenceAdvice, Subject[SequenceRunOutcome]):
    """A server, or a variant of a pair, under connection sequences.

    Args:
        lifecycle: makes the life cycle of each run's server.
        name: the name of the server in a replay line; "" if it has none.
        properties: the properties that count; None for all.
        target: makes the target of each run.
        virtual: False for targets on real time.
        steps: number of steps of a random sequence, at most.
    """

    def __init__(
        self,
        lifecycle: Callable[[], Lifecycle],
        *,
        name: str = "",
        properties: frozenset[str] | None = None,
        target: Callable[[Lifecycle], Target] = SimTarget,
        virtual: bool = True,
        steps: int = STEPS,
    ) -> None:
        super().__init__(virtual=virtual)
        self.name = name
        self._lifecycle = lifecycle
        self._counted = frozenset(PROPERTIES) if properties is None else properties
        self._target = target
        self._steps = steps

    def portfolio(self, seed: int) -> Iterator[Choices]:
        """Yield random sequences."""
        random = Random(seed)  # noqa: S311 - a reproducible search, no secret
        while True:
            yield SequenceChoices(random_sequence(random, self._steps, virtual=self._virtual))

    def choices(self, data: Decisions) -> Choices:
        """Return choices that perform the steps that decisions say."""
        return SequenceChoices(encoding.decode(data) or Sequence())

    def run(self, choices: Choices, *, traced: bool = False) -> SequenceRunOutcome:
        """Run a sequence against a new server, up to the first violation that counts.

        A traced run is made whole, and in canonical form if that violates something, too.
        """
        if not isinstance(choices, SequenceChoices):
            raise TypeError(f"expected the choices of a sequence, got {choices!r}")
        sequence = choices.sequence
        if traced:
            whole = self._run(sequence.canonical(), frozenset())
            return whole if whole.failed else self._run(sequence, frozenset())
        return self._run(sequence, self._counted)

    def _run(self, sequence: Sequence, until: frozenset[str]) -> SequenceRunOutcome:
        result = run_sequence(sequence, self._lifecycle(), self._target, until=until)
        signature = self._counted.intersection(result.violated)
        if not signature:
            return SequenceRunOutcome(connections=result.connections)
        performed = Sequence(sequence[: result.performed])
        return SequenceRunOutcome(
            encoding.encode(normal(performed)),
            signature,
            f"violated: {', '.join(result.violated)}",
            tuple(f"{step}  {step_in_words(step)}" for step in performed),
            () if result.report is None else result.report.groups,
            ViolationError(result),
            connections=result.connections,
            sequence=performed,
            result=result,
        )

    def replay(self, outcome: SequenceRunOutcome) -> Replay:
        """Return the replay of a run."""
        found = outcome.recorded(SEQUENCE, self.name)
        return replace(found, program=b"", environment=b"", notation=str(outcome.sequence))

    def repeat(self, replay: Replay) -> SequenceRunOutcome:
        """Run a recorded sequence again.

        Raises:
            ValueError: its notation is wrong, or a step names a connection that none has opened.
        """
        return self.run(SequenceChoices(Sequence.parse(replay.notation)), traced=True)

    def same(self, first: SequenceRunOutcome, other: SequenceRunOutcome) -> bool:
        """Return True if both runs violate a property in common."""
        return not set(first.violated).isdisjoint(other.violated)

    def narrowed(self, first: SequenceRunOutcome) -> SequenceSubject:
        """Return the same server, of which only the properties violated in a run count."""
        return SequenceSubject(
            self._lifecycle,
            name=self.name,
            properties=self._counted.intersection(first.violated),
            target=self._target,
            virtual=self._virtual,
            steps=self._steps,
        )
