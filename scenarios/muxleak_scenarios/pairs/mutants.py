"""Mutants of the reference: other implementations of one life-cycle question.

A mutant answers one question of `Lifecycle` in another way than the reference. It is killed if a
property is violated on at least one sequence, and survives if none is.
"""

# Mutation testing, applied to the properties instead of to the tests: a mutant that survives shows
# a hole in the properties or in the sequences, so that a bug of that shape could stay unseen.
#
# Two sources of mutants. The buggy variants of the pairs are mutants that somebody wrote. The
# others are mechanical, chosen by the type that the question is annotated with, since those need no
# thought and leave out no question: a question that returns None does nothing, or acts twice; one
# that returns a bool returns the opposite, or a constant; `_CONSTANTS` has the constants of other
# types. A mechanical mutant that the reference or a buggy variant of that question already is,
# judged by its source, is left out: it would count twice (`_mechanical_label`).
#
# Equivalent mutants exist here as everywhere: acting twice makes no difference where the first time
# ends the object that the second one would act on. `EQUIVALENT` lists them by hand, each with its
# reason, since equivalence cannot be computed. A listed mutant that is killed after all refutes its
# reason, so the claim is two-sided (`MutantResult.holds`): killed exactly if it is not listed.
#
# All mutants run the same sequences: the minimal sequences of all pairs, which reach the rare
# states, and random ones. Hypothesis is not needed, because nothing is shrunk.

from __future__ import annotations

import ast
import inspect
import textwrap
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from muxleak.introspect.syntax import parse
from muxleak_scenarios.pairs.registry import load_pairs
from muxleak_scenarios.sequence.decoder import random_sequence
from muxleak_scenarios.sequence.properties import PROPERTIES
from muxleak_scenarios.targets.run import run_sequence
from muxleak_vless.lifecycle import Lifecycle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from muxleak_scenarios.sequence.steps import Sequence

