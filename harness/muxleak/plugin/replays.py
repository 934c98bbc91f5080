"""Runs replay files as tests, which fail as long as their programs, servers or pairs fail.

`muxleak fuzz` writes such a file. Loaded only by a session that has replay files
among its tests (`options.replays_of`).
"""

# A replay file kept beside the tests is a regression test:
#
# - It fails, with the error of the run, while the program still fails.
# - It passes once the program does not fail in that run. The program has changed by then, and the
#   run may be another one. Then the pass proves less than it seems to: the recorded race may not
#   have occurred. The summary names such runs, and with `--leaks-replays-exact` they fail. It is no
#   warning of Python's, which a filter could turn into a failure. If another run fails, a note says
#   that it is another run.
# - It is an error, and neither passes nor fails, if the file cannot be read or the program cannot
#   be imported: then nothing is known about the program.
#
# - It is an error, too, if only the file names the program: to import it runs code, and a file may
#   come from anybody. `--leaks-replays` trusts the files, and `FILE::MODULE:CALLABLE` names it.
#
# A pair or version is part of this distribution, so a file that names one imports nothing foreign.
# The file of a hunt is an error: its run needs a server from outside.
#
# The run is not checked by the plugin. It is checked by itself, with the settings of the
# program, which may allow what the plugin would report.

import os
import shlex
import sys
from collections.abc import Collection, Iterable, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from muxleak.files import shown
from muxleak.plugin.options import is_exact, mode_of
from muxleak.server.check import recorded_subject
from muxleak.sim.fresh_process import why_it_differs
from muxleak.sim.programs import find_program, locate
from muxleak.sim.replay import PROGRAM, SEQUENCE, SUFFIX, Replay, ReplayError

if TYPE_CHECKING:
    from collections.abc import Iterator

_SHOWN = 20  # replays that the summary names
_PROPERTY = "muxleak_another_run"  # of the report of a replay; JUnit files have it, too
_FRESH_SECONDS = 20.0  # for a run in a process of its own
_PAIRS = "muxleak_scenarios.pairs.replay"  # by name, since it stands in a higher package
_BEYOND = "needs wakeups=True: stock asyncio does not wake tasks in this order"


class Replays:
    """The hook that collects replay files.

    Args:
        named: the files to collect, each with the programs that may be imported for it; empty for
            all files, with any program.
    """

    def __init__(self, named: Mapping[Path, Collection[str]]) -> None:
        self._named = named
        self._others: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a replay that took another course; with pytest-xdist, the controller does."""
        if report.when == "call":
            self._others += [
                str(value) for name, value in report.user_properties if name == _PROPERTY
            ]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Name the replays that passed on another course than the recorded one."""
        count = len(self._others)
        if not count or hasattr(terminalreporter.config, "workerinput"):
            return
        terminalreporter.section("replays")
        noun = "replay" if count == 1 else "replays"
        head = (
            f"{count} {noun} passed and took another course than the recorded run: the program "
            "or its settings have changed, or it depends on hash order (muxleak replay FILE "
            "PROGRAM says which)"
        )
        lines = [head, *(f"  {each}" for each in self._others[:_SHOWN])]
        if count > _SHOWN:
            lines.append(f"  and {count - _SHOWN} more")
        for line in lines:
            terminalreporter.write_line(line)

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> Any:
        """Return a collector for a file with the suffix of replay files, without opening it."""
        if not file_path.name.endswith(SUFFIX):
            return None
        programs = self._named.get(file_path.resolve()) if self._named else None
        if self._named and programs is None:
            return None
        return ReplayFile.from_parent(parent, path=file_path, programs=programs)


class ReplayFile(pytest.File):
    """A replay file, which holds one run."""

    def __init__(self, *, programs: Collection[str] | None, **settings: Any) -> None:
        super().__init__(**settings)
        self._programs = programs

    def collect(self) -> Iterable[pytest.Item]:
        """Yield the one test.

        Raises:
            ReplayError: the file is not a replay file, cannot be read, or names a program that
                nobody else names.
        """
        try:
            found = Replay.load(self.path)
        except OSError as error:
            raise ReplayError(f"{self.path}: {error.strerror or error}") from error
        is_foreign = found.kind != SEQUENCE
        if is_foreign and self._programs is not None and found.name not in self._programs:
            path = _shown(self.path)
            again = shlex.join(["pytest", f"{path}::{found.name}"])
            raise ReplayError(
                f"{path}: names the program {shown(found.name)}, which would be imported; if you "
                f"trust that code: {again}, or --leaks-replays"
            )
        yield ReplayItem.from_parent(self, name=found.name or "(no program)", found=found)

    # pytest calls it with the exception alone; its own collectors are declared as here.
    def repr_failure(  # type: ignore[override]
        self, excinfo: pytest.ExceptionInfo[BaseException]
    ) -> Any:
        """Return the message alone if the file is not valid."""
        if isinstance(excinfo.value, ReplayError):
            return str(excinfo.value)
        return super().repr_failure(excinfo)


