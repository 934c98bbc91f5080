"""Environments of their own for pinned releases, kept in a cache folder and used again.

An environment never holds muxleak. A run that needs it gets a folder of its own on PYTHONPATH, into
which the wheel of this working copy was installed a moment before: with its entry points, so that
pytest finds the plugin as it does for a user. The same environment without that folder is the
control.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("click==8.5.1", "rich==15.0.0", "pytest==9.2.0")
"""Packages that muxleak and its plugin need, the same releases in every environment."""
# Settings of the process that runs the command are no settings of a program that it starts. Without
# bytecode on disk, each start would compile this package, which an installed one never does.
_OWN = {"PYTHONPATH", "PYTHONSAFEPATH", "PYTEST_ADDOPTS", "PYTEST_DISABLE_PLUGIN_AUTOLOAD"}
_OWN |= {"PYTHONDONTWRITEBYTECODE"}


class InstallError(Exception):
    """A package could not be fetched or installed; the message has pip's last lines."""


class Environment(NamedTuple):
    """A virtual environment.

    Attributes:
        folder: its root.
    """

    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / ("Scripts" if os.name == "nt" else "bin") / "python"

    def freeze(self) -> dict[str, str]:
        """Return the release of each package that is installed."""
        done = _pip("--python", str(self.python), "list", "--format=freeze")
        return dict(line.split("==", 1) for line in done.split() if "==" in line)


def default_cache() -> Path:
    """Return the folder for environments where none is given."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "muxleak-field"


def key(*parts: str) -> str:
    """Return a short name for an environment: it differs wherever Python or a part differs."""
    text = "\n".join((sys.version, sys.executable, *parts))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def environment(cache: Path, name: str, requirements: Sequence[str]) -> Environment:
    """Return an environment with some requirements, made unless the cache has it.

    Args:
        cache: the folder that holds the environments.
        name: a word for people who look into the folder.
        requirements: pinned, in the form that pip takes.

    Raises:
        InstallError: pip failed. The half-made environment is removed.
    """
    folder = cache / f"{name}-{key(*requirements)}"
    made, done = Environment(folder), folder / "done"
    if done.exists():
        return made
    shutil.rmtree(folder, ignore_errors=True)
    cache.mkdir(parents=True, exist_ok=True)
    _venv(folder)
    try:
        _pip("--python", str(made.python), "install", *requirements)
    except InstallError:
        shutil.rmtree(folder)
        raise
    done.touch()
    return made


@contextmanager
def wheel() -> Iterator[str]:
    """Install this working copy into a temporary folder; yields a value for PYTHONPATH."""
    with tempfile.TemporaryDirectory(prefix="muxleak-field-") as folder:
        _pip("install", "--no-deps", "--target", folder, str(ROOT))
        yield folder


def download(cache: Path, requirement: str) -> Path:
    """Return the source distribution of a pinned release, fetched unless the cache has it."""
    name, _, release = requirement.partition("==")
    name = name.partition("[")[0]  # its extras are of the installed package
    pinned = f"{name}=={release}"
    folder = cache / "sdists" / pinned
    if not any(folder.glob("*.tar.gz")):
        _pip("download", "--no-deps", "--no-binary", name, "--dest", str(folder), pinned)
    (found,) = folder.glob("*.tar.gz")
    return found


def environ(pythonpath: str = "", **more: str) -> Mapping[str, str]:
    """Return the environment variables for a program: ours without our own settings."""
    inherited = {name: value for name, value in os.environ.items() if name not in _OWN}
    path = {"PYTHONPATH": pythonpath} if pythonpath else {}
    return {**inherited, **path, "NO_COLOR": "1", "COLUMNS": "200", **more}


def path_of_sources() -> str:
    """Return a value for PYTHONPATH with which this working copy is imported as it stands."""
    folders = [ROOT / name for name in ("harness", "vless", "scenarios")]
    return os.pathsep.join(map(str, folders))


def _venv(folder: Path) -> None:
    command = [sys.executable, "-m", "venv", "--without-pip", str(folder)]
    subprocess.run(command, check=True)  # noqa: S603 - our own words


def _pip(*arguments: str) -> str:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    done = subprocess.run(  # noqa: S603 - our own words
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        shown = [line for line in done.stderr.splitlines() if not line.startswith("WARNING")]
        raise InstallError(f"pip {' '.join(arguments[:4])} ...: {' | '.join(shown[-5:])}")
    return done.stdout
