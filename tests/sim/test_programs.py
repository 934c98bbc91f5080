"""Programs by name: what is found, and what is said of what is none."""

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from muxleak import settle
from muxleak.sim import ProgramError, find_program, old_names
from muxleak.sim.programs import name_from_here
from muxleak_scenarios.bench.search_runs import toy

MODULE = '''
import functools

not_callable = 7

def plain():
    """No program."""

async def main():
    """A program."""

async def takes(host, port=80, *, user):
    """None either."""

async def may_take(host="localhost", *more, **options):
    """A program."""

async def generates():
    yield

bound = functools.partial(takes, "localhost", user="me")

class Holder:
    @staticmethod
    async def main():
        """A program."""

    async def __call__(self):
        """A program, of an object."""

instance = Holder()
'''


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not import from the repository's root, as `python -m pytest` does: it has a `harness`."""
    path = [each for each in sys.path if not (Path(each) / "harness").is_dir()]
    monkeypatch.setattr(sys, "path", path)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of modules, which is the current one and on the path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "victims").mkdir()
    (tmp_path / "victims" / "server.py").write_text(MODULE)
    (tmp_path / "exits.py").write_text("import sys\nsys.exit('usage')\n")
    (tmp_path / "fails.py").write_text("\n1 / 0\n")
    (tmp_path / "needs.py").write_text("import no_such_library\n")
    (tmp_path / "typo.py").write_text("def (:\n")
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize(
    "path", ["main", "may_take", "bound", "Holder.main", "instance", "instance.main"]
)
def test_program_is_found(path: str) -> None:
    """Whatever can be awaited after a call without arguments."""
    program = find_program(f"victims.server:{path}")

    program().close()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "expected module:callable, such as myserver.sim:main, got ''"),
        ("victims.server", "expected module:callable"),
        ("victims/server.py:main", "expected module:callable"),
        ("victims.server:", "expected module:callable"),
        (".server:main", "expected module:callable"),
        ("victims.server:main()", "expected module:callable"),
        ("victms.server:main", "no module 'victms.server': there is no 'victms' on the import"),
        ("victims.servr:main", "no module 'victims.servr': there is no 'victims.servr'"),
        ("needs:main", "importing 'needs' failed: ModuleNotFoundError: No module named 'no_such"),
        ("exits:main", r"importing 'exits' failed: SystemExit: usage \(at .*exits.py:2\)"),
        ("fails:main", r"importing 'fails' failed: ZeroDivisionError: .* \(at .*fails.py:2\)"),
        ("typo:main", "importing 'typo' failed: SyntaxError: "),
        ("victims.server:mian", "no 'mian' in module 'victims.server'; did you mean 'main'?"),
        ("victims.server:Holder.mian", "no 'mian' in 'Holder'; did you mean 'main'?"),
        ("victims.server:not_callable", "expected an async function, got 7, which is not callable"),
        ("victims.server:plain", "got a plain function; define it with `async def`"),
        ("victims.server:generates", "got an async generator; define it"),
        ("victims.server:Holder", "got a class; define it"),
        ("victims.server:takes", "got one that takes host, user; wrap it in one that passes them"),
    ],
)
def test_program_that_is_none_is_refused(name: str, message: str) -> None:
    """With what was expected, what was found, and what to do."""
    with pytest.raises(ProgramError, match=message.replace("?", "[?]")):
        find_program(name)


def test_name_from_here_leads_back() -> None:
    """The name of a program that can be imported from the current folder finds it again."""
    program = find_program("victims.server:main")

    assert name_from_here(program) == "victims.server:main"
    assert find_program(name_from_here(program)) is program


def test_name_from_here_is_relative_to_the_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test runner puts the folders of tests on the path; a command run from here does not."""
    monkeypatch.syspath_prepend(folder / "victims")
    program = find_program("server:main")

    assert name_from_here(program) == "victims.server:main"
    monkeypatch.chdir("/")
    (folder / "no-name").mkdir()
    monkeypatch.chdir(folder)
    (folder / "victims").rename(folder / "no-name" / "victims")
    sys.modules["server"].__file__ = str(folder / "no-name" / "victims" / "server.py")
    assert name_from_here(program) == ""


def test_name_from_here_is_empty_where_there_is_none() -> None:
    """No command finds what is local, or main, or not what its name says."""

    async def program() -> None:
        """Cannot be named."""

    renamed = find_program("victims.server:main")
    sys.modules["victims.server"].main = None  # type: ignore[attr-defined]

    assert name_from_here(program) == ""
    assert name_from_here(renamed) == ""
    assert name_from_here(find_program("victims.server:bound")) == ""


@pytest.mark.parametrize("module", old_names.MOVED.values())
def test_old_name_stands_for_a_module(module: str) -> None:
    """Whatever was moved is where the table says."""
    assert find_spec(module) is not None


def test_program_is_found_by_a_name_of_an_earlier_version() -> None:
    """A replay file may name a program in a package that was renamed since."""
    assert find_program("harness.settle:settle") is settle
    assert find_program("harness:settle") is settle
    assert find_program("scenarios.bench.schedules:toy") is toy


def test_own_module_wins_over_a_name_of_an_earlier_version(folder: Path) -> None:
    """Even if it has no module of that name; and it is never imported from elsewhere."""
    (folder / "harness").mkdir()
    (folder / "harness" / "settle.py").write_text("async def settle(): return 'own'\n")

    assert find_program("harness.settle:settle").__module__ == "harness.settle"
    with pytest.raises(ProgramError, match=r"no module 'harness.growth': there is no 'harness.gr"):
        find_program("harness.growth:measure_growth")
    with pytest.raises(ProgramError, match=r"no module 'vless.servers': there is no 'vless' on"):
        find_program("vless.servers:main")


@pytest.mark.parametrize(
    ("statement", "advice"),
    [
        ("from harness import no_leaks", "harness is now muxleak: from muxleak import no_leaks"),
        ("import harness", "harness is now muxleak: import muxleak"),
        ("import harness.sim as sim", "harness is now muxleak: import muxleak.sim as sim"),
        (
            "from harness.sim import Network, current",
            "harness is now muxleak: from muxleak.sim import Network, current",
        ),
        (
            "from harness.sim.drawn import (\n    any_choices)",
            "harness is now muxleak: from muxleak.search.strategies import ...",
        ),
        (
            "from scenarios.steps import Step",
            "scenarios is now muxleak_scenarios: from muxleak_scenarios.sequence.steps import Step",
        ),
        (
            "from vless.versions import VERSIONS",
            "vless is now muxleak_vless: from muxleak_vless.versions import VERSIONS",
        ),
    ],
)
def test_program_that_imports_an_old_name_is_told_the_new_one(
    folder: Path, statement: str, advice: str
) -> None:
    """The statement as it should be, and the line where it stands."""
    (folder / "before.py").write_text(f"import asyncio\n{statement}\n")

    with pytest.raises(ProgramError) as caught:
        find_program("before:main")
    assert str(caught.value).endswith(f"before.py:2); {advice}")


def test_program_that_lacks_a_module_of_its_own_package_is_told_no_other(folder: Path) -> None:
    """A project's own package is not ours, whatever it lacks."""
    (folder / "harness.py").touch()
    (folder / "before.py").write_text("import harness.sim\n")

    with pytest.raises(ProgramError, match=r"'harness' is not a package.*before.py:1[)]$"):
        find_program("before:main")
