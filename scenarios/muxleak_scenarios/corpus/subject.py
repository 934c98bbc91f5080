"""A variant of a case under generated steps, as a subject of the search."""

# A run makes one object of the variant's class in a fresh simulation, performs the steps, closes,
# and checks. Objects alive before `open` are the baseline. What is alive after the close, and after
# the linger that the case declares, is left.
#
# Steps are drawn with regard to the steps before: `new` takes the next number, and the others name
# a stream that there is. Two runs fail in the same way if they
# violate a property in common; a search that shrinks keeps to those of its first finding.

from __future__ import annotations

import asyncio
import inspect
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from muxleak.search.subject import Decisions, Outcome, Subject
from muxleak.sim.choices import Choices
from muxleak.sim.errors import LivelockError
from muxleak.sim.leak_scan import left_behind
from muxleak.sim.replay import SEQUENCE
from muxleak.sim.run import run
from muxleak.sim.schedulers import portfolio
from muxleak.sim.settings import KINDS, Settings
from muxleak_scenarios.corpus.driver import CaseDriver
from muxleak_scenarios.corpus.properties import CaseViolation, CaseViolationError, violated
from muxleak_scenarios.corpus.steps import GAPS, STREAM_STEPS, STREAMS, CaseStep, steps_in_notation

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from muxleak.sim.replay import Replay
    from muxleak_scenarios.corpus.registry import CorpusCase

MOST_STEPS = 10
"""Steps that are drawn after `open`, at most."""
_DIRECTIONS = 2  # streams of a case whose streams are not opened, as in a relay
_FEW_ENDS = 4  # draws of each step for one draw that ends the sequence
_SETTLED = 2  # draws that let the loop settle for one draw of each gap
_SCHEDULERS = ("uniform",)
_STEP_LIMIT = 20_000  # iterations of a run; no case takes a tenth of it
_PROPERTY = {
    "task": "tasks",
    "timer": "timers",
    "transport": "transports",
    "server": "transports",
    "generator": "transports",
    "error": "exceptions",
    "destroyed": "exceptions",
}


@dataclass(frozen=True, slots=True)
class CaseOutcome(Outcome):
    """The outcome of one run of a variant.

    Attributes:
        sequence: the steps that were performed.
        violations: the violated properties, in the order in which they were seen.
    """

    sequence: tuple[CaseStep, ...] = ()
    violations: tuple[CaseViolation, ...] = ()

    @property
    def violated(self) -> tuple[str, ...]:
        """The names of the violated properties, in the order of `CASE_PROPERTIES`."""
        return violated(list(self.violations))


