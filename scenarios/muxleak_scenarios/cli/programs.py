"""Programs of the user's own: how they are named, how their output is kept apart, how they fail."""

from __future__ import annotations

import sys
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from rich.text import Text

from muxleak.checks.report import LeakError
from muxleak.introspect.sites import is_internal, short_path
from muxleak.search import find_leaks
from muxleak.sim import ProgramError, SimulationError, find_program
from muxleak_scenarios.cli import render

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence
    from types import FrameType

    from rich.console import Console

    Program = Callable[[], Coroutine[Any, Any, object]]

_STEPS_SHOWN = 30
BEYOND = (
    "beyond stock asyncio: takes wake-ups of tasks in an order that its ready queue, first in, "
    "first out, never has"
)


class ProgramFailure(NamedTuple):
    """How a run failed; ``beyond`` says that stock asyncio cannot run it so."""

    error: BaseException
    steps: Sequence[str]
    beyond: bool

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        report = self.error.report.to_json() if isinstance(self.error, LeakError) else None
        return {
            "error": type(self.error).__name__,
            "message": str(self.error),
            "raised_at": _raised_at(self.error) or None,
            "steps": list(self.steps),
            "beyond_stock_asyncio": self.beyond,
            "report": report,
        }


def read(name: str) -> Program:
    """Import a program by "module:callable", from the current folder too, as ``python -m`` does."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        with redirect_stdout(sys.stderr):
            return find_program(name)
    except ProgramError as error:
        raise click.UsageError(str(error)) from None


@contextmanager
def running(name: str) -> Iterator[None]:
    """Say in words what ends a block of runs without being a failure of the program."""
    try:
        yield
    except SystemExit as error:
        raise click.UsageError(
            f"{name} calls sys.exit({error.code!r}), which ends its run and ours; raise an "
            "exception instead"
        ) from None


def failure(
    name: str, error: BaseException, steps: Sequence[str], replay: str, *, beyond: bool
) -> ProgramFailure:
    """What a failing run is shown as.

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
    """Print the steps of a failing run, what went wrong and where."""
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
    if at := _raised_at(error):
        render.copyable(console, f"raised at {at}")
    if failed.beyond:
        console.print(BEYOND)
    console.print()


def place(frame: FrameType | None) -> str:
    """Where a program is: the innermost line that is neither asyncio's nor ours."""
    while frame is not None and is_internal(frame.f_code.co_filename):
        # Beyond the search that runs it stands what has started us.
        frame = None if frame.f_code is find_leaks.__code__ else frame.f_back
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
