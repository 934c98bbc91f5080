"""Replay files of simulated programs as tests: what failed once must not fail any more.

`muxleak fuzz module:callable` writes such a file. Kept beside the tests, it is one test: it passes
when the program does not fail in that run, be it another run by now because the program has
changed, and it fails with the finding while the program still does. A program that cannot be
imported, or a file that cannot be read, is an error and no verdict.

Loaded only by a session that asks for such files (`options.replays_of`).
"""

import os
import sys
from collections.abc import Collection, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from muxleak.plugin.options import mode_of
from muxleak.sim.programs import ProgramError, find_program
from muxleak.sim.replay import SUFFIX, Replay, ReplayError
from muxleak.sim.simulate import rerun

if TYPE_CHECKING:
    from collections.abc import Iterator

_BEYOND = "needs wakeups=True: stock asyncio does not wake tasks in this order"


class Replays:
    """Collects replay files.

    Args:
        named: only these; all that are found if it is empty.
    """

    def __init__(self, named: Collection[Path]) -> None:
        self._named = named

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> Any:
        """Take a file whose name ends as theirs do; no other is opened."""
        if not file_path.name.endswith(SUFFIX):
            return None
        if self._named and file_path.resolve() not in self._named:
            return None
        return ReplayFile.from_parent(parent, path=file_path)


class ReplayFile(pytest.File):
    """A file with one run."""

    def collect(self) -> Iterable[pytest.Item]:
        """The one test.

        Raises:
            ReplayError: it is no replay file.
        """
        found = Replay.load(self.path)
        yield ReplayItem.from_parent(self, name=found.name or "(no program)", found=found)

    # pytest calls it with the exception alone; its own collectors are declared as here.
    def repr_failure(  # type: ignore[override]
        self, excinfo: pytest.ExceptionInfo[BaseException]
    ) -> Any:
        """The message alone where the file is at fault."""
        if isinstance(excinfo.value, ReplayError):
            return str(excinfo.value)
        return super().repr_failure(excinfo)


class ReplayItem(pytest.Item):
    """A run of a program that failed when the file was written."""

    def __init__(self, *, found: Replay, **settings: Any) -> None:
        super().__init__(**settings)
        self.found = found
        self._program: Any = None
        if mode_of(self.config) != "off":
            reason = "the run is held to account by itself, with the settings of its program"
            self.add_marker(pytest.mark.leaks_allowed(reason=reason))

    def setup(self) -> None:
        """Import the program, from the project's root, too.

        Raises:
            pytest.fail.Exception: that cannot be done.
        """
        root = self.config.rootpath
        with _importing(root):
            try:
                self._program = find_program(self.found.name)
            except ProgramError as error:
                reason = (
                    f"{_shown(self.path)}: {error}; expected a program that can be imported from "
                    f"{root}. Take the file away if its program is gone"
                )
                pytest.fail(reason, pytrace=False)

    def runtest(self) -> None:
        """Run again.

        Raises:
            BaseException: whatever goes wrong in the run, with what to do about it.
        """
        with _importing(self.config.rootpath):
            result = rerun(self.found, self._program)
        error = result.error
        if error is None:
            return
        if result.steps:
            error.add_note(f"steps: {' | '.join(result.steps)}")
        if result.choices.woken:
            error.add_note(_BEYOND)
        if self.found.trace and result.trace_hash != self.found.trace:
            error.add_note("another run than the file's: the program has changed since, and fails")
        error.add_note(f"replay with: muxleak replay {_shown(self.path)}")
        raise error

    def teardown(self) -> None:
        """Keep nothing of the program."""
        self._program = None

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The error, and where the program raised it; nothing of ours."""
        frames = list(excinfo.traceback)
        ours = [at for at, frame in enumerate(frames) if str(frame.path) == __file__]
        if ours:
            # At least one frame has to be shown; ours is the last resort.
            kept = frames[ours[-1] + 1 :] or frames[ours[-1] :]
            excinfo.traceback = type(excinfo.traceback)(kept)
        return super().repr_failure(excinfo, style or "short")

    def reportinfo(self) -> tuple[Path, None, str]:
        """Where it stands, and its name."""
        return self.path, None, f"{_shown(self.path)}: {self.name}"


def _shown(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


@contextmanager
def _importing(root: Path) -> "Iterator[None]":
    """Let modules be found below the root of the project, after all else, for a block."""
    entry = os.fspath(root)
    added = entry not in sys.path
    if added:
        sys.path.append(entry)
    try:
        yield
    finally:
        if added and entry in sys.path:
            sys.path.remove(entry)
