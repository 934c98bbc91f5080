"""``muxleak fuzz module:callable``: search an asyncio program on virtual time."""

# The search runs the program thousands of times a second, so nothing here may cost time for each
# run: `Gauge` is called after each, and looks at the terminal ten times a second only. What the
# program prints is thrown away; `muxleak replay` of the finding shows it once.
#
# A program under test may do anything. It may never return, which no exception would end: then an
# alarm, set a grace after the time of the budget, ends the whole process and says which line it is
# at. It may call sys.exit, or do what the simulation forbids: both are bad usage (2), and not a
# finding (1).

from __future__ import annotations

import math
import os
import sys
import time
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from muxleak.search import Progress, find_leaks
from muxleak.sim.fresh_process import difference
from muxleak_scenarios.cli import interrupt, programs, render, replay_files

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from muxleak.search import Finding, Outcome
    from muxleak.sim import Options
    from muxleak_scenarios.cli.programs import Program
    from muxleak_scenarios.cli.render import Steps
    from muxleak_scenarios.pairs.campaign import Budget

_REFRESH = 0.1  # seconds between two updates of the progress
_WHY = {"time": "; the time is up", "stopped": "; stopped"}


def fuzz_program(
    name: str, budget: Budget, seed: int, out: Path, *, wakeups: bool, as_json: bool
) -> int:
    """Search a program, print the finding, and write its file.

    Args:
        name: of the program, as "module:callable".
        budget: the limits of the search.
        seed: of the random schedules.
        out: the file of the finding, or the folder for it.
        wakeups: permute the wake-ups of tasks, too.
        as_json: print JSON.

    Returns:
        The exit code.

    Raises:
        click.UsageError: there is no such program, or it cannot be simulated.
    """
    program = programs.read(name)
    gauge, found = _search(name, program, budget, seed, wakeups=wakeups)
    ended = gauge.ended if gauge.ended or found is None else "shrunk"
    data: dict[str, Any] = {
        "subject": name,
        "seed": seed,
        "budget": budget._asdict(),
        "wakeups": wakeups,
        "ended": ended or "examples",
        "runs": gauge.last.examples if found is None else found.examples,
        "shrinks": 0 if found is None else found.shrinks,
        "found": found is not None,
    }
    if found is None:
        if as_json:
            render.emit_json(data)
        else:
            show_nothing(data, "schedule")
        return interrupt.CODE if ended == "stopped" else 0
    # The function may know itself under another name, which the import path does not lead to.
    replay = replace(found.replay, name=name)
    line = render.command("replay", replay.line, name)
    failed = programs.failure(name, found.error, found.steps, line, beyond=found.beyond)
    path, where = replay_files.keep_replay(out, replay)
    options = _options(wakeups=wakeups)
    differs = difference(name, replay, found.error, options=options, timeout=programs.FRESH_SECONDS)
    if as_json:
        more = {
            "shrunk": ended == "shrunk",
            "repeatable": differs is None,
            "differs_by": None if differs is None else differs.cause,
            "replay": f"{replay.line} {name}",
            "trace": replay.trace,
            "file": None if path is None else str(path),
        }
        render.emit_json({**data, **more, **failed.to_json()})
        return 1
    note = f"{_WHY[ended]}, so perhaps not the simplest" if ended in _WHY else ""
    head = f" in {name}, in run {found.examples:,}{note}"
    again = [line] if path is None else [line, render.command("replay", str(path), name)]
    show_found(head, failed, again, where)
    if differs is not None:
        render.stdout().print(f"not the same run in a fresh process: {differs}", style=render.BAD)
    return 1


def show_found(head: str, failed: programs.ProgramFailure, again: list[str], where: str) -> None:
    """Print a failing run.

    Args:
        head: the first line, after the verdict.
        failed: the run.
        again: the commands that run it again.
        where: the end of the line before them.
    """
    console = render.stdout()
    console.print(Text.assemble(("found", render.BAD), head))
    programs.show(console, failed)
    console.print(f"again{where}:")
    for line in again:
        render.copyable(console, line)


