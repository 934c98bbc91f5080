"""Programs by name: what is found, and what is said of what is none."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from muxleak.sim import ProgramError, find_program
from muxleak.sim.programs import name_from_here

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
