"""Async programs on the simulator, as a subject of the search; `find_leaks`."""

# A scheduler invents the decisions of a run (`muxleak.sim.schedulers`). Each run has a loop and a
# network of its own, so runs cannot influence each other.
#
# Two runs fail in the same way if they leave groups of the same kinds, names and creation sites;
# for any other error, if its type and the line that raised it are equal.

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Unpack

from muxleak.checks.report import LeakError
from muxleak.search.search import EXAMPLES, Progress, UnrepeatableError, search
from muxleak.search.subject import Decisions, Outcome, Subject
from muxleak.sim import real_clock
from muxleak.sim.fresh_process import why_it_differs
from muxleak.sim.guard import guarded
from muxleak.sim.replay import PROGRAM
from muxleak.sim.run import run
from muxleak.sim.schedulers import TURNS, portfolio
from muxleak.sim.simulate import name_of_program, rerun, settings_of
from muxleak.sim.time_limits import TimeLimitError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable, Iterator, Sequence

    from muxleak.search.finding import Finding
    from muxleak.sim.choices import Choices
    from muxleak.sim.replay import Replay
    from muxleak.sim.run import Run
    from muxleak.sim.settings import Settings
    from muxleak.sim.simulate import Options

_CLEAN = Outcome()
_FRESH_SECONDS = 20.0  # for a run in a process of its own


class ProgramSubject(Subject[Outcome]):
    """An async program that runs in a fresh simulation each time.

    Args:
        program: an async function without arguments.
        settings: the settings of the runs.
        schedulers: the schedulers that take turns; see `muxleak.sim.schedulers`.
    """

    def __init__(
        self,
        program: Callable[[], Coroutine[Any, Any, object]],
        settings: Settings,
        schedulers: Sequence[str] = TURNS,
    ) -> None:
        self.name = name_of_program(program)
        self._program = program
        self._settings = settings
        self._schedulers = schedulers

    def portfolio(self, seed: int) -> Iterator[Choices]:
        """Yield choices of the schedulers in turn; the first take the plain course."""
        return portfolio(seed, self._schedulers, wakeups=self._settings.wakeups)

    def run(self, choices: Choices, *, traced: bool = False) -> Outcome:
        """Run the program once."""
        with real_clock.watched(watching=traced) as read:
            result = run(self._program, choices, self._settings, traced=traced)
        result.error = real_clock.noting(result.error, read)
        return _CLEAN if result.error is None else outcome_of(result)

    def replay(self, outcome: Outcome) -> Replay:
        """Return the replay of a run."""
        settings = self._settings
        found = outcome.recorded(PROGRAM, self.name)
        return replace(found, wakeups=settings.wakeups, gaps=settings.gaps)

    def repeat(self, replay: Replay) -> Outcome:
        """Run a recorded run again, with its settings, or as an earlier version ran it."""
        return outcome_of(rerun(replay, self._program))


def outcome_of(result: Run[Any]) -> Outcome:
    """Return the outcome of a run in the simulation."""
    error = result.error
    trace, steps, woken = result.trace_hash, tuple(result.steps), bool(result.choices.woken)
    if error is None:
        return Outcome(steps=steps, trace=trace, beyond=woken)
    return Outcome(
        Decisions.of(result.choices),
        signature(error),
        (str(error) or type(error).__name__).splitlines()[0],
        steps,
        error.report.groups if isinstance(error, LeakError) else (),
        error,
        woken,
        trace,
    )


def find_leaks(
    program: Callable[[], Coroutine[Any, Any, object]],
    *,
    examples: int = EXAMPLES,
    seed: int = 0,
    schedulers: Sequence[str] = TURNS,
    shrinking: bool = True,
    progress: Callable[[Progress], object] = lambda _: False,
    **options: Unpack[Options],
) -> Finding[Outcome] | None:
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
            that the simulation does not decide. Runs in fresh processes tell what that is.
        ValueError: a scheduler is unknown.
    """
    subject = ProgramSubject(program, settings_of(program, options), schedulers)
    try:
        with guarded():
            return search(
                subject, examples=examples, seed=seed, shrinking=shrinking, progress=progress
            )
    except UnrepeatableError as error:
        replay = subject.replay(error.outcome)
        differs = why_it_differs(subject.name, replay, options=options, timeout=_FRESH_SECONDS)
        why = "" if differs.cause == "unknown" else str(differs)
        again = UnrepeatableError(error.outcome, why)
        if not why:
            again.add_note(f"{differs}; that would tell why")
        raise again from None


def signature(error: BaseException) -> Hashable:
    """Return a value that is equal for two errors that count as the same failure."""
    if isinstance(error, LeakError):
        return frozenset((group.kind, group.name, group.site) for group in error.report.groups)
    if isinstance(error, TimeLimitError):
        return type(error), error.setting
    last, trace = None, error.__traceback__
    while trace is not None:
        last, trace = trace, trace.tb_next
    return type(error), last.tb_lineno if last is not None else 0
