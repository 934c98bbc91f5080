"""A test module names all its marks in one assignment: a second one would replace the first."""

import ast
from pathlib import Path

TESTS = Path(__file__).parent


def assignments(text: str) -> int:
    """The number of assignments of `pytestmark` in a module."""
    targets = (
        target
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    )
    return sum(isinstance(each, ast.Name) and each.id == "pytestmark" for each in targets)


def test_each_module_assigns_its_marks_once() -> None:
    """Else a fixture or a mark is lost without a word."""
    found = [path for path in TESTS.rglob("test_*.py") if assignments(path.read_text()) > 1]
    assert not found


def test_second_assignment_is_found() -> None:
    """Also one with an annotation."""
    assert assignments("pytestmark = []\nother = 1\npytestmark: list[int] = []\n") == 2
