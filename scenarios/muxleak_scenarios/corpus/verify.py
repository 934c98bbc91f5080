"""Proves every claim that a case makes."""

# Nothing that the facts of a case say is believed. For each case:
#
#   sources           no variant imports anything but the standard library, buggy and fixed differ
#                     in one hunk, and their modules have the same docstring
#   minimal sequence  the buggy variant violates the properties in the facts and no others, and the
#                     fixed variant none
#   search            a search that does not know the minimal sequence violates those properties,
#                     and shrinks to no more steps
#   needs             a search that lets the loop settle after every step finds the bug if, and only
#                     if, the facts do not say that a gap is needed
#   fixed variant     it violates nothing on random sequences; so does a negative control
#
# A wrong fix must repair the minimal sequence of its case and break something else, on a sequence
# of its own, which the search must find as well. All is the same for the same seed.

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

from muxleak.introspect.syntax import parse
from muxleak.search.search import search
from muxleak_scenarios.corpus.steps import parse_steps, steps_in_notation
from muxleak_scenarios.corpus.subject import CaseSubject

if TYPE_CHECKING:
    from muxleak.search import Finding
    from muxleak_scenarios.corpus import CaseFacts, WrongFixFacts
    from muxleak_scenarios.corpus.registry import CorpusCase
    from muxleak_scenarios.corpus.subject import CaseOutcome

FIXED_SEQUENCES = 1_000
"""Random sequences on which a fixed variant or a control must hold."""
_SHORT = 300  # random sequences with settled steps that must not show a bug which needs a gap


@dataclass(slots=True)
class CaseVerdict:
    """The result of proving a case.

    Attributes:
        slug: the case.
        violated: the properties that each variant violated on its minimal sequence.
        found: for each variant that fails, the finding of the search.
        broken: the claims that do not hold, each with the expected and the found value.
    """

    slug: str
    violated: dict[str, tuple[str, ...]] = field(default_factory=dict)
    found: dict[str, Finding[CaseOutcome] | None] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """True if every claim holds."""
        return not self.broken

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "case": self.slug,
            "holds": self.holds,
            "violated": {name: list(each) for name, each in self.violated.items()},
            "found": {
                name: None
                if found is None
                else {
                    "sequences": found.examples,
                    "minimal": steps_in_notation(found.outcome.sequence),
                }
                for name, found in self.found.items()
            },
            "broken": self.broken,
        }


def verify_case(
    case: CorpusCase, *, seed: int = 0, fixed_sequences: int = FIXED_SEQUENCES
) -> CaseVerdict:
    """Prove every claim of a case.

    Args:
        case: the case.
        seed: of the searches.
        fixed_sequences: random sequences for the fixed variant.
    """
    verdict = CaseVerdict(case.slug)
    _check_sources(case, verdict)
    if case.buggy is not None:
        _check_fails(case, "buggy", case.facts, verdict, seed)
    for name, wrong in (case.facts.wrong or {}).items():
        _check_fails(case, name, wrong, verdict, seed)
        repaired = _perform(case, name, case.facts.minimal)
        if same := set(repaired) & set(case.facts.fails):
            verdict.broken.append(
                f"{name}: expected no {sorted(same)} on {case.facts.minimal}, got it"
            )
    verdict.violated["fixed"] = _perform(case, "fixed", case.facts.minimal)
    if verdict.violated["fixed"]:
        verdict.broken.append(f"fixed: expected clean, got {verdict.violated['fixed']}")
    found = search(CaseSubject(case, "fixed"), examples=fixed_sequences, seed=seed)
    if found is not None:
        verdict.broken.append(
            f"fixed: expected clean, got {found.outcome.violated}: {found.replay.line}"
        )
    return verdict


def _check_fails(
    case: CorpusCase,
    variant: str,
    facts: CaseFacts | WrongFixFacts,
    verdict: CaseVerdict,
    seed: int,
) -> None:
    """Check that a variant fails as its facts say, and that the search finds it."""
    verdict.violated[variant] = _perform(case, variant, facts.minimal)
    if verdict.violated[variant] != facts.fails:
        verdict.broken.append(
            f"{variant}: expected {facts.fails} on {facts.minimal}, got {verdict.violated[variant]}"
        )
    if facts is not case.facts and (others := _perform(case, "fixed", facts.minimal)):
        verdict.broken.append(f"fixed: expected clean on {facts.minimal}, got {others}")
    counted = frozenset(facts.fails)
    subject = CaseSubject(case, variant, counted)
    found = search(subject, examples=case.facts.examples, seed=seed)
    verdict.found[variant] = found
    if found is None:
        verdict.broken.append(
            f"{variant}: search: nothing found in {case.facts.examples:,} sequences, seed {seed}"
        )
    elif len(found.outcome.sequence) > len(parse_steps(facts.minimal)):
        verdict.broken.append(
            f"{variant}: search: expected no more steps than {facts.minimal}, "
            f"got {steps_in_notation(found.outcome.sequence)}"
        )
    settled = CaseSubject(case, variant, counted, settled=True)
    examples = _SHORT if facts.needs == "gap" else case.facts.examples
    if (search(settled, examples=examples, seed=seed, shrinking=False) is None) != (
        facts.needs == "gap"
    ):
        got = "found without" if facts.needs == "gap" else "not found without"
        verdict.broken.append(f"{variant}: needs: expected {facts.needs!r}, {got} gaps")


def _perform(case: CorpusCase, variant: str, minimal: str) -> tuple[str, ...]:
    return CaseSubject(case, variant).perform(parse_steps(minimal)).violated


def _check_sources(case: CorpusCase, verdict: CaseVerdict) -> None:
    trees = {name: parse(case.source(name)) for name in case.variants}
    for name, tree in trees.items():
        if others := _imports(tree) - sys.stdlib_module_names:
            verdict.broken.append(f"{name}: expected the standard library only, got {others}")
        if ast.get_docstring(tree) != ast.get_docstring(trees["fixed"]):
            verdict.broken.append(f"{name}: expected the docstring of the fixed variant")
    if case.buggy is not None and (hunks := _hunks(case)) != 1:
        verdict.broken.append(f"variants: expected a difference of one hunk, got {hunks}")


def _imports(tree: ast.Module) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0] if not node.level else ".")
    return found - {"__future__"}


def _hunks(case: CorpusCase) -> int:
    """Return the number of hunks of the diff, in which changes a line apart count as one."""
    buggy, fixed = (case.source(each).splitlines() for each in ("buggy", "fixed"))
    matcher = SequenceMatcher(None, buggy, fixed, autojunk=False)
    return sum(1 for _ in matcher.get_grouped_opcodes(1))