class CaseSubject(Subject[CaseOutcome]):
    """A variant of a case under generated steps.

    Args:
        case: the case.
        variant: the name of the variant.
        properties: the properties that count; None for all.
        settled: True to let the loop settle after every step.
    """

    def __init__(
        self,
        case: CorpusCase,
        variant: str,
        properties: frozenset[str] | None = None,
        *,
        settled: bool = False,
    ) -> None:
        self.name = f"{case.slug}/{variant}"
        self._case, self._variant, self._counted = case, variant, properties
        self._kind = case.variants[variant]
        self._settled = settled
        self._verbs = verbs_of(self._kind)

    def portfolio(self, seed: int) -> Iterator[Choices]:
        """Yield choices that draw at random."""
        return portfolio(seed, _SCHEDULERS, wakeups=False)

    def run(self, choices: Choices, *, traced: bool = False) -> CaseOutcome:
        """Run once with drawn steps."""
        return self._run(self._drawn(choices), choices, traced=traced)

    def perform(self, steps: Iterable[CaseStep]) -> CaseOutcome:
        """Run once with given steps."""
        return self._run(steps, Choices(), traced=False)

    def _run(self, steps: Iterable[CaseStep], choices: Choices, *, traced: bool) -> CaseOutcome:
        performed: list[CaseStep] = []

        async def program() -> list[CaseViolation]:
            return await _Run(self._case, self._kind()).perform(_noting(steps, performed))

        settings = Settings(leaks=False, step_limit=_STEP_LIMIT)
        result = run(program, choices, settings, traced=traced)
        found: list[CaseViolation] = result.value or []
        if isinstance(result.error, LivelockError):
            found = [CaseViolation("quiet", f"expected to settle, got {_STEP_LIMIT:,} iterations")]
        elif result.error is not None:
            raise result.error
        found += [CaseViolation("exceptions", text.splitlines()[0]) for text in result.errors]
        names = frozenset(violated(found))
        signature = names if self._counted is None else names & self._counted
        if not signature:
            return CaseOutcome(sequence=tuple(performed))
        return CaseOutcome(
            Decisions.of(choices),
            signature,
            f"violated: {', '.join(violated(found))}",
            tuple(map(str, performed)),
            error=CaseViolationError(found),
            trace=result.trace_hash,
            sequence=tuple(performed),
            violations=tuple(found),
        )

    def _drawn(self, choices: Choices) -> Iterator[CaseStep]:
        """Yield `open` and steps that the variant knows."""
        opens = "new" in self._verbs
        streams = 0 if opens else _DIRECTIONS
        choices.begin_step()
        yield CaseStep("open", gap=self._gap(choices))
        for _ in range(MOST_STEPS):
            choices.begin_step()
            number = choices.below(_FEW_ENDS * len(self._verbs) + 1)
            if not number:
                return
            verb, stream = self._verbs[(number - 1) % len(self._verbs)], None
            if verb == "new":
                if streams == STREAMS:
                    continue
                streams = stream = streams + 1
            elif verb in STREAM_STEPS:
                back = choices.below(max(streams, 1))
                # Counted from the last, so that it stays the same if earlier ones are deleted.
                stream = max(streams - back, 1) if opens else back + 1
            yield CaseStep(verb, stream, self._gap(choices))

    def _gap(self, choices: Choices) -> int | None:
        drawn = 0 if self._settled else choices.below(_SETTLED + GAPS + 1)
        return None if drawn < _SETTLED else drawn - _SETTLED

    def _encoded(self, steps: Iterable[CaseStep], environment: bytes = b"") -> Decisions:
        """Return the decisions by which `_drawn` yields these steps."""
        choices = _Wanted()
        choices.environment += environment
        opens = "new" in self._verbs
        streams = 0 if opens else _DIRECTIONS
        for step in steps:
            choices.begin_step()
            if step.verb != "open":
                number = self._verbs.index(step.verb) + 1
                choices.want(number, _FEW_ENDS * len(self._verbs) + 1)
            if step.verb == "new":
                streams += 1
            elif step.stream is not None:
                back = streams - step.stream if opens else step.stream - 1
                choices.want(max(back, 0), max(streams, 1))
            if not self._settled:
                choices.want(0 if step.gap is None else step.gap + _SETTLED, _SETTLED + GAPS + 1)
        return Decisions.of(choices)

    def normal(self, data: Decisions) -> Decisions:
        """Return the decisions with the smallest draws for the same steps."""
        return self._encoded(self._drawn(Choices(data.program)), data.environment)

    def cuts(self, data: Decisions) -> Iterator[Decisions]:
        """Yield decisions without one `new`; later streams move down, and keep their steps."""
        steps = list(self._drawn(Choices(data.program)))
        for gone in steps:
            if gone.verb == "new" and gone.stream is not None:
                fewer = [each for each in steps if each is not gone]
                yield self._encoded([_moved(each, gone.stream) for each in fewer], data.environment)

    def replay(self, outcome: CaseOutcome) -> Replay:
        """Return the replay of a run; its line is ``SLUG/VARIANT STEPS``."""
        found = outcome.recorded(SEQUENCE, self.name)
        notation = steps_in_notation(outcome.sequence)
        return replace(found, program=b"", environment=b"", notation=notation)

    def same(self, first: CaseOutcome, other: CaseOutcome) -> bool:
        """Return True if both runs violate a property in common."""
        return not set(first.violated).isdisjoint(other.violated)

    def narrowed(self, first: CaseOutcome) -> CaseSubject:
        """Return the same variant, of which only the properties violated in a run count."""
        counted = frozenset(first.violated)
        if self._counted is not None:
            counted &= self._counted
        return CaseSubject(self._case, self._variant, counted, settled=self._settled)


