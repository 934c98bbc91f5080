"""Finds the pairs: every folder under ``vless.bugs``, and nothing else, is one."""

from __future__ import annotations

import difflib
import inspect
import pkgutil
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.resources import files
from typing import TYPE_CHECKING

import vless.bugs
from scenarios.steps import Sequence
from vless.lifecycle import Lifecycle

if TYPE_CHECKING:
    from types import ModuleType

    from vless.bugs import Facts


@dataclass(frozen=True, slots=True)
class Pair:
    """A bug with its two halves, each the reference with one question answered anew."""

    slug: str
    facts: Facts
    buggy: type[Lifecycle]
    fixed: type[Lifecycle]

    @property
    def witness(self) -> Sequence:
        """The shortest known sequence that tells the halves apart."""
        return Sequence.parse(self.facts.witness)

    @property
    def story(self) -> str:
        """The pair's README."""
        return files(f"vless.bugs.{self.slug}").joinpath("README.md").read_text("utf-8")

    def source(self, half: str) -> str:
        """Return the source of ``buggy.py`` or ``fixed.py``."""
        return files(f"vless.bugs.{self.slug}").joinpath(f"{half}.py").read_text("utf-8")

    def diff(self) -> str:
        """Return the unified diff from the buggy half to the fixed one."""
        buggy, fixed = (self.source(half).splitlines(keepends=True) for half in ("buggy", "fixed"))
        return "".join(difflib.unified_diff(buggy, fixed, "buggy.py", "fixed.py", n=1))

    def half(self, name: str) -> type[Lifecycle]:
        """Return ``buggy`` or ``fixed``."""
        return self.buggy if name == "buggy" else self.fixed


class UnknownPairError(ValueError):
    """There is no pair of that name; the message lists those that there are."""


@cache
def load_pairs() -> dict[str, Pair]:
    """Return all pairs by name, the flagship first."""
    slugs = [module.name for module in pkgutil.iter_modules(vless.bugs.__path__) if module.ispkg]
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
    package = import_module(f"vless.bugs.{slug}")
    halves = [_answer(import_module(f"vless.bugs.{slug}.{half}")) for half in ("buggy", "fixed")]
    return Pair(slug, package.FACTS, *halves)


def _answer(module: ModuleType) -> type[Lifecycle]:
    found = [
        each
        for _, each in inspect.getmembers(module, inspect.isclass)
        if issubclass(each, Lifecycle) and each.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise TypeError(f"{module.__name__}: expected one subclass of Lifecycle, got {len(found)}")
    return found[0]