class ReplayItem(pytest.Item):
    """A run that failed when the file was written."""

    def __init__(self, *, found: Replay, **settings: Any) -> None:
        super().__init__(**settings)
        self.found = found
        self._subject: Any = None
        if mode_of(self.config) != "off":
            reason = "the run is checked by itself, with the settings of the program"
            self.add_marker(pytest.mark.leaks_allowed(reason=reason))

    def setup(self) -> None:
        """Import the program; modules in the project's root are found, too.

        Raises:
            pytest.fail.Exception: the program cannot be imported.
        """
        root = self.config.rootpath
        with _importing(root):
            try:
                self._subject = _subject(self.found)
            except (TypeError, ValueError, ImportError) as error:
                reason = (
                    f"{_shown(self.path)}: {error}; expected a program that can be imported from "
                    f"{root}. Remove the file if its program no longer exists"
                )
                pytest.fail(reason, pytrace=False)

    def runtest(self) -> None:
        """Run the program again, with the choices of the file.

        Raises:
            BaseException: the error of the run, with notes that say how to replay it.
            pytest.fail.Exception: the run passed on another course, and that is to fail.
        """
        with _importing(self.config.rootpath):
            outcome = self._subject.repeat(self.found)
        differs = bool(self.found.trace) and outcome.trace != self.found.trace
        error = outcome.error
        if error is None:
            if differs:
                self._took_another_course()
            return
        if outcome.steps:
            error.add_note(f"steps: {' | '.join(outcome.steps)}")
        if outcome.beyond:
            error.add_note(_BEYOND)
        if differs:
            error.add_note(
                "the program no longer follows the recorded run: it has changed, and fails"
            )
        error.add_note(f"replay with: muxleak replay {_shown(self.path)}")
        raise error

    def _took_another_course(self) -> None:
        """Note a run that passed on another course than the recorded one.

        Raises:
            pytest.fail.Exception: `--leaks-replays-exact` is on.
        """
        if not is_exact(self.config):
            self.user_properties.append((_PROPERTY, f"{_shown(self.path)}::{self.name}"))
            return
        why: object = "the server or its settings have changed, or it depends on hash order"
        if self.found.kind == PROGRAM:
            with _importing(self.config.rootpath):
                why = why_it_differs(self.found.name, self.found, timeout=_FRESH_SECONDS)
        reason = (
            f"{_shown(self.path)}: passes, but takes another course than the recorded run: {why}. "
            f"Record it again with muxleak fuzz {self.found.name}, or run without "
            "--leaks-replays-exact"
        )
        pytest.fail(reason, pytrace=False)

    def teardown(self) -> None:
        """Release the program."""
        self._subject = None

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Return the error with the frames of the program, without those of the plugin."""
        frames = list(excinfo.traceback)
        own = [at for at, frame in enumerate(frames) if str(frame.path) == __file__]
        if own:
            # pytest must show at least one frame; without one of the program it is the plugin's.
            kept = frames[own[-1] + 1 :] or frames[own[-1] :]
            excinfo.traceback = type(excinfo.traceback)(kept)
        return super().repr_failure(excinfo, style or "short")

    def reportinfo(self) -> tuple[Path, None, str]:
        """Return the file, no line, and the name in reports."""
        return self.path, None, f"{_shown(self.path)}: {self.name}"


def _subject(found: Replay) -> Any:
    """Return the subject of a replay.

    Raises:
        TypeError, ValueError, ImportError: there is none; the message says what was expected.
    """
    if found.kind == SEQUENCE:
        return import_module(_PAIRS).recorded_subject(found)
    is_program = found.kind == PROGRAM
    return recorded_subject(found, (find_program if is_program else locate)(found.name))


def _shown(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


@contextmanager
def _importing(root: Path) -> "Iterator[None]":
    """For the length of a block, import modules from the project's root, as the last place."""
    entry = os.fspath(root)
    added = entry not in sys.path
    if added:
        sys.path.append(entry)
    try:
        yield
    finally:
        if added and entry in sys.path:
            sys.path.remove(entry)