class _Wanted(Choices):
    """Choices that draw wanted values."""

    _value = 0

    def want(self, value: int, limit: int) -> None:
        """Draw a value."""
        self._value = value
        self.below(limit)

    def _draw(self, limit: int) -> int:
        return min(self._value, limit - 1)


def _moved(step: CaseStep, gone: int) -> CaseStep:
    """Return a step in a sequence in which a stream is opened no more."""
    if step.stream is None or step.stream < gone or step.stream == 1:
        return step
    return step._replace(stream=step.stream - 1)


def verbs_of(kind: type[Any]) -> tuple[str, ...]:
    """Return the steps that mean something to a class, but for `open`, simplest first."""
    order = ("new", "data", "half", "reset", "end", "error", "stall", "shutdown")
    known = [verb for verb in order if hasattr(kind, verb)]
    users = any(
        inspect.iscoroutinefunction(getattr(kind, verb, None))
        for verb in known
        if verb in STREAM_STEPS
    )
    return (*known, *(["cancel"] if users else []), *(["timeout"] if hasattr(kind, "idle") else []))


class _Run:
    """One run, inside a simulation."""

    def __init__(self, case: CorpusCase, object_of_case: Any) -> None:
        self._facts, self._case = case.facts, object_of_case
        loop: Any = asyncio.get_running_loop()
        self._loop = loop
        self._driver = CaseDriver(object_of_case, self._loop.settle)
        self._found: list[CaseViolation] = []

    async def perform(self, steps: Iterable[CaseStep]) -> list[CaseViolation]:
        """Perform the steps, close, and return the violations."""
        baseline = {id(record.thing()) for record in self._records()}
        for step in steps:
            await self._driver.perform(step)
            if step.gap is None:
                self._check_starved()
        await self._close()  # after the gap of the last step
        await asyncio.sleep(self._facts.linger)
        await self._loop.settle()
        self._check_own_counts()
        self._case = self._driver.case = None  # exceptions of what it holds go unretrieved now
        for record in self._records():
            if id(record.thing()) not in baseline:
                self._add(_PROPERTY[record.kind], record.state())
        return self._found

    async def _close(self) -> None:
        bound = self._facts.close_bound
        closing = self._loop.create_task(self._case.close(), name="close")
        await asyncio.wait([closing], timeout=bound)
        if not closing.done():
            self._add("close", f"expected an end within {bound:g} s, got none")
        elif not closing.cancelled() and (error := closing.exception()):
            self._add("exceptions", f"close raised {error!r}")

    def _records(self) -> list[Any]:
        own = asyncio.current_task()
        return [each for each in left_behind(self._loop, KINDS) if each.thing() is not own]

    def _check_starved(self) -> None:
        starved = getattr(self._case, "starved", None)
        if starved is not None and starved() and not self._found:
            self._add("slots", "expected nobody to wait while a slot is free, got a waiter")

    def _check_own_counts(self) -> None:
        case = self._case
        for name, times in getattr(case, "cleaned", {}).items():
            if times != 1:
                self._add("cleanup", f"{name}: expected 1 clean-up, got {times}")
        lost: list[Any] = getattr(case, "lost", list)()
        if lost:
            self._add("data", f"expected all of it delivered, lost {lost!r}")
        taken: int = getattr(case, "in_use", int)()
        if taken:
            self._add("slots", f"expected 0 taken after the close, got {taken}")
        for error in self._driver.errors:
            self._add("exceptions", f"a user got {error!r}")

    def _add(self, name: str, detail: str) -> None:
        self._found.append(CaseViolation(name, detail))


def _noting(steps: Iterable[CaseStep], performed: list[CaseStep]) -> Iterator[CaseStep]:
    for step in steps:
        performed.append(step)
        yield step
