"""Answers by properties: which property notices when a question of the life cycle is answered so?

The answers are those of the buggy variants and *mechanical* ones: doing nothing, doing it twice,
the opposite, every constant that the question's type allows. One that no property notices is a hole
in the properties or in the sequences, unless it amounts to the reference's own.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from muxleak_scenarios.pairs.registry import load_pairs
from muxleak_scenarios.sequence.decoder import WIDTH, decode
from muxleak_scenarios.sequence.properties import PROPERTIES
from muxleak_scenarios.sequence.strategies import STEPS
from muxleak_scenarios.targets.run import run_sequence
from muxleak_vless.lifecycle import Lifecycle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from muxleak_scenarios.sequence.steps import Sequence

SEQUENCES = 100
"""Random sequences, of about 15 connections each, that every answer is driven through."""
QUESTIONS = tuple(name for name in vars(Lifecycle) if not name.startswith("_"))
NOTHING, TWICE, OPPOSITE = "does nothing", "does it twice", "returns the opposite"
_CONSTANTS: Mapping[str, tuple[object, ...]] = {
    "bool": (True, False),
    "Context | None": (None,),
    "list[bytes]": ([],),
}
"""By the type that a question is annotated with, what else can be returned without knowing more."""
_STATE = "what has ended is not ended again"
_CANCELLED = "two cancellations in one instant are one, and a stream fails once"
EQUIVALENT: Mapping[tuple[str, str], str] = {
    ("receive_ended", TWICE): "the second cleanup does not act, and a context ends once",
    ("release", TWICE): _CANCELLED,
    ("end_link", TWICE): _STATE,
    ("id_reused", TWICE): _CANCELLED,
    ("peer_ended", TWICE): _STATE,
    ("handler_ended", TWICE): "a closed stream owns its id no longer, so its peer is told once",
    ("forget", TWICE): "the entry has gone",
    ("stalled", TWICE): _STATE,
    ("idle", TWICE): _STATE,
    ("join", TWICE): "who has ended is not waited for; who ignores it, for another two limits",
    ("hang_up", TWICE): _STATE,
}
"""Answers that differ from the reference's in nothing that can be seen, each with the reason."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Another answer to a question; ``label`` is a pair's name, or says what it does."""

    question: str
    label: str
    lifecycle: type[Lifecycle]

    @property
    def equivalent(self) -> str:
        """Why it amounts to the reference's, if it is known to; else empty."""
        return EQUIVALENT.get((self.question, self.label), "")


@dataclass(frozen=True, slots=True)
class Noticed:
    """How many of the sequences violated each property under an answer."""

    answer: Answer
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def holds(self) -> bool:
        """Whether it was noticed exactly if it is to be."""
        return bool(self.counts) is not bool(self.answer.equivalent)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "question": self.answer.question,
            "answer": self.answer.label,
            "noticed": {name: self.counts[name] for name in PROPERTIES if self.counts[name]},
            "equivalent": self.answer.equivalent or None,
            "holds": self.holds,
        }


def other_answers() -> list[Answer]:
    """Return all of them, in the order of the questions, the buggy variants' first."""
    pairs = load_pairs().values()
    found = []
    for question in QUESTIONS:
        buggy = [each for each in pairs if each.facts.question == question]
        found += [Answer(question, each.slug, each.buggy) for each in buggy]
        variants = (Lifecycle, *(each.buggy for each in buggy))
        known = {_in_words(getattr(variant, question)) for variant in variants}
        found += [each for each in _mechanical(question) if each.label not in known]
    return found


def witnesses() -> list[Sequence]:
    """Return the minimal sequences of all pairs and their wrong fixes, each once."""
    found: dict[Sequence, None] = {}
    for pair in load_pairs().values():
        found |= dict.fromkeys([pair.minimal, *(each.minimal for each in pair.wrong)])
    return list(found)


def sequences(number: int, seed: int) -> list[Sequence]:
    """Return the minimal sequences and so many random sequences."""
    random = Random(seed)  # noqa: S311 - a reproducible search, no secret
    return [*witnesses(), *(decode(random.randbytes(WIDTH * STEPS)) for _ in range(number))]


def notice(answer: Answer, subjects: Iterable[Sequence]) -> Noticed:
    """Run sequences under an answer."""
    noticed = Noticed(answer)
    for sequence in subjects:
        noticed.counts.update(run_sequence(sequence, answer.lifecycle()).violated)
    return noticed


def _mechanical(question: str) -> Iterator[Answer]:
    right = getattr(Lifecycle, question)
    kind = inspect.signature(right).return_annotation
    if kind == "None":
        yield _answer(question, NOTHING, _constant(right, None))
        if _in_words(right) != NOTHING:
            yield _answer(question, TWICE, _twice(right))
    for value in _CONSTANTS.get(kind, ()):
        yield _answer(question, f"returns {value!r}", _constant(right, value))
    if kind == "bool" and not _in_words(right):
        yield _answer(question, OPPOSITE, lambda *args: not right(*args))


def _answer(question: str, label: str, method: Callable[..., object]) -> Answer:
    return Answer(question, label, type(f"Other_{question}", (Lifecycle,), {question: method}))


def _constant(right: Callable[..., object], value: object) -> Callable[..., object]:
    if not inspect.iscoroutinefunction(right):
        return lambda *_: value

    async def nothing(*_: object) -> object:
        return value

    return nothing


def _twice(right: Callable[..., Any]) -> Callable[..., object]:
    if not inspect.iscoroutinefunction(right):
        return lambda *args: [right(*args), right(*args)][0]

    async def twice(*args: object) -> None:
        await right(*args)
        await right(*args)

    return twice


def _in_words(method: Callable[..., object]) -> str:
    """Say what a method does if it is one of the mechanical answers, written by hand; else ""."""
    (function,) = ast.parse(textwrap.dedent(inspect.getsource(method))).body
    if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
        raise TypeError(f"expected a method, got {method!r}")
    body = [each for each in function.body[1:] if not isinstance(each, ast.Delete)]
    match body:
        case []:
            return NOTHING
        case [ast.Return(value=ast.Constant(value=value))]:
            return f"returns {value!r}"
    return ""
