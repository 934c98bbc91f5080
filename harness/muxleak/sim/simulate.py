"""Runs a program in a simulation once: with given choices, by chance, or again from a replay."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar, Unpack, overload

from muxleak.files import shown
from muxleak.sim.choices import Choices
from muxleak.sim.guard import guarded
from muxleak.sim.programs import ProgramError, locate, name_from_here
from muxleak.sim.replay import MARK, Replay, ReplayError
from muxleak.sim.run import Run, run
from muxleak.sim.schedulers import Uniform
from muxleak.sim.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable
    from pathlib import Path

    from muxleak.sim.run import Simulation
    from muxleak.sim.settings import Network
    from muxleak.sim.trace import Event

_T = TypeVar("_T")
_Function = TypeVar("_Function", bound="Callable[..., object]")
_SETTINGS = "simulation_settings"
_STEPS_SHOWN = 30


class Options(TypedDict, total=False):
    """Keyword arguments for the settings of a run; see `Settings`."""

    network: Network
    wakeups: bool
    cancel: tuple[str, ...]
    gaps: bool
    grace: float
    budget: float
    leaks: bool
    kinds: Iterable[str]
    check: Callable[[Simulation], object] | None
    allow: tuple[str, ...]
    step_limit: int
    close_limit: float
    operation_limit: float
    time_limit: float


@dataclass(frozen=True, slots=True)
class SimulationOutcome(Generic[_T]):
    """The results of a run that raised no error.

    Attributes:
        value: the program's return value.
        now: virtual seconds that passed.
        trace_hash: the hash of all events; equal for equal runs, on every supported Python.
        events: the last events.
        steps: the steps that the program announced, and the faults and cancellations drawn.
        errors: reports to the loop's exception handler, such as exceptions never retrieved.
        replay: the facts by which the run can be repeated.
    """

    value: _T
    now: float
    trace_hash: str
    events: tuple[Event, ...]
    steps: tuple[str, ...]
    errors: tuple[str, ...]
    replay: Replay


@overload
def simulated(program: _Function, /) -> _Function: ...


@overload
def simulated(**options: Unpack[Options]) -> Callable[[_T], _T]: ...


def simulated(program: Any = None, /, **options: Unpack[Options]) -> Any:
    """Attach to a program the settings that it always runs with.

    `simulate`, `find_leaks`, ``muxleak fuzz`` and replays use them, so that a replay needs none.

    Use ``@simulated(network=...)``, or ``@simulated`` for the default settings.

    Args:
        program: an async function without arguments.
        options: settings, see `Settings`.

    Returns:
        The program itself, or a decorator.
    """

    def remember(program: _T) -> _T:
        setattr(program, _SETTINGS, Settings(**options))
        return program

    return remember if program is None else remember(program)


def simulate(
    main: Callable[[], Coroutine[Any, Any, _T]],
    *,
    choices: Choices | None = None,
    seed: int | None = None,
    **options: Unpack[Options],
) -> SimulationOutcome[_T]:
    """Run an async program to its end in a fresh simulation, then until the loop is quiescent.

    Every error that is raised carries a note with the command that repeats the run, and one with
    its steps if it has any.

    Args:
        main: an async function without arguments.
        choices: decide what is free; without them and `seed`, everything takes the plain course.
        seed: the seed to decide by chance.
        options: settings, see `Settings`.

    Returns:
        The results of the run.

    Raises:
        LeakError: something is left behind.
        DeadlockError: the program cannot end; the message lists the tasks and their waits.
        LivelockError: the loop does not settle.
        SimulationError: the program tried to leave the simulation.
        TimeLimitError: a close, an operation or the program took too much virtual time.
        BaseException: any exception of the program.
    """
    if choices is None:
        choices = Choices() if seed is None else Uniform(Random(seed))  # noqa: S311 - a search, not a secret
    settings = settings_of(main, options)
    with guarded():
        result = run(main, choices, settings)
    found = _replay(main, settings, result)
    if result.error is not None:
        result.error.add_note(f"replay with: {how_to_replay(main, settings, found)}")
        if result.steps:
            more = len(result.steps) - _STEPS_SHOWN
            rest = [f"and {more} more"] if more > 0 else []
            result.error.add_note(f"steps: {' | '.join([*result.steps[:_STEPS_SHOWN], *rest])}")
        raise result.error
    return SimulationOutcome(
        result.value,
        result.now,
        result.trace_hash,
        tuple(result.events),
        tuple(result.steps),
        tuple(result.errors),
        found,
    )


def replay(
    source: Replay | Path | str,
    program: Callable[[], Coroutine[Any, Any, object]] | None = None,
    *,
    trust: bool = False,
    **options: Unpack[Options],
) -> Run[object]:
    """Repeat a run of a program; an error of the program is in `Run.error`.

    Args:
        source: a replay, its line, or the path of its file.
        program: the program; a replay that a search made names its own, and so does a file.
        trust: True to import the program that a file names.
        options: the settings of the recorded run, unless the program carries them (`simulated`).

    Returns:
        The results of the run.

    Raises:
        ReplayError: no such replay or program, or the program no longer follows the recorded run.
    """
    if isinstance(source, Replay):
        found = source
    elif isinstance(source, str) and source.startswith(MARK):
        found = Replay.parse(source)
    else:
        found = Replay.load(source)
    if program is None and found.path and not trust:
        raise ReplayError(
            f"expected a program, since {found.path} names {shown(found.name)}, which would be "
            "imported; give it to replay(), or pass trust=True"
        )
    result = rerun(found, program or _named(found.name), **options)
    if found.trace and result.trace_hash != found.trace:
        raise ReplayError(
            f"the program no longer follows the recorded run (trace {found.trace}, got "
            f"{result.trace_hash}): it or its settings changed, or it depends on hash order"
        )
    return result


def rerun(
    found: Replay,
    program: Callable[[], Coroutine[Any, Any, object]],
    **options: Unpack[Options],
) -> Run[object]:
    """Run a program with the decisions of a replay, and accept a run that differs.

    A run that differs is made once more with connections that end as in earlier versions. If that
    is the recorded run, it is returned.

    Args:
        found: the replay.
        program: an async function without arguments.
        options: settings, see `Settings`.
    """
    settings = replace(settings_of(program, options), wakeups=found.wakeups, gaps=found.gaps)
    with guarded():
        result = run(program, Choices(found.program, found.environment), settings)
        if found.trace and result.trace_hash != found.trace:
            choices = Choices(found.program, found.environment)
            earlier = run(program, choices, settings, earlier=True)
            if earlier.trace_hash == found.trace:
                return earlier
    return result


def how_to_replay(program: Any, settings: Settings, found: Replay) -> str:
    """Return the command that repeats a run, or the line alone if no command can.

    No command can if the program has no importable name, or was run with settings that it does not
    carry.
    """
    name = name_from_here(program)
    carried = replace(settings_of(program, {}), wakeups=settings.wakeups, gaps=settings.gaps)
    if not name or carried != settings:
        return found.line
    return f"muxleak replay {found.line} {name}"


def settings_of(program: Any, options: Options) -> Settings:
    """Return the settings that a program carries, some of them replaced by `options`."""
    settings: Settings = getattr(program, _SETTINGS, None) or Settings()
    return replace(settings, **options) if options else settings


def name_of_program(program: Any) -> str:
    """Return the name of a program, "module:qualified name"."""
    name = getattr(program, "__qualname__", type(program).__qualname__)
    return f"{getattr(program, '__module__', '')}:{name}"


def _named(name: str) -> Callable[[], Coroutine[Any, Any, object]]:
    try:
        found: Callable[[], Coroutine[Any, Any, object]] = locate(name)
    except ProgramError as exc:
        raise ReplayError(f"no program {name!r}: {exc}; give it to replay()") from exc
    return found


def _replay(program: Any, settings: Settings, result: Run[Any]) -> Replay:
    data = result.choices.trimmed()
    return Replay(
        *data,
        wakeups=settings.wakeups,
        gaps=settings.gaps,
        name=name_of_program(program),
        trace=result.trace_hash,
        verdict=str(result.error or ""),
        steps=tuple(result.steps),
    )