SEQUENCES = 100
"""Random sequences, of about 15 connections each, that every mutant runs."""
QUESTIONS = tuple(name for name in vars(Lifecycle) if not name.startswith("_"))
NOTHING, TWICE, OPPOSITE = "does nothing", "does it twice", "returns the opposite"
_CONSTANTS: Mapping[str, tuple[object, ...]] = {
    "bool": (True, False),
    "Context | None": (None,),
    "list[bytes]": ([],),
}
"""Constants that a mutant can return, by the annotated return type of the question."""
_ENDS_ONCE = "what has ended is not ended again"
_LOGGED = "only the log tells whether a failure was reported, and how often"
_CANCELLED = "two cancellations in one iteration are one, and a stream fails once"
EQUIVALENT: Mapping[tuple[str, str], str] = {
    ("receive_ended", TWICE): "the second cleanup does not act, and a context ends once",
    ("release", TWICE): _CANCELLED,
    ("release_failed", NOTHING): _LOGGED,
    ("release_failed", TWICE): _LOGGED,
    ("end_link", TWICE): _ENDS_ONCE,
    ("id_reused", TWICE): _CANCELLED,
    ("make_room", TWICE): "there is room after the first time",
    ("peer_ended", TWICE): _ENDS_ONCE,
    ("handler_ended", TWICE): "a closed stream no longer owns its id, so its End is sent once",
    ("forget", TWICE): "the entry is already removed",
    ("stalled", TWICE): _ENDS_ONCE,
    ("idle", TWICE): _ENDS_ONCE,
    (
        "join",
        TWICE,
    ): "an ended handler is not waited for; one that ignores it is, for two more limits",
    ("hang_up", TWICE): _ENDS_ONCE,
}
"""Equivalent mutants, by question and label, each with the reason why nothing differs."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """The reference with one question answered in another way.

    Attributes:
        question: the method of `Lifecycle` that differs.
        label: the pair whose buggy variant it is, or the mechanical change.
        lifecycle: the whole life cycle, to be instantiated.
    """

    question: str
    label: str
    lifecycle: type[Lifecycle]

    @property
    def equivalent(self) -> str:
        """The reason why it is an equivalent mutant, or "" if it is none."""
        return EQUIVALENT.get((self.question, self.label), "")


@dataclass(frozen=True, slots=True)
class MutantResult:
    """The number of sequences on which a mutant violated each property."""

    mutant: Mutant
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def killed(self) -> bool:
        """True if at least one sequence violated a property; False if the mutant survived."""
        return bool(self.counts)

    @property
    def holds(self) -> bool:
        """True if an equivalent mutant survived, or any other one was killed."""
        return self.killed is not bool(self.mutant.equivalent)

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "question": self.mutant.question,
            "answer": self.mutant.label,
            "noticed": {name: self.counts[name] for name in PROPERTIES if self.counts[name]},
            "equivalent": self.mutant.equivalent or None,
            "holds": self.holds,
        }


def all_mutants() -> list[Mutant]:
    """Return the mutants in the order of the questions; of one question, buggy variants first."""
    pairs = load_pairs().values()
    found = []
    for question in QUESTIONS:
        buggy = [each for each in pairs if each.facts.question == question]
        found += [Mutant(question, each.slug, each.buggy) for each in buggy]
        variants = (Lifecycle, *(each.buggy for each in buggy))
        known = {_mechanical_label(getattr(variant, question)) for variant in variants}
        found += [each for each in _mechanical(question) if each.label not in known]
    return found


def minimal_sequences() -> list[Sequence]:
    """Return the minimal sequences of all pairs and of their wrong fixes, each once."""
    found: dict[Sequence, None] = {}
    for pair in load_pairs().values():
        found |= dict.fromkeys([pair.minimal, *(each.minimal for each in pair.wrong)])
    return list(found)


def mutant_sequences(number: int, seed: int) -> list[Sequence]:
    """Return the sequences that every mutant runs.

    Args:
        number: how many random sequences follow the minimal ones.
        seed: of the random sequences.
    """
    random = Random(seed)  # noqa: S311 - a reproducible search, no secret
    return [*minimal_sequences(), *(random_sequence(random) for _ in range(number))]


def run_mutant(mutant: Mutant, sequences: Iterable[Sequence]) -> MutantResult:
    """Run each sequence against a mutant, and count the violated properties."""
    result = MutantResult(mutant)
    for sequence in sequences:
        result.counts.update(run_sequence(sequence, mutant.lifecycle()).violated)
    return result


def _mechanical(question: str) -> Iterator[Mutant]:
    reference = getattr(Lifecycle, question)
    kind = inspect.signature(reference).return_annotation
    if kind == "None":
        yield _mutant(question, NOTHING, _constant(reference, None))
        if _mechanical_label(reference) != NOTHING:
            yield _mutant(question, TWICE, _twice(reference))
    for value in _CONSTANTS.get(kind, ()):
        yield _mutant(question, f"returns {value!r}", _constant(reference, value))
    if kind == "bool" and not _mechanical_label(reference):
        yield _mutant(question, OPPOSITE, lambda *args: not reference(*args))


def _mutant(question: str, label: str, method: Callable[..., object]) -> Mutant:
    return Mutant(question, label, type(f"Other_{question}", (Lifecycle,), {question: method}))


def _constant(reference: Callable[..., object], value: object) -> Callable[..., object]:
    if not inspect.iscoroutinefunction(reference):
        return lambda *_: value

    async def nothing(*_: object) -> object:
        return value

    return nothing


def _twice(reference: Callable[..., Any]) -> Callable[..., object]:
    if not inspect.iscoroutinefunction(reference):
        return lambda *args: [reference(*args), reference(*args)][0]

    async def twice(*args: object) -> None:
        await reference(*args)
        await reference(*args)

    return twice


def _mechanical_label(method: Callable[..., object]) -> str:
    """Return the label of the mechanical mutant that a method's source amounts to, or ""."""
    (function,) = parse(textwrap.dedent(inspect.getsource(method))).body
    if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
        raise TypeError(f"expected a method, got {method!r}")
    body = [each for each in function.body[1:] if not isinstance(each, ast.Delete)]
    match body:
        case []:
            return NOTHING
        case [ast.Return(value=ast.Constant(value=value))]:
            return f"returns {value!r}"
    return ""
