"""Searches the runs of a program for one that fails, shrinks it, and returns its replay."""

# A scheduler invents decisions, a run is made with them, and the first run with an error ends the
# search. The runs of the search and of the shrinker record no trace, which would slow them; the
# run that is reported is made once more with one. That last run also proves that the failure can
# be repeated at all.
#
# A shrunk run must fail in the same way, or the shrinker slips to another bug. `signature` defines
# "the same way": for a leak, the kinds, names and creation sites of the groups in the report; for
# any other error, its type and the line that raised it.

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

from muxleak.checks.report import LeakError
from muxleak.search.shrink import Bytes, shrink
from muxleak.sim.choices import Choices
from muxleak.sim.guard import guarded
from muxleak.sim.replay import Replay
from muxleak.sim.run import Run, run
from muxleak.sim.schedulers import TURNS, portfolio
from muxleak.sim.simulate import name_of_program, settings_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from muxleak.sim.settings import Settings
    from muxleak.sim.simulate import Options

_STEPS_SHOWN = 12


class Progress(NamedTuple):
    """The progress of a search.

    Attributes:
        examples: number of runs of the search.
        shrinks: number of runs spent on shrinking.
        best: the decisions of the simplest failing run so far; None before there is one.
    """

    examples: int
    shrinks: int = 0
    best: Bytes | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """The simplest failing run that a search has reached.

    Attributes:
        error: the error of the run.
        steps: the steps that the program announced, and the faults and cancellations drawn.
        replay: the facts by which the run can be repeated.
        examples: number of runs until the first failure, that one included.
        shrinks: number of runs spent on shrinking.
        beyond: True if it needs permuted wake-ups of tasks, which stock asyncio never shows.
    """

    error: BaseException
    steps: tuple[str, ...]
    replay: Replay
    examples: int
    shrinks: int
    beyond: bool

    def __str__(self) -> str:
        lines = [f"{type(self.error).__name__}: {self.error}"]
        if self.steps:
            more = len(self.steps) - _STEPS_SHOWN
            rest = f" | and {more} more" if more > 0 else ""
            lines.append(f"steps: {' | '.join(self.steps[:_STEPS_SHOWN])}{rest}")
        if self.beyond:
            lines.append("needs wakeups=True: stock asyncio does not wake tasks in this order")
        lines.append(f"found in run {self.examples}, replay with: {self.replay.line}")
        return "\n".join(lines)


def find_leaks(
    program: Callable[[], Coroutine[Any, Any, object]],
    *,
    examples: int = 1_000,
    seed: int = 0,
    schedulers: Sequence[str] = TURNS,
    shrinking: bool = True,
    progress: Callable[[Progress], object] = lambda _: False,
    **options: Unpack[Options],
) -> Finding | None:
    """Run a program in many ways until a run fails: a leak, a deadlock, any exception.

    Deterministic for a seed. The first run takes the plain course in all that the program does not
    draw itself.

    Args:
        program: an async function without arguments; it is run afresh each time, in one process.
        examples: number of runs, at most.
        seed: the seed of all chance.
        schedulers: the schedulers that take turns; see `muxleak.sim.schedulers`.
        shrinking: True to simplify the failing run.
        progress: called after each run; if it returns a true value, the search ends with the
            simplest failing run so far.
        options: settings, see `Settings`.

    Returns:
        The finding, or None if no run failed.

    Raises:
        RuntimeError: the failing run cannot be repeated, since the program depends on something
            that the simulation does not decide.
        ValueError: a scheduler is unknown.
    """
    settings = settings_of(program, options)
    with guarded():
        for number, choices in enumerate(
            portfolio(seed, schedulers, wakeups=settings.wakeups), start=1
        ):
            result = run(program, choices, settings, traced=False)
            if result.error is not None:
                return _finding(
                    program, settings, result, number, shrinking=shrinking, progress=progress
                )
            if progress(Progress(number)) or number >= examples:
                break
    return None


def attempt(
    program: Callable[[], Coroutine[Any, Any, object]], settings: Settings, data: Bytes
) -> Run[object]:
    """Run a program with the decisions in `data`, without a trace."""
    return run(program, Choices(*data), settings, traced=False)


def signature(error: BaseException | None) -> object:
    """Return a value that is equal for two errors that count as the same failure."""
    if error is None:
        return None
    if isinstance(error, LeakError):
        return frozenset((group.kind, group.name, group.site) for group in error.report.groups)
    last, trace = None, error.__traceback__
    while trace is not None:
        last, trace = trace, trace.tb_next
    return type(error), last.tb_lineno if last is not None else 0


def _finding(
    program: Callable[[], Coroutine[Any, Any, object]],
    settings: Settings,
    first: Run[Any],
    number: int,
    *,
    shrinking: bool,
    progress: Callable[[Progress], object],
) -> Finding:
    best, spent = Bytes(*first.choices.trimmed()), 0
    if shrinking:
        wanted = signature(first.error)

        def fails(data: Bytes) -> Bytes | None:
            result = attempt(program, settings, data)
            return Bytes(*result.choices.trimmed()) if signature(result.error) == wanted else None

        best, spent = shrink(
            best, fails, enough=lambda best, spent: progress(Progress(number, spent, best))
        )
    last = run(program, Choices(*best), settings)
    if last.error is None:
        raise RuntimeError(
            "the failing run cannot be repeated: the program depends on something that the "
            f"simulation does not decide; it failed with {first.error!r}"
        )
    replay = Replay(
        *best,
        wakeups=settings.wakeups,
        gaps=settings.gaps,
        name=name_of_program(program),
        trace=last.trace_hash,
        verdict=(str(last.error) or type(last.error).__name__).splitlines()[0],
        steps=tuple(last.steps),
    )
    return Finding(
        last.error, tuple(last.steps), replay, number, spent, beyond=bool(last.choices.woken)
    )
