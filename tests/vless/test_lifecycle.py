"""The seam: every question is asked once, and every pair answers exactly one of them."""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import muxleak_vless.bugs
from muxleak.introspect.syntax import parse
from muxleak_vless.bugs import Facts
from muxleak_vless.lifecycle import Lifecycle

if TYPE_CHECKING:
    from types import ModuleType

FOLDER = Path(muxleak_vless.bugs.__file__).parent
PAIRS = sorted(path.parent.name for path in FOLDER.glob("*/buggy.py"))
QUESTIONS = sorted(name for name in vars(Lifecycle) if not name.startswith("_"))
MOST_LINES = 15
VARIANTS = ("buggy", "fixed")


def variant(pair: str, name: str) -> ModuleType:
    """Import one variant of a pair."""
    return importlib.import_module(f"muxleak_vless.bugs.{pair}.{name}")


def answer(module: ModuleType) -> tuple[type[Lifecycle], str]:
    """Return the one class of a variant and the one question it answers."""
    (cls,) = (each for each in vars(module).values() if _is_own_class(each, module))
    (question,) = (name for name in vars(cls) if not name.startswith("_"))
    return cls, question


def _is_own_class(value: object, module: ModuleType) -> bool:
    return isinstance(value, type) and value.__module__ == module.__name__


def source(module: ModuleType) -> str:
    """Return the text of a module."""
    return Path(str(module.__file__)).read_text(encoding="utf-8")


def imports(module: ModuleType) -> list[str]:
    """Return the imports of a module, as text."""
    tree = ast.walk(parse(source(module)))
    return [ast.unparse(node) for node in tree if isinstance(node, ast.Import | ast.ImportFrom)]


def asked(path: Path) -> Counter[str]:
    """Count what is asked of a lifecycle in a file."""
    return Counter(
        node.attr
        for node in ast.walk(parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Attribute)
        and node.value.attr.endswith("lifecycle")
    )


def test_lifecycle_is_asked_each_question_once() -> None:
    """Each question is asked at exactly one place, and nothing else is asked."""
    places = [asked(path) for path in FOLDER.parent.glob("*.py")]

    assert sum(places, Counter()) == dict.fromkeys(QUESTIONS, 1)


def test_lifecycle_is_asked_by_the_session() -> None:
    """The server itself asks only what is asked of connections without a session, too."""
    for path in FOLDER.parent.glob("*.py"):
        allowed = {"session.py": set(QUESTIONS), "inbound.py": {"hang_up"}}.get(path.name, set())
        assert set(asked(path)) <= allowed, path


def test_lifecycle_questions_have_one_line_that_says_what_is_due() -> None:
    """The docstring of every question is the contract of its answer, in one line."""
    for name in QUESTIONS:
        docstring = inspect.getdoc(getattr(Lifecycle, name))

        assert docstring is not None
        assert docstring.endswith(".")
        assert "\n" not in docstring


def test_pairs_are_found_by_listing_the_folder() -> None:
    """Every folder under `bugs` is a pair, complete, and there are some."""
    folders = sorted(path.name for path in FOLDER.iterdir() if (path / "__init__.py").exists())

    assert folders == PAIRS
    assert len(PAIRS) >= 5
    for pair in PAIRS:
        names = {path.name for path in (FOLDER / pair).glob("*.*")}
        assert {name for name in names if not name.startswith("wrong_")} == {
            "__init__.py",
            "buggy.py",
            "fixed.py",
            "README.md",
        }


@pytest.mark.parametrize("pair", PAIRS)
def test_pair_overrides_the_question_of_its_facts(pair: str) -> None:
    """Both variants have the same class and method, and the facts name that question."""
    facts = importlib.import_module(f"muxleak_vless.bugs.{pair}").FACTS
    (buggy, asked), (fixed, same) = (answer(variant(pair, name)) for name in VARIANTS)

    assert isinstance(facts, Facts)
    assert facts.question == asked == same
    assert asked in QUESTIONS
    assert buggy.__name__ == fixed.__name__
    assert buggy.__bases__ == fixed.__bases__ == (Lifecycle,)


@pytest.mark.parametrize("pair", PAIRS)
def test_pair_variants_import_the_same(pair: str) -> None:
    """Both variants have the same imports, so that their difference is the mistake alone."""
    buggy, fixed = (imports(variant(pair, name)) for name in VARIANTS)

    assert buggy == fixed


@pytest.mark.parametrize("pair", PAIRS)
def test_pair_fixed_variant_is_the_reference(pair: str) -> None:
    """The fixed variant's method is the reference's own, word for word; the buggy one is not."""
    buggy, fixed = variant(pair, "buggy"), variant(pair, "fixed")
    cls, question = answer(fixed)
    reference = inspect.getsource(getattr(Lifecycle, question))

    assert inspect.getsource(getattr(cls, question)) == reference
    assert inspect.getsource(getattr(answer(buggy)[0], question)) != reference


@pytest.mark.parametrize("pair", PAIRS)
def test_pair_difference_is_small(pair: str) -> None:
    """What differs between the variants fits on a slide."""
    buggy, fixed = (source(variant(pair, name)).splitlines() for name in VARIANTS)

    lines = list(difflib.unified_diff(buggy, fixed, "buggy.py", "fixed.py", n=0, lineterm=""))

    assert 0 < len(lines) <= MOST_LINES
