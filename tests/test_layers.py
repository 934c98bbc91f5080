"""Who may import whom: ``vless`` and ``harness`` below ``scenarios`` below the command line."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("vless", "harness", "scenarios")
MAY_IMPORT = {
    "vless": {"vless"},
    "harness": {"harness"},
    "scenarios": {"scenarios", "vless", "harness"},
    "harness/cli": {"harness", "scenarios", "vless"},
}
SANS_IO = ("errors", "address", "addons", "header", "metadata", "frames", "packets")
MAX_LINES = 300


def sources(package: str) -> list[Path]:
    """The Python files of a package."""
    return sorted((ROOT / package).rglob("*.py"))


def layer(path: Path) -> str:
    """The layer that a file belongs to."""
    relative = path.relative_to(ROOT)
    if relative.parts[:2] == ("harness", "cli") or relative == Path("harness/__main__.py"):
        return "harness/cli"
    return relative.parts[0]


def imports(tree: ast.AST) -> Iterator[str]:
    """The modules that a file names, wherever it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import at line {node.lineno}"
            yield node.module or ""


def forbidden(path: Path, text: str) -> list[str]:
    """The packages of ours that a file imports and may not."""
    allowed = MAY_IMPORT[layer(path)]
    tops = {name.partition(".")[0] for name in imports(ast.parse(text))}
    return sorted(tops & set(PACKAGES) - allowed)


@pytest.mark.parametrize("package", PACKAGES)
def test_layers_import_downwards_only(package: str) -> None:
    """No source file imports a package above its own."""
    found = {str(path): forbidden(path, path.read_text()) for path in sources(package)}

    assert found
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("vless/session.py", "import harness"),
        ("vless/session.py", "from scenarios.steps import Step"),
        ("harness/ledger.py", "from vless import Context"),
        ("harness/ledger.py", "import scenarios"),
    ],
)
def test_layers_check_fires_on_a_planted_import(path: str, line: str) -> None:
    """An import upwards, even inside a function, is found."""
    planted = f"def f():\n    {line}\n"

    assert forbidden(ROOT / path, planted) != []


@pytest.mark.parametrize("module", SANS_IO)
def test_layers_keep_the_wire_free_of_io(module: str) -> None:
    """The wire modules import neither asyncio nor anything that performs I/O."""
    tree = ast.parse((ROOT / "vless" / f"{module}.py").read_text())

    assert not {"asyncio", "select", "ssl", "threading", "time"} & set(imports(tree))


def test_layers_hold_no_file_above_300_lines() -> None:
    """A source file can be read in one sitting."""
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for package in PACKAGES
        for path in sources(package)
    }

    assert {path: lines for path, lines in lengths.items() if lines > MAX_LINES} == {}
