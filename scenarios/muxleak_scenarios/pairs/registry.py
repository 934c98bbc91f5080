"""Finds the pairs, their variants and their wrong fixes."""

# Discovery is by place. Every package under `muxleak_vless.bugs` is a pair, and nothing else is:
# its `FACTS` are the facts, `buggy.py` and `fixed.py` the variants, and every module `wrong_*` a
# wrong fix with facts of its own. So adding a pair adds a folder and edits no list. Each module of
# a variant must define exactly one subclass of `Lifecycle`; anything else is an error at load, not
# a silent gap.
#
# Loading imports all of them, so it happens once, at the first use. The flagship comes first.

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
from muxleak.files import shown
from muxleak_scenarios.sequence.steps import Sequence
from muxleak_vless.lifecycle import Lifecycle

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType

    from muxleak_vless.bugs import Facts, WrongFix

VARIANTS = ("buggy", "fixed")
_LONGEST = 100  # characters of a word that may be a slip of a name
_WRONG = "wrong_"


@dataclass(frozen=True, slots=True)
class WrongVariant:
    """A fix that repairs its pair's bug and breaks something else.

    Attributes:
        name: of its module, ``wrong_NAME``.
        facts: the properties that it breaks, and its origin.
        lifecycle: the reference with its wrong answers.
    """

    name: str
    facts: WrongFix
    lifecycle: type[Lifecycle]

    @property
    def minimal(self) -> Sequence:
        """The shortest known sequence on which it breaks something."""
        return Sequence.parse(self.facts.minimal)

    @property
    def questions(self) -> tuple[str, ...]:
        """The questions that it does not answer as the reference does, in the order of that."""
        return tuple(
            name
            for name, answer in vars(Lifecycle).items()
            if not name.startswith("_") and getattr(self.lifecycle, name) is not answer
        )


@dataclass(frozen=True, slots=True)
class Pair:
    """A bug with its buggy and its fixed variant, each the reference with one question overridden.

    Attributes:
        slug: its name, that of its folder.
        facts: title, origin, minimal sequence and claims.
        buggy: the buggy variant.
        fixed: the fixed variant.
        wrong: wrong fixes, if any are known.
    """

    slug: str
    facts: Facts
    buggy: type[Lifecycle]
    fixed: type[Lifecycle]
    wrong: tuple[WrongVariant, ...] = ()

    @property
    def variants(self) -> tuple[str, ...]:
        """The names that `variant` accepts: "buggy", "fixed", and the wrong fixes."""
        return (*VARIANTS, *(each.name for each in self.wrong))

    @property
    def minimal(self) -> Sequence:
        """The shortest known sequence on which only the buggy variant fails."""
        return Sequence.parse(self.facts.minimal)

    @property
    def readme(self) -> str:
        """The text of the README in the pair's folder."""
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
            KeyError: there is none of that name.
        """
        wrong = {each.name: each.lifecycle for each in self.wrong}
        return {"buggy": self.buggy, "fixed": self.fixed, **wrong}[name]


class UnknownPairError(ValueError):
    """A word means no pair; the message lists all of them."""


class AmbiguousPairError(UnknownPairError):
    """A word is the beginning of several pairs' names; the message lists them."""


@cache
def load_pairs() -> dict[str, Pair]:
    """Return all pairs by name, the flagship first."""
    slugs = [
        module.name for module in pkgutil.iter_modules(muxleak_vless.bugs.__path__) if module.ispkg
    ]
    slugs.sort(key=lambda slug: (slug != FLAGSHIP, slug))
    return {slug: _load(slug) for slug in slugs}


def find_pair(word: str) -> Pair:
    """Return the pair that a word means.

    Args:
        word: a pair's name or one of its `Facts.aliases`, or the beginning of exactly one name.
            A number may follow a "#", case does not matter, and "-" stands for "_".

    Raises:
        UnknownPairError: no pair is meant.
        AmbiguousPairError: more than one is.
    """
    pairs = load_pairs()
    name = word.removeprefix("#").lower().replace("-", "_")
    aliases = {alias: slug for slug, pair in pairs.items() for alias in pair.facts.aliases}
    if (slug := aliases.get(name, name)) in pairs:
        return pairs[slug]
    # The empty word begins every name, so a list of candidates would be the list of all pairs.
    candidates = [slug for slug in pairs if name and slug.startswith(name)]
    if len(candidates) == 1:
        return pairs[candidates[0]]
    if candidates:
        raise AmbiguousPairError(
            f"expected the beginning of one pair, got {word!r}, which begins "
            f"{', '.join(candidates[:-1])} and {candidates[-1]}"
        )
    raise UnknownPairError(
        f"expected one of {', '.join(pairs)}; got {shown(word)}{did_you_mean(name, pairs)}"
    )


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: "; did you mean 'show'?", or ""."""
    if len(word) > _LONGEST:
        return ""
    names = list(names)
    # Names begin with different words, so a beginning with a slip in it names one well enough.
    starts = {name[: len(word)]: name for name in reversed(names) if word}
    close = difflib.get_close_matches(word, names, n=1) or [
        starts[start] for start in difflib.get_close_matches(word, starts, n=1, cutoff=0.75)
    ]
    return f"; did you mean {close[0]!r}?" if close else ""


FLAGSHIP = "watcher_outlives_connection"


def _load(slug: str) -> Pair:
    package = import_module(f"muxleak_vless.bugs.{slug}")
    buggy, fixed = (
        _lifecycle(import_module(f"{package.__name__}.{variant}")) for variant in VARIANTS
    )
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    wrong = [_load_wrong(package, name) for name in names if name.startswith(_WRONG)]
    return Pair(slug, package.FACTS, buggy, fixed, tuple(wrong))


def _load_wrong(package: ModuleType, name: str) -> WrongVariant:
    module = import_module(f"{package.__name__}.{name}")
    return WrongVariant(name, module.FACTS, _lifecycle(module))


def _lifecycle(module: ModuleType) -> type[Lifecycle]:
    found = [
        each
        for _, each in inspect.getmembers(module, inspect.isclass)
        if issubclass(each, Lifecycle) and each.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise TypeError(f"{module.__name__}: expected one subclass of Lifecycle, got {len(found)}")
    return found[0]
