"""Finds the pairs: every folder under ``muxleak_vless.bugs``, and nothing else, is one.

Every module ``wrong_*`` in such a folder, and nothing else, is a wrong fix of its pair.
"""

from __future__ import annotations

import difflib
import inspect
import pkgutil
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.resources import files
from typing import TYPE_CHECKING

import muxleak_vless.bugs
from muxleak_scenarios.sequence.steps import Sequence
from muxleak_vless.lifecycle import Lifecycle

if TYPE_CHECKING:
    from types import ModuleType

    from muxleak_vless.bugs import Facts, WrongFix

VARIANTS = ("buggy", "fixed")
_WRONG = "wrong_"


@dataclass(frozen=True, slots=True)
class WrongVariant:
    """A fix that repaired its pair's bug and broke something else, under its module's name."""

    name: str
    facts: WrongFix
    lifecycle: type[Lifecycle]

    @property
    def minimal(self) -> Sequence:
        """A sequence that shows what it breaks."""
        return Sequence.parse(self.facts.minimal)

    @property
    def questions(self) -> tuple[str, ...]:
        """The questions that it answers otherwise than the reference, in the reference's order."""
        return tuple(
            name
            for name, answer in vars(Lifecycle).items()
            if not name.startswith("_") and getattr(self.lifecycle, name) is not answer
        )


@dataclass(frozen=True, slots=True)
class Pair:
    """A bug with its two variants, each the reference with one question answered anew.

    ``wrong`` are the fixes that were tried first, if any.
    """

    slug: str
    facts: Facts
    buggy: type[Lifecycle]
    fixed: type[Lifecycle]
    wrong: tuple[WrongVariant, ...] = ()

    @property
    def variants(self) -> tuple[str, ...]:
        """What `variant` takes: both variants, and the wrong fixes."""
        return (*VARIANTS, *(each.name for each in self.wrong))

    @property
    def minimal(self) -> Sequence:
        """The shortest known sequence that tells the variants apart."""
        return Sequence.parse(self.facts.minimal)

    @property
    def story(self) -> str:
        """The pair's README."""
        return files(f"muxleak_vless.bugs.{self.slug}").joinpath("README.md").read_text("utf-8")

    def source(self, variant: str) -> str:
        """Return the source of ``buggy.py``, ``fixed.py`` or a wrong fix."""
        return files(f"muxleak_vless.bugs.{self.slug}").joinpath(f"{variant}.py").read_text("utf-8")

    def diff(self) -> str:
        """Return the unified diff from the buggy variant to the fixed one."""
        buggy, fixed = (self.source(variant).splitlines(keepends=True) for variant in VARIANTS)
        return "".join(difflib.unified_diff(buggy, fixed, "buggy.py", "fixed.py", n=1))

    def variant(self, name: str) -> type[Lifecycle]:
        """Return one of the `variants`.

        Raises:
            KeyError: if there is none of that name.
        """
        wrong = {each.name: each.lifecycle for each in self.wrong}
        return {"buggy": self.buggy, "fixed": self.fixed, **wrong}[name]


class UnknownPairError(ValueError):
    """There is no pair of that name; the message lists those that there are."""


@cache
def load_pairs() -> dict[str, Pair]:
    """Return all pairs by name, the flagship first."""
    slugs = [
        module.name for module in pkgutil.iter_modules(muxleak_vless.bugs.__path__) if module.ispkg
    ]
    slugs.sort(key=lambda slug: (slug != FLAGSHIP, slug))
    return {slug: _load(slug) for slug in slugs}


def find_pair(slug: str) -> Pair:
    """Return one pair.

    Raises:
        UnknownPairError: if there is none of that name.
    """
    pairs = load_pairs()
    if slug not in pairs:
        close = difflib.get_close_matches(slug, pairs, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UnknownPairError(f"expected one of {', '.join(pairs)}; got {slug!r}{hint}")
    return pairs[slug]


FLAGSHIP = "watcher_outlives_connection"


def _load(slug: str) -> Pair:
    package = import_module(f"muxleak_vless.bugs.{slug}")
    buggy, fixed = (_answer(import_module(f"{package.__name__}.{variant}")) for variant in VARIANTS)
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    wrong = [_load_wrong(package, name) for name in names if name.startswith(_WRONG)]
    return Pair(slug, package.FACTS, buggy, fixed, tuple(wrong))


def _load_wrong(package: ModuleType, name: str) -> WrongVariant:
    module = import_module(f"{package.__name__}.{name}")
    return WrongVariant(name, module.FACTS, _answer(module))


def _answer(module: ModuleType) -> type[Lifecycle]:
    found = [
        each
        for _, each in inspect.getmembers(module, inspect.isclass)
        if issubclass(each, Lifecycle) and each.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise TypeError(f"{module.__name__}: expected one subclass of Lifecycle, got {len(found)}")
    return found[0]