class Gauge:
    """The progress function of a search, which also ends it.

    Attributes:
        last: the progress after the last run.
        ended: "time" or "stopped" if the search was ended early, else "".
    """

    def __init__(
        self, name: str, budget: Budget, steps: Steps, stopped: Callable[[], bool]
    ) -> None:
        self.last = Progress(0)
        self.ended = ""
        self._name = name
        self._budget = budget
        self._steps = steps
        self._stopped = stopped
        self._begun = self._told = self._returned = time.monotonic()

    def late(self, _number: int, frame: FrameType | None) -> None:
        """End the process, with a line that says where the run is that does not return."""
        seconds = time.monotonic() - self._returned
        number = self.last.examples + self.last.shrinks + 1
        interrupt.leave(
            f"{self._name}: run {number:,} has not ended for {seconds:.0f} s; it is at "
            f"{programs.place(frame)}",
            1,
        )

    def __call__(self, now: Progress) -> bool:
        """Note a run; return True to end the search."""
        self.last = now
        self._returned = clock = time.monotonic()
        seconds = clock - self._begun
        if clock - self._told >= _REFRESH:
            self._told = clock
            self._steps.follow(seconds if self._budget.examples is None else now.examples)
            self._steps.say(progress_in_words(self._name, now, seconds))
        if self._stopped():
            self.ended = "stopped"
        elif self._budget.seconds is not None and seconds >= self._budget.seconds:
            self.ended = "time"
        return bool(self.ended)


def progress_in_words(name: str, now: Progress, seconds: float) -> str:
    """Return the progress of a search in words."""
    runs = now.examples + now.shrinks
    head = f"{runs / seconds:,.0f} schedules/s, {runs:,} run"
    if now.best is None:
        return f"{head}: searches {name}"
    draws, decided = now.best.program, now.best.environment
    off = len(decided) - decided.count(0)
    best = f"{render.plural(len(draws), 'draw')} and {render.plural(off, 'deviation')}"
    return f"{head}, best {best}: shrinks {name}"


def _options(*, wakeups: bool) -> Options:
    return {"wakeups": True} if wakeups else {}


def _search(
    name: str, program: Program, budget: Budget, seed: int, *, wakeups: bool
) -> tuple[Gauge, Finding[Outcome] | None]:
    with (
        programs.running(name),
        interrupt.caught() as stopped,
        render.progress(budget.examples or budget.seconds) as steps,
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
        redirect_stdout(nowhere),
    ):
        gauge = Gauge(name, budget, steps, stopped)
        steps.say(f"searches {name}")
        # A budget of examples has no time limit, so a run that never returns is left to Ctrl-C.
        limit = math.inf if budget.seconds is None else budget.seconds + interrupt.GRACE
        try:
            with interrupt.alarm(limit, gauge.late):
                found = find_leaks(
                    program,
                    examples=budget.examples or sys.maxsize,
                    seed=seed,
                    progress=gauge,
                    **_options(wakeups=wakeups),
                )
        except RuntimeError as error:
            raise click.UsageError(f"{name}: {error}") from None
    return gauge, found


def show_nothing(data: dict[str, Any], noun: str) -> None:
    """Say that a search has found nothing, and what its budget was."""
    budget, limits = data["budget"], []
    if budget["examples"] is not None:
        limits.append(render.plural(budget["examples"], noun))
    if budget["seconds"] is not None:
        limits.append(f"{budget['seconds']:g} s")
    within = "stopped before" if data["ended"] == "stopped" else "within"
    ran = render.plural(data["runs"], noun)
    text = f": {ran}, {within} the budget of {' and '.join(limits)}"
    render.stdout().print(Text.assemble(("nothing found", render.GOOD), text))
