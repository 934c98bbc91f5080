"""The wheel: its files, its names, and the parts that work without extras."""

import json
from pathlib import Path
from zipfile import ZipFile

import pytest

import installed
from installed import Environment

# Each builds the wheel, or waits until another has.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PACKAGES = ("muxleak", "muxleak_scenarios", "muxleak_vless")
SERVER = """
import asyncio

from muxleak.sim import current

KEPT = set()


async def main():
    if current().choices.below(3) == 2:
        KEPT.add(asyncio.get_running_loop().create_task(asyncio.Event().wait()))
"""


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the wheel and its dependencies, and nothing else."""
    return installed.environment(tmp_path_factory, "")


@pytest.fixture(scope="module")
def files(base: Environment) -> list[str]:
    """The names of the files in the wheel."""
    with ZipFile(base.wheel) as wheel:
        return wheel.namelist()


def test_wheel_adds_no_name_but_its_own(files: list[str]) -> None:
    """Every name that it makes importable begins with "muxleak"."""
    names = {name.partition("/")[0] for name in files}
    assert {name for name in names if not name.endswith(".dist-info")} == set(PACKAGES)


def test_wheel_has_its_data_and_no_tests(files: list[str]) -> None:
    """Marks of typed packages and alert rules are there, files of tests and benchmarks are not."""
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(files)
    assert "muxleak/monitor/alerts.yml" in files
    assert [
        name
        for name in files
        if name.rpartition("/")[2].startswith(("test_", "bench_", "conftest"))
        or {"tests", "benchmarks", "__pycache__"} & set(name.split("/"))
    ] == []


def test_wheel_installs_entry_points_that_load(base: Environment, tmp_path: Path) -> None:
    """The console script can be imported, and the plugin is named to pytest, which is no need."""
    code = (
        "import json, sys\n"
        "from importlib.metadata import distribution, packages_distributions\n"
        "found = distribution('muxleak')\n"
        "points = {each.group: each for each in found.entry_points}\n"
        "assert callable(points['console_scripts'].load())\n"
        "ours = [top for top, all in packages_distributions().items() if 'muxleak' in all]\n"
        "needs = [each for each in found.requires if 'extra ==' not in each]\n"
        "print(json.dumps([sorted(ours), points['pytest11'].value, sorted(needs)]))\n"
    )
    done = base.run("-c", code, cwd=tmp_path)
    assert done.stderr == ""
    ours, plugin, needs = json.loads(done.stdout)
    assert ours == list(PACKAGES)
    assert plugin == "muxleak.plugin"
    assert [each.partition(">")[0] for each in needs] == ["click", "rich"]


# Of each: its arguments, its exit code and a piece of its output.
WITHOUT_EXTRAS = {
    "help": (["--help"], 0, "reproduce"),
    "version": (["--version"], 0, "muxleak "),
    "list": (["list"], 0, "watcher_outlives_connection"),
    "show": (["show", "live_id_reused"], 0, "live_id_reused"),
    "serve --help": (["serve", "--help"], 0, "Usage: muxleak serve"),
    "hunt --help": (["hunt", "--help"], 0, "Usage: muxleak hunt"),
    "replay": (["replay", "V1 a:open a:close"], 1, "violated"),
    "versions": (["self", "versions"], 0, "V1"),
    "controls": (["self", "controls", "--sequences", "1"], 0, "every claim holds"),
    "mutants": (["self", "mutants", "--sequences", "1"], 1, "survived"),
    "soak": (["soak", "--connections", "50"], 0, ""),
    "bench": (["bench", "frame", "--quick"], 0, "frame"),
    "fuzz": (["fuzz", "V1", "--out", "."], 1, "again, also from"),
}
# Commands that search by Hypothesis, and how the message names each.
WITH_FUZZ = {
    "reproduce": (["reproduce"], "muxleak reproduce"),
    "verify": (["verify", "live_id_reused"], "muxleak verify"),
    "bench": (["bench", "example"], "the row 'example'"),
}


@pytest.mark.parametrize("name", WITHOUT_EXTRAS)
def test_base_install_runs_commands_without_hypothesis(
    base: Environment, tmp_path: Path, name: str
) -> None:
    """Neither Hypothesis nor pytest is installed."""
    arguments, code, shown = WITHOUT_EXTRAS[name]
    done = base.script("muxleak", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (code, "")
    assert shown in done.stdout


def test_base_install_imports_and_searches_a_program(base: Environment, tmp_path: Path) -> None:
    """Every public name but those of pytest; a search of its own, and the replay of its file."""
    code = (
        "import importlib.util, muxleak, muxleak.sim, muxleak_scenarios, muxleak_vless\n"
        "assert not [each for each in ('hypothesis', 'pytest') if importlib.util.find_spec(each)]\n"
        "for each in (muxleak, muxleak.sim, muxleak_scenarios, muxleak_vless):\n"
        "    [getattr(each, name) for name in each.__all__]\n"
        "import muxleak.search.strategies\n"
        "muxleak.search.strategies.any_choices()\n"
    )
    done = base.run("-c", code, cwd=tmp_path)
    assert done.stderr.splitlines()[-1] == (
        "ImportError: any_choices() needs Hypothesis, which is an extra: "
        "pip install 'muxleak[fuzz]'"
    )
    done = base.run("-c", "from muxleak import *; from muxleak import ServerMachine", cwd=tmp_path)
    assert done.stderr.splitlines()[-1] == (
        "ImportError: ServerMachine needs Hypothesis, which is an extra: "
        "pip install 'muxleak[fuzz]'"
    )
    (tmp_path / "server.py").write_text(SERVER)
    found = base.script("muxleak", "fuzz", "server:main", cwd=tmp_path)
    assert (found.returncode, found.stderr) == (1, "")
    again = base.script(
        "muxleak", "replay", "muxleak-server-main.sim.json", "server:main", cwd=tmp_path
    )
    assert (again.returncode, again.stderr) == (1, "")
    assert "1 task leaked" in found.stdout
    assert "1 task leaked" in again.stdout


@pytest.mark.parametrize("name", WITH_FUZZ)
def test_base_install_says_which_extra_a_command_needs(
    base: Environment, tmp_path: Path, name: str
) -> None:
    """Bad usage, exit code 2, nothing printed before it; its help is there all the same."""
    arguments, who = WITH_FUZZ[name]
    done = base.script("muxleak", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == (
        f"Error: {who} needs Hypothesis, which is an extra: pip install 'muxleak[fuzz]'"
    )
    assert base.script("muxleak", arguments[0], "--help", cwd=tmp_path).returncode == 0
