"""Programs of the user, for fuzz and replay: their import, and the line they are at."""

# A program is named as "module:callable", and imported from the current folder first, as `python
# -m` does it: the installed `muxleak` has its own folder on the path instead.
#
# An error of the simulation itself (SimulationError: the program did what cannot be simulated) is
# bad usage, and no failure of the program.

from __future__ import annotations

import contextlib
import sys
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from muxleak.introspect.sites import is_internal, short_path
from muxleak.search import find_leaks
from muxleak.server.check import recorded_subject, search_server
from muxleak.sim import ProgramError, SimulationError, find_program
from muxleak.sim.programs import locate

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from types import FrameType

    from muxleak.search import Outcome, Subject
    from muxleak.sim import Replay

    Program = Callable[[], Coroutine[Any, Any, object]]

_SEARCHES = (find_leaks.__code__, search_server.__code__)
FRESH_SECONDS = 20.0
"""Time for a run in a process of its own."""


def read(name: str) -> Program:
    """Import a program.

    Args:
        name: "module:callable".

    Raises:
        click.UsageError: there is none of that name, or it is no async function.
    """
    read_anything(name)
    try:
        return find_program(name)
    except ProgramError as error:
        raise click.UsageError(str(error)) from None


def subject_of(found: Replay) -> Subject[Outcome]:
    """Import the program of a replay.

    Raises:
        click.UsageError: there is none of its name, or it is no async function.
    """
    return recorded_subject(found, read(found.name))


def read_anything(name: str) -> Any:
    """Import whatever a name means.

    Args:
        name: "module:callable".

    Raises:
        click.UsageError: there is nothing of that name.
    """
    # The console script has its own folder on the path, where `python -m` has the current one.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        # A module may print when it is imported, which must not get into the JSON.
        with redirect_stdout(sys.stderr):
            return locate(name)
    except ProgramError as error:
        raise click.UsageError(str(error)) from None


@contextmanager
def running(name: str) -> Iterator[None]:
    """Turn sys.exit of a program into bad usage, for the length of a block that runs it.

    Raises:
        click.UsageError: the program called sys.exit.
    """
    try:
        yield
    except SystemExit as error:
        raise click.UsageError(
            f"{name} calls sys.exit({error.code!r}), which ends the search with the run; raise "
            "an exception instead"
        ) from None


def check_simulated(name: str, error: BaseException | None, replay: str) -> None:
    """Check that a run failed for a reason of its own.

    Args:
        name: of the program.
        error: the exception that the run raised.
        replay: the command line that runs it again.

    Raises:
        click.UsageError: the program cannot be simulated.
    """
    if isinstance(error, SimulationError):
        raise click.UsageError(
            f"{name} cannot be simulated: {error}; keep that out of it, or allow it with "
            f"@simulated(allow=...). It happens in: {replay}"
        )


def place(frame: FrameType | None) -> str:
    """Return the innermost line of a program that belongs neither to asyncio nor to muxleak."""
    # A context manager of muxleak's has a frame of contextlib below its own.
    passed = contextlib.__file__
    while frame is not None and (
        is_internal(frame.f_code.co_filename) or frame.f_code.co_filename == passed
    ):
        # The frames outside the search belong to whatever started muxleak, such as pytest.
        frame = None if frame.f_code in _SEARCHES else frame.f_back
    return "no line of its own" if frame is None else _line(frame, frame.f_lineno)


def _line(frame: FrameType, line: int) -> str:
    code = frame.f_code
    return f"{short_path(code.co_filename)}:{line} in {code.co_qualname}"


def raised_at(error: BaseException | None) -> str:
    """Return the line that raised an error; "" if none did."""
    last = None if error is None else error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None:
        return ""
    return _line(last.tb_frame, last.tb_lineno)
