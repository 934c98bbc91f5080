"""Projects of strangers: a test file, a pytest that has the plugin, and what it says."""

import os
import textwrap
from importlib.metadata import entry_points
from pathlib import Path

import pytest

# Loaded here, because pytester forgets what the projects load.
import muxleak.plugin.attribution
import muxleak.plugin.leak_reports
import muxleak.plugin.outcomes  # noqa: F401
from source_roots import PYTHONPATH

ROOT = Path(__file__).resolve().parent.parent.parent
PLUGINS = ("pytest_asyncio.plugin", "muxleak.plugin", "no:cacheprovider")
INI = """
[pytest]
asyncio_default_fixture_loop_scope = function
filterwarnings =
    default
    ignore::pytest.PytestAssertRewriteWarning
"""


class Project:
    """A project with tests; runs pytest on them, here or in a process of its own.

    Args:
        pytester: pytest's own fixture.
    """

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.ini()

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.pytester.path

    def ini(self, *lines: str) -> None:
        """Write the ini file."""
        (self.path / "pytest.ini").write_text(INI + "\n".join(lines) + "\n")

    def write(self, text: str, name: str = "test_it.py") -> None:
        """Write a test file."""
        (self.path / name).write_text(textwrap.dedent(text).lstrip("\n"))

    def line(self, text: str, name: str = "test_it.py") -> str:
        """Where a file has a line with that text, as "file:line"."""
        lines = (self.path / name).read_text().splitlines()
        return f"{name}:{next(n for n, line in enumerate(lines, 1) if text in line)}"

    def run(self, *arguments: str) -> pytest.RunResult:
        """Run pytest in this process, with few plugins, so that it takes no time."""
        plugins = [part for name in PLUGINS for part in ("-p", name)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
            return self.pytester.runpytest_inprocess(*plugins, *arguments)

    def run_apart(self, *arguments: str) -> pytest.RunResult:
        """Run pytest in a process of its own, where the plugin is found by its entry point."""
        return self.pytester.runpytest_subprocess("-p", "no:cacheprovider", *arguments, timeout=60)


@pytest.fixture(autouse=True)
def quick_reports(request: pytest.FixtureRequest) -> None:
    """Leave the objects of all other tests out of the reports that the projects' tests get."""
    request.getfixturevalue("small_heap")


@pytest.fixture
def project(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Project:
    """A project with the plugin installed, or as good as that."""
    installed = bool(entry_points(group="pytest11", name="muxleak"))
    path = [PYTHONPATH]
    if not installed:
        folder = tmp_path_factory.mktemp("installed")
        metadata = folder / "muxleak-0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: muxleak\nVersion: 0\n")
        (metadata / "entry_points.txt").write_text("[pytest11]\nmuxleak = muxleak.plugin\n")
        path.insert(0, str(folder))
    inherited = [each for each in [os.environ.get("PYTHONPATH")] if each]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*path, *inherited]))
    return Project(pytester)
