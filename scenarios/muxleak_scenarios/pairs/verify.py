"""Proves every claim that a pair makes."""

# A pair states its facts (`muxleak_vless.bugs.Facts`), and nothing of them is believed. For each
# pair:
#
#   sources          each variant answers exactly the question that the facts name; both classes
#                    have one name, so that their diff shows the answer only, in at most
#                    `MAX_DIFF` lines; the fixed variant's method is the reference's, word for word
#   minimal sequence at each target the buggy variant violates the properties in the facts and no
#                    others, and the fixed variant none; if the facts say that a gap is needed, and
#                    only then, the same steps violate nothing when the target settles after each
#   search           a search that does not know the minimal sequence violates those properties,
#                    and shrinks to no more steps (closes are not counted); so the minimal sequence
#                    is the shortest known, and the bug can be found by chance
#   fixed variant    it violates nothing on `FIXED_SEQUENCES` random sequences
#
# A wrong fix must repair its pair's minimal sequence at each target, and break something else, on a
# sequence of its own, which the search must find as well.
#
# Everything but the runs over TCP is the same for the same seed. Properties that a target cannot
# observe are not expected there.

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from muxleak_scenarios.pairs.search import find_violation
from muxleak_scenarios.sequence.decoder import random_sequence
from muxleak_scenarios.sequence.steps import Sequence
from muxleak_scenarios.targets.run import run_sequence
from muxleak_scenarios.targets.simulated import SimTarget
from muxleak_scenarios.targets.tcp import TcpTarget
from muxleak_vless.lifecycle import Lifecycle

if TYPE_CHECKING:
    from collections.abc import Callable

    from muxleak.search import Finding
    from muxleak_scenarios.pairs.registry import Pair, WrongVariant
    from muxleak_scenarios.pairs.subject import SequenceRunOutcome

SEARCH_EXAMPLES = 2000
"""Sequences in which the search must find the bug."""
FIXED_SEQUENCES = 300
"""Random sequences, of about 15 connections each, on which the fixed variant must hold."""
MAX_DIFF = 15
"""Lines in the diff of the variants."""


@dataclass(slots=True)
class Verdict:
    """The result of proving a pair or a wrong fix.

    Attributes:
        slug: the pair, or ``PAIR/wrong_NAME``.
        buggy: properties that the buggy variant, or the wrong fix, violated.
        fixed: properties that the fixed variant violated; must be empty.
        found: the violation that the search found.
        connections: how many connections the fixed variant served without a violation.
        broken: the claims that do not hold, each with the expected and the found value.
    """

    slug: str
    buggy: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    found: Finding[SequenceRunOutcome] | None = None
    connections: int = 0
    broken: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """True if every claim holds."""
        return not self.broken

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON; ``fixed`` is "clean" or the violated properties."""
        found = self.found
        return {
            "pair": self.slug,
            "holds": self.holds,
            "buggy": list(self.buggy),
            "fixed": "clean" if not self.fixed else list(self.fixed),
            "found_at": None
            if found is None
            else {"sequences": found.examples, "connections": found.connections},
            "minimal": None if found is None else str(found.outcome.sequence),
            "fixed_connections": self.connections,
            "broken": self.broken,
        }


def verify(
    pair: Pair,
    *,
    seed: int = 0,
    fixed_sequences: int = FIXED_SEQUENCES,
    progress: Callable[[str], None] | None = None,
) -> Verdict:
    """Prove every claim of a pair.

    Args:
        pair: the pair.
        seed: of the search and of the random sequences.
        fixed_sequences: random sequences for the fixed variant.
        progress: called with a phrase for each claim, before its proof.
    """
    verdict = Verdict(pair.slug)
    say = progress or _silent
    say("compares the variants")
    _check_sources(pair, verdict)
    say("runs the minimal sequence")
    _check_minimal(pair, verdict)
    say("searches the buggy variant")
    _check_search(pair.buggy, pair.minimal, pair.facts.fails, verdict, seed)
    say("runs the fixed variant")
    _check_fixed(pair, verdict, seed, fixed_sequences)
    return verdict


def verify_wrong(pair: Pair, wrong: WrongVariant, *, seed: int = 0) -> Verdict:
    """Prove that a wrong fix repairs its pair's bug and breaks the properties that it names."""
    verdict = Verdict(f"{pair.slug}/{wrong.name}")
    fails = wrong.facts.fails
    if (wrong.facts.minimal, fails) == (pair.facts.minimal, pair.facts.fails):
        verdict.broken.append(
            "facts: expected another minimal sequence or property than the buggy variant's"
        )
    for target in (SimTarget, TcpTarget):
        repaired = run_sequence(pair.minimal, wrong.lifecycle(), target).violated
        if same := set(repaired) & set(pair.facts.fails):
            verdict.broken.append(f"repaired: expected no {sorted(same)} on {pair.minimal}")
    _check_tells_apart(verdict, wrong.minimal, fails, buggy=wrong.lifecycle, fixed=pair.fixed)
    _check_search(wrong.lifecycle, wrong.minimal, fails, verdict, seed)
    return verdict


