"""The wheel of this distribution, and fresh environments that have it installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from processes import unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pytest

ROOT = Path(__file__).resolve().parents[2]
GROUP = "wheel"
"""The name of these tests in `processes.REQUIRE`."""
_PATIENCE = 300.0  # seconds
# Settings of the process that runs these tests are no settings of a program that they start.
_OWN = ("PYTHONPATH", "PYTHONSAFEPATH", "PYTEST_ADDOPTS", "PYTEST_DISABLE_PLUGIN_AUTOLOAD")


class Environment(NamedTuple):
    """A virtual environment.

    Attributes:
        folder: its root.
        wheel: the wheel that is installed there.
    """

    folder: Path
    wheel: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / ("Scripts" if os.name == "nt" else "bin") / "python"

    def run(self, *arguments: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run its Python with arguments, in a folder that nothing else puts on the path."""
        inherited = {name: value for name, value in os.environ.items() if name not in _OWN}
        return subprocess.run(  # noqa: S603 - our own environment
            [self.python, *arguments],
            cwd=cwd,
            env={**inherited, "NO_COLOR": "1", "COLUMNS": "100", **environ},
            capture_output=True,
            text=True,
            check=False,
        )

    def script(
        self, name: str, *arguments: str, cwd: Path, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a console script, as a shell does."""
        return self.run(str(self.python.with_name(name)), *arguments, cwd=cwd, **environ)


def environment(factory: pytest.TempPathFactory, extra: str, *packages: str) -> Environment:
    """Install the wheel with an extra of its own ("" for none) and other packages.

    The wheel is built once and each environment is made once a session, whatever number of
    processes runs the tests. Skips the test where a registry cannot be reached.
    """
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    # Other packages of the same extra are another environment.
    key = "-".join([extra or "base", *(each.partition(" ")[0] for each in packages)])
    wheels, folder = shared / "wheel", shared / f"env-{re.sub('[^a-zA-Z0-9.]+', '_', key)}"
    with _once(wheels) as first:
        if first:
            _pip("wheel", "--no-deps", "--wheel-dir", str(wheels), str(ROOT))
    (wheel,) = wheels.glob("muxleak-*.whl")
    made = Environment(folder, wheel)
    with _once(folder) as first:
        if first:
            _call([sys.executable, "-m", "venv", "--without-pip", str(folder)])
            wanted = f"muxleak[{extra}] @ {wheel.as_uri()}" if extra else str(wheel)
            _pip("--python", str(made.python), "install", wanted, *packages)
    return made


@contextmanager
def _once(folder: Path) -> Iterator[bool]:
    """True for the first process to come; the others wait until it has left the block."""
    done, began = folder.with_name(f"{folder.name}.done"), time.monotonic()
    try:
        folder.mkdir()
    except FileExistsError:
        while not done.exists():
            if time.monotonic() - began > _PATIENCE:
                raise AssertionError(f"{folder}: not there after {_PATIENCE:.0f} s") from None
            time.sleep(0.05)
        if reason := done.read_text():
            unavailable(GROUP, reason)
        yield False
        return
    try:
        yield True
    except _FailedError as error:
        done.write_text(str(error))
        unavailable(GROUP, str(error))
    except BaseException as error:
        done.write_text(f"failed elsewhere: {error!r}")
        raise
    done.touch()


class _FailedError(Exception):
    """A command failed; the message has its last words."""


def _pip(*arguments: str) -> None:
    _call([sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments])


def _call(command: Sequence[str]) -> None:
    done = subprocess.run(  # noqa: S603 - our own words
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = done.stderr.strip()[-800:]
        raise _FailedError(f"needs pip and a registry: {' '.join(command[:5])} ...: {last}")
