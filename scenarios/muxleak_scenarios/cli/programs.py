"""Programs of the user, for fuzz and replay: import, failures, and the line they are at."""

# A program is named as "module:callable", and imported from the current folder first, as `python
# -m` does it: the installed `muxleak` has its own folder on the path instead.
#
# A failure of a program is shown as its error with the line that raised it, and not as a traceback:
# most frames of that belong to the simulation and to asyncio. An error of the simulation itself
# (SimulationError: the program did what cannot be simulated) is no failure, but bad usage.

from __future__ import annotations

import contextlib
import sys
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from rich.text import Text

from muxleak.checks.report import LeakError
from muxleak.introspect.sites import is_internal, short_path
from muxleak.search import find_leaks
from muxleak.server.check import recorded_subject, search_server
from muxleak.sim import (
    DeadlockError,
    ProgramError,
    SimulationError,
    TimeLimitError,
    find_program,
)
from muxleak.sim.programs import locate
from muxleak_scenarios.cli import render

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence
    from types import FrameType

    from rich.console import Console

    from muxleak.search import Outcome, Subject
    from muxleak.sim import Replay

    Program = Callable[[], Coroutine[Any, Any, object]]

_STEPS_SHOWN = 30
_REPORTS = (LeakError, DeadlockError, TimeLimitError)  # errors that have a report
BEYOND = (
    "beyond stock asyncio: wakes tasks in an order that its first-in, first-out queue never has"
)


_SEARCHES = (find_leaks.__code__, search_server.__code__)
FRESH_SECONDS = 20.0
"""Time for a run in a process of its own."""


class ProgramFailure(NamedTuple):
    """A failing run.

    Attributes:
        error: the exception that it raised.
        steps: the choices of the schedule, in words.
        beyond: True if stock asyncio never runs it in this order.
    """

    error: BaseException
    steps: Sequence[str]
    beyond: bool

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        error = self.error
        report = error.report.to_json() if isinstance(error, _REPORTS) else None
        return {
            "error": type(self.error).__name__,
            "message": str(self.error),
            "raised_at": _raised_at(self.error) or None,
            "steps": list(self.steps),
            "beyond_stock_asyncio": self.beyond,
            "report": report,
        }


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


def failure(
    name: str, error: BaseException, steps: Sequence[str], replay: str, *, beyond: bool
) -> ProgramFailure:
    """Return a failing run.

    Args:
        name: of the program.
        error: the exception that the run raised.
        steps: the choices of the schedule, in words.
        replay: the command line that runs it again.
        beyond: True if stock asyncio never runs it in this order.

    Raises:
        click.UsageError: the program cannot be simulated.
    """
    if isinstance(error, SimulationError):
        raise click.UsageError(
            f"{name} cannot be simulated: {error}; keep that out of it, or allow it with "
            f"@simulated(allow=...). It happens in: {replay}"
        )
    return ProgramFailure(error, steps, beyond)


def show(console: Console, failed: ProgramFailure) -> None:
    """Print the steps of a failing run, its error, and the line that raised it."""
    console.print()
    for step in failed.steps[:_STEPS_SHOWN]:
        render.copyable(console, step)
    if (more := len(failed.steps) - _STEPS_SHOWN) > 0:
        render.body(console, Text(f"and {render.plural(more, 'more step')}", render.QUIET))
    if failed.steps:
        console.print()
    error = failed.error
    first, *lines = f"{type(error).__name__}: {error}".removesuffix(": ").splitlines()
    console.print(Text(first, render.BAD), soft_wrap=True)
    for line in lines:
        render.copyable(console, line, 0)
    # The report of a leak has its own places; a line of the simulator would only mislead.
    if not isinstance(error, _REPORTS) and (at := _raised_at(error)):
        render.copyable(console, f"raised at {at}")
    if failed.beyond:
        console.print(BEYOND)
    console.print()


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


def _raised_at(error: BaseException) -> str:
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None:
        return ""
    return _line(last.tb_frame, last.tb_lineno)
