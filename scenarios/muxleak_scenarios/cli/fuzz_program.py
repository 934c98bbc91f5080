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
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from muxleak.search import Progress, find_leaks
from muxleak.sim.fresh_process import difference
from muxleak_scenarios.cli import interrupt, programs, render, replay_files
from muxleak_scenarios.cli.search_report import SearchReport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from muxleak.search import Finding, Outcome
    from muxleak.sim import Options
    from muxleak_scenarios.cli.render import Steps
    from muxleak_scenarios.pairs.campaign import Budget

_REFRESH = 0.1  # seconds between two updates of the progress


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
    options: Options = {"wakeups": True} if wakeups else {}
    try:
        with searching(name, budget) as gauge:
            found = find_leaks(
                program,
                examples=budget.examples or sys.maxsize,
                seed=seed,
                progress=gauge,
                **options,
            )
    except RuntimeError as error:
        raise click.UsageError(f"{name}: {error}") from None
    report = gauge.report("schedule", seed, found)
    more: dict[str, Any] = {"wakeups": wakeups, **gauge.counts(found)}
    if found is None:
        if as_json:
            render.emit_json(report.to_json(**more))
        else:
            report.show_nothing(render.plural(gauge.last.examples, "schedule"))
        return report.code
    # The function may know itself under another name, which the import path does not lead to.
    replay = replace(found.replay, name=name)
    line = render.command("replay", replay.line, name)
    programs.check_simulated(name, found.error, line)
    path, where = replay_files.keep_replay(out, replay)
    differs = difference(name, replay, found.error, options=options, timeout=programs.FRESH_SECONDS)
    if as_json:
        more["repeatable"] = differs is None
        more["differs_by"] = None if differs is None else differs.cause
        more["trace"] = replay.trace
        render.emit_json(report.to_json(f"{replay.line} {name}", path, **more))
        return report.code
    again = [line] if path is None else [line, render.command("replay", str(path), name)]
    report.show(f"in run {found.examples:,}", again, where)
    if differs is not None:
        render.stdout().print(f"not the same run in a fresh process: {differs}", style=render.BAD)
    return report.code


@contextmanager
def searching(name: str, budget: Budget) -> Iterator[Gauge]:
    """Show the progress of a search, end it by its budget or Ctrl-C, and discard all output.

    Args:
        name: of the program or server.
        budget: the limits of the search.

    Yields:
        The progress function of the search.

    Raises:
        click.UsageError: the program called sys.exit.
    """
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
        with interrupt.alarm(limit, gauge.late):
            yield gauge


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

    def report(self, noun: str, seed: int, found: Finding[Outcome] | None) -> SearchReport:
        """Return the result of the search.

        Args:
            noun: one of its runs: "schedule" or "sequence".
            seed: of all chance.
            found: the finding; None without one.
        """
        ended = self.ended or ("examples" if found is None else found.ended or "shrunk")
        return SearchReport(self._name, noun, self._budget, seed, ended, found)

    def counts(self, found: Finding[Outcome] | None) -> dict[str, int]:
        """Return the number of runs of the search, and of those spent on shrinking, for JSON."""
        if found is None:
            return {"runs": self.last.examples, "shrinks": 0}
        return {"runs": found.examples, "shrinks": found.shrinks}

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