def reference_holds(*, seed: int = 0, sequences: int = FIXED_SEQUENCES) -> list[str]:
    """Run random sequences against the reference; return the violations, each with its replay."""
    return _run_random(Lifecycle, "REF", seed, sequences)[1]


def _check_sources(pair: Pair, verdict: Verdict) -> None:
    question = pair.facts.question
    changed = [line for line in pair.diff().splitlines()[2:] if line[0] in "+-"]
    if len(changed) > MAX_DIFF:
        verdict.broken.append(f"diff: expected at most {MAX_DIFF} lines, got {len(changed)}")
    answers = {variant: _answers(pair.variant(variant)) for variant in ("buggy", "fixed")}
    for variant, names in answers.items():
        if names != [question]:
            verdict.broken.append(
                f"{variant} variant: expected to answer {question!r}, got {names}"
            )
    if pair.buggy.__name__ != pair.fixed.__name__:
        verdict.broken.append("variants: expected the same class name")
    if not hasattr(Lifecycle, question):
        verdict.broken.append(f"question: expected one of the reference's, got {question!r}")
        return
    ours, reference = (
        inspect.getsource(getattr(each, question)) for each in (pair.fixed, Lifecycle)
    )
    if ours != reference:
        verdict.broken.append(f"fixed variant: {question!r} is not the reference's, word for word")


def _check_minimal(pair: Pair, verdict: Verdict) -> None:
    _check_tells_apart(verdict, pair.minimal, pair.facts.fails, buggy=pair.buggy, fixed=pair.fixed)
    settled = Sequence(step._replace(gap=None) for step in pair.minimal)
    needs_gap = settled != pair.minimal and not run_sequence(settled, pair.buggy()).violated
    if needs_gap != pair.facts.needs_gap:
        verdict.broken.append(f"needs a gap: expected {pair.facts.needs_gap}, got {needs_gap}")


def _check_tells_apart(
    verdict: Verdict, minimal: Sequence, fails: tuple[str, ...], **variants: type[Lifecycle]
) -> None:
    for target in (SimTarget, TcpTarget):
        expected = tuple(name for name in fails if name not in target.unobservable)
        if not expected:
            continue
        seen = {
            name: run_sequence(minimal, variant(), target).violated
            for name, variant in variants.items()
        }
        where = f"minimal sequence in {target.__name__}"
        if seen["buggy"] != expected:
            verdict.broken.append(f"{where}: buggy: expected {expected}, got {seen['buggy']}")
        if seen["fixed"]:
            verdict.broken.append(f"{where}: fixed: expected clean, got {seen['fixed']}")
        verdict.fixed = tuple(dict.fromkeys((*verdict.fixed, *seen["fixed"])))
        verdict.buggy = tuple(dict.fromkeys((*verdict.buggy, *seen["buggy"])))


def _check_search(
    buggy: type[Lifecycle], minimal: Sequence, fails: tuple[str, ...], verdict: Verdict, seed: int
) -> None:
    properties = frozenset(fails)
    found = find_violation(buggy, properties=properties, examples=SEARCH_EXAMPLES, seed=seed)
    verdict.found = found
    if found is None:
        verdict.broken.append(f"search: nothing found in {SEARCH_EXAMPLES} sequences, seed {seed}")
    elif length(found.outcome.sequence) > length(minimal):
        verdict.broken.append(
            f"search: expected at most {len(minimal)} steps, got {found.outcome.sequence}"
        )
    elif not set(found.outcome.violated) & properties:
        verdict.broken.append(
            f"search: expected {fails}, got {found.outcome.violated}: {found.outcome.sequence}"
        )


def _check_fixed(pair: Pair, verdict: Verdict, seed: int, sequences: int) -> None:
    name = f"{pair.slug}/fixed"
    verdict.connections, violated = _run_random(pair.fixed, name, seed, sequences)
    verdict.broken += violated
    if violated:
        verdict.fixed = (*verdict.fixed, *(line.partition(":")[0] for line in violated))


def _run_random(
    lifecycle: Callable[[], Lifecycle], name: str, seed: int, sequences: int
) -> tuple[int, list[str]]:
    # Not drawn by Hypothesis: nothing has to be shrunk, and random bytes cost a tenth.
    random = Random(seed)  # noqa: S311 - a reproducible search, no secret
    connections = 0
    for _ in range(sequences):
        sequence = random_sequence(random)
        outcome = run_sequence(sequence, lifecycle())
        connections += outcome.connections
        if outcome.violations:
            return connections, [f"{outcome.violations[0]}; replay: {name} {sequence}"]
    return connections, []


def length(sequence: Sequence) -> int:
    """Return the number of steps without closes, which end every run anyway."""
    return sum(step.verb != "close" for step in sequence)


def _answers(variant: type[Lifecycle]) -> list[str]:
    return [name for name in vars(variant) if not name.startswith("__")]


def _silent(_: str) -> None:
    pass
