"""Imports run downwards only, between the packages and between the rooms of each."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {
    "muxleak": ROOT / "harness" / "muxleak",
    "muxleak_vless": ROOT / "vless" / "muxleak_vless",
    "muxleak_scenarios": ROOT / "scenarios" / "muxleak_scenarios",
}
MAY_IMPORT = {
    "muxleak": {"muxleak"},
    "muxleak_vless": {"muxleak_vless"},
    "muxleak_scenarios": {"muxleak_scenarios", "muxleak_vless", "muxleak"},
}
SANS_IO = ("errors", "address", "header", "frames", "packets")


def sources(package: str) -> list[Path]:
    """The Python files of a package."""
    return sorted(FOLDERS[package].rglob("*.py"))


def imports(tree: ast.AST) -> Iterator[str]:
    """The modules that a file names, wherever it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import at line {node.lineno}"
            yield node.module or ""


def forbidden(package: str, text: str) -> list[str]:
    """The packages of ours that a file imports and may not."""
    tops = {name.partition(".")[0] for name in imports(ast.parse(text))}
    return sorted(tops & set(FOLDERS) - MAY_IMPORT[package])


@pytest.mark.parametrize("package", FOLDERS)
def test_layers_import_downwards_only(package: str) -> None:
    """No source file imports a package above its own."""
    found = {
        str(path): forbidden(package, path.read_text())
        for path in sources(package)
        if path != FOLDERS["muxleak"] / "__main__.py"
    }

    assert found
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("package", "line"),
    [
        ("muxleak_vless", "import muxleak"),
        ("muxleak_vless", "from muxleak_scenarios.sequence.steps import Step"),
        ("muxleak", "from muxleak_vless import Context"),
        ("muxleak", "import muxleak_scenarios"),
    ],
)
def test_layers_check_fires_on_a_planted_import(package: str, line: str) -> None:
    """An import upwards, even inside a function, is found."""
    planted = f"def f():\n    {line}\n"

    assert forbidden(package, planted) != []


@pytest.mark.parametrize("module", SANS_IO)
def test_layers_keep_the_wire_free_of_io(module: str) -> None:
    """The wire modules import neither asyncio nor anything that performs I/O."""
    tree = ast.parse((FOLDERS["muxleak_vless"] / f"{module}.py").read_text())

    assert not {"asyncio", "select", "ssl", "threading", "time"} & set(imports(tree))
