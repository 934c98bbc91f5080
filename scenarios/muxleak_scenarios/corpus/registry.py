"""Finds the cases, their variants and their wrong fixes, by their place."""

from __future__ import annotations

import difflib
import inspect
import pkgutil
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import muxleak_scenarios.corpus
from muxleak_scenarios.corpus import CLASSES, NEEDS, CaseFacts
from muxleak_scenarios.corpus.properties import CASE_PROPERTIES
from muxleak_scenarios.corpus.steps import parse_steps

if TYPE_CHECKING:
    from types import ModuleType

    from muxleak_scenarios.corpus import WrongFixFacts

_WRONG = "wrong_"


@dataclass(frozen=True, slots=True)
class CorpusCase:
    """A case with the classes of its variants.

    Attributes:
        slug: its name, that of its folder.
        facts: its claims.
        buggy: the class of the buggy variant; None for a negative control.
        fixed: the class of the fixed variant, or of the control.
        wrong: the classes of the wrong fixes by the names of their modules.
    """

    slug: str
    facts: CaseFacts
    buggy: type[Any] | None
    fixed: type[Any]
    wrong: dict[str, type[Any]]

    @property
    def is_control(self) -> bool:
        """True for a negative control, which looks like a leak and is none."""
        return self.buggy is None

    @property
    def variants(self) -> dict[str, type[Any]]:
        """The classes by variant: "buggy", "fixed", and the wrong fixes."""
        first = {} if self.buggy is None else {"buggy": self.buggy}
        return {**first, "fixed": self.fixed, **self.wrong}

    @property
    def readme(self) -> str:
        """The text of the README in the folder."""
        return _text(self.slug, "README.md")

    def source(self, variant: str) -> str:
        """Return the source of a variant."""
        return _text(self.slug, f"{variant}.py")

    def diff(self, variant: str = "buggy") -> str:
        """Return the unified diff from a variant to the fixed one; "" for a control."""
        if variant not in self.variants:
            return ""
        one, other = (self.source(each).splitlines(keepends=True) for each in (variant, "fixed"))
        return "".join(difflib.unified_diff(one, other, f"{variant}.py", "fixed.py", n=1))


@cache
def load_cases() -> dict[str, CorpusCase]:
    """Return all cases by name, negative controls last.

    Raises:
        TypeError, ValueError: a folder does not keep the rules of this package.
    """
    found = [
        _load(module.name)
        for module in pkgutil.iter_modules(muxleak_scenarios.corpus.__path__)
        if module.ispkg
    ]
    found.sort(key=lambda case: (case.is_control, case.slug))
    return {case.slug: case for case in found}


def _load(slug: str) -> CorpusCase:
    package = import_module(f"{muxleak_scenarios.corpus.__name__}.{slug}")
    facts = import_module(f"{package.__name__}.case").FACTS
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    variants = {
        name: _only_class(import_module(f"{package.__name__}.{name}"))
        for name in names
        if name in {"buggy", "fixed"} or name.startswith(_WRONG)
    }
    wrong = {name: kind for name, kind in variants.items() if name.startswith(_WRONG)}
    case = CorpusCase(slug, facts, variants.get("buggy"), variants["fixed"], wrong)
    _check(case)
    return case


def _check(case: CorpusCase) -> None:
    facts, wrong = case.facts, case.facts.wrong or {}
    if set(wrong) != set(case.wrong):
        raise ValueError(
            f"{case.slug}: expected facts of the wrong fixes {sorted(case.wrong)}, "
            f"got {sorted(wrong)}"
        )
    claims: list[CaseFacts | WrongFixFacts] = [facts, *wrong.values()]
    for each in claims:
        parse_steps(each.minimal)
        if each.needs not in NEEDS:
            raise ValueError(f"{case.slug}: expected one of {NEEDS}, got {each.needs!r}")
        if unknown := set(each.fails) - set(CASE_PROPERTIES):
            raise ValueError(f"{case.slug}: unknown properties {sorted(unknown)}")
    if case.is_control == bool(facts.fails) or (facts.fault not in CLASSES) != case.is_control:
        raise ValueError(
            f"{case.slug}: expected a fault class and failing properties of a case with a buggy "
            f"variant, and none of a control; got {facts.fault!r}, {facts.fails}"
        )


def _only_class(module: ModuleType) -> type[Any]:
    found = [
        each
        for _, each in inspect.getmembers(module, inspect.isclass)
        if each.__module__ == module.__name__ and "close" in vars(each)
    ]
    if len(found) != 1:
        raise TypeError(
            f"{module.__name__}: expected one class with a method `close`, got {len(found)}"
        )
    return found[0]


def _text(slug: str, name: str) -> str:
    return files(f"{muxleak_scenarios.corpus.__name__}.{slug}").joinpath(name).read_text("utf-8")
