"""A project with modules named harness, scenarios and vless: its own are imported, not others.

The wheel is installed beside it, as in any environment. Earlier builds installed three packages of
those names, which won over the project's own, or ended pytest before it began.
"""

import re
from pathlib import Path

import pytest

import installed
from installed import Environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

NAMES = ("harness", "scenarios", "vless")
FORMS = ("package", "namespace", "file")
# Submodules that earlier builds had under the same names.
SUBMODULES = {"harness": "sim", "scenarios": "steps", "vless": "session"}
ASSERT_OWN = """
import harness, scenarios, vless

def assert_own():
    assert harness.MARK == "own harness"
    assert scenarios.MARK == "own scenarios"
    assert vless.MARK == "own vless"
"""
INSIDE = """
import {name}, {name}.{submodule}

def test_inside():
    assert {name}.{submodule}.MARK == "own {name}.{submodule}"
"""
TESTS = (
    ASSERT_OWN
    + """
import asyncio

import pytest

from muxleak import no_leaks, simulate
import muxleak_scenarios
import muxleak_vless

assert_own()
KEPT = []

def test_own():
    assert_own()

def test_all_own_modules():
    {imports}

@pytest.mark.asyncio
async def test_with_the_library():
    async with no_leaks():
        await asyncio.sleep(0)
    assert muxleak_scenarios.load_pairs()
    assert muxleak_vless.Context
    assert_own()

@pytest.mark.asyncio
async def test_that_leaks():
    KEPT.append(asyncio.create_task(asyncio.Event().wait()))
"""
)
PROGRAM = (
    ASSERT_OWN
    + """
import asyncio

from muxleak.sim import current

async def main():
    assert_own()
    if current().choices.below(3) == 2:
        raise LookupError("found in our own")
"""
)


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the wheel, pytest and pytest-asyncio."""
    return installed.environment(tmp_path_factory, "test")


class Own:
    """A project's own modules of the three names.

    Args:
        folder: where they stand.
        turn: which name has which form: each has each in three turns.
    """

    def __init__(self, folder: Path, turn: int) -> None:
        self.forms = {name: FORMS[(turn + at) % 3] for at, name in enumerate(NAMES)}
        folder.mkdir(exist_ok=True)
        for name, form in self.forms.items():
            mark = f"MARK = 'own {name}'\n"
            if form == "file":
                (folder / f"{name}.py").write_text(mark)
                continue
            submodule, package = SUBMODULES[name], folder / name
            package.mkdir()
            inside = f"MARK = 'own {name}.{submodule}'\n"
            (package / f"{submodule}.py").write_text(inside)
            if form == "package":
                (package / "__init__.py").write_text(mark)
                text = INSIDE.format(name=name, submodule=submodule)
                (package / "test_inside.py").write_text(text)
            else:
                # A namespace package has no code of its own: a test sets its mark.
                (folder / "conftest.py").write_text(f"import {name}\n{name}.{mark}")

    @property
    def imports(self) -> str:
        """Statements that import each submodule and check its mark."""
        with_modules = [name for name, form in self.forms.items() if form != "file"]
        paths = [f"{name}.{SUBMODULES[name]}" for name in with_modules]
        return "; ".join(f"import {path} as m; assert m.MARK == 'own {path}'" for path in paths)


# Where they stand, how pytest imports, whether it looks for leaks.
PROJECTS = [
    (place, mode, leaks)
    for place in (".", "tests", "src")
    for mode in ("prepend", "importlib")
    for leaks in ("off", "strict")
]


@pytest.mark.parametrize("turn", range(len(PROJECTS)), ids=[" ".join(each) for each in PROJECTS])
def test_project_imports_its_own_modules(stranger: Environment, tmp_path: Path, turn: int) -> None:
    """All of its tests run, of which one leaks; strictness is what fails that one."""
    place, mode, leaks = PROJECTS[turn]
    own = Own(tmp_path / place, turn)
    # As `python -m pytest` puts the root on the path, and "prepend" the folder of a test.
    found_anyway = turn % 3 == 0 if place == "." else place == "tests" and mode == "prepend"
    ini = "" if found_anyway else f'pythonpath = ["{place}"]\n'
    (tmp_path / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\ntestpaths = ["."]\n'
        'asyncio_default_fixture_loop_scope = "function"\n' + ini
    )
    (tmp_path / "tests").mkdir(exist_ok=True)
    (tmp_path / "tests" / "test_own.py").write_text(TESTS.format(imports=own.imports))
    options = ["-q", "-p", "no:cacheprovider", f"--import-mode={mode}", f"--leaks={leaks}"]
    if found_anyway and place == ".":
        done = stranger.run("-m", "pytest", *options, cwd=tmp_path)
    else:
        done = stranger.script("pytest", *options, cwd=tmp_path)

    failed = int(leaks == "strict")
    assert (done.returncode, done.stderr) == (failed, ""), done.stdout + done.stderr
    counts = {what: int(n) for n, what in re.findall(r"(\d+) (\w+)", done.stdout.splitlines()[-1])}
    tests = 4 + list(own.forms.values()).count("package")
    assert counts.get("passed") == tests - failed
    assert counts.get("failed", 0) == failed
    assert ("FAILED tests/test_own.py::test_that_leaks" in done.stdout) is bool(failed)


@pytest.mark.parametrize("path", [".", ""], ids=["PYTHONPATH", "current folder"])
@pytest.mark.parametrize("name", ["program:main", "harness.program:main"])
def test_program_imports_its_own_modules(
    stranger: Environment, tmp_path: Path, name: str, path: str
) -> None:
    """`muxleak fuzz` and `muxleak replay` of a program that imports them, or stands in one."""
    for each in NAMES:
        (tmp_path / each).mkdir()
        (tmp_path / each / "__init__.py").write_text(f"MARK = 'own {each}'\n")
    program = tmp_path / (name.partition(":")[0].replace(".", "/") + ".py")
    program.write_text(PROGRAM)
    environ = {"PYTHONPATH": path} if path else {}
    found = stranger.script("muxleak", "fuzz", name, cwd=tmp_path, **environ)
    (file,) = tmp_path.glob("*.sim.json")
    again = stranger.run("-m", "muxleak", "replay", file.name, name, cwd=tmp_path, **environ)

    for done in (found, again):
        assert (done.returncode, done.stderr) == (1, "")
        assert "LookupError: found in our own" in done.stdout
