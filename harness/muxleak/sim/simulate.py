"""Running a program in a simulation once: by choice, by chance, or again from a replay."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar, Unpack, overload

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


class Options(TypedDict, total=False):
    """Keyword arguments that say how a run goes; see `Settings`."""

    network: Network
    wakeups: bool
    cancel: tuple[str, ...]
    gaps: bool
    grace: float
    leaks: bool
    kinds: Iterable[str]
    check: Callable[[Simulation], object] | None
    allow: tuple[str, ...]
    step_limit: int


@dataclass(frozen=True, slots=True)
class Outcome(Generic[_T]):
    """What a run came to.

    Attributes:
        value: what the program returned.
        now: virtual seconds that passed.
        trace_hash: of all that happened; equal for equal runs, on every supported Python.
        events: the last of what happened.
        steps: what the program said it did.
        errors: what reached the loop's exception handler, such as exceptions never retrieved.
        replay: runs it again.
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
    """Give a program the settings it is always run with, so that a replay file needs none.

    As ``@simulated(network=...)``, or as ``@simulated`` for those that are the default.
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
) -> Outcome[_T]:
    """Run an async program to its end in a fresh simulation, then let all come to rest.

    Args:
        main: an async function without arguments.
        choices: decide what is free; without them and `seed`, everything takes the plain course.
        seed: decide by chance instead.
        options: how the run goes, see `Settings`.

    Raises:
        LeakError: something is left over.
        DeadlockError: the program cannot end; the message says who waits for what.
        LivelockError: it does not come to rest.
        SimulationError: it tried to leave the simulation.
        BaseException: whatever the program raised. To all of them a note is added that says how to
            repeat the run.
    """
    if choices is None:
        choices = Choices() if seed is None else Uniform(Random(seed))  # noqa: S311 - a search, not a secret
    settings = settings_of(main, options)
    with guarded():
        result = run(main, choices, settings)
    found = _replay(main, settings, result)
    if result.error is not None:
        result.error.add_note(f"replay with: {how_to_replay(main, settings, found)}")
        raise result.error
    return Outcome(
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
    **options: Unpack[Options],
) -> Run[object]:
    """Run a program as it was run before; what goes wrong is in `Run.error`.

    Args:
        source: a replay, its line, or the path of its file.
        program: the program; a file names its own.
        options: the settings of then, unless the program carries them (`simulated`).

    Raises:
        ReplayError: no such replay or program, or the run was another one.
    """
    if isinstance(source, Replay):
        found = source
    elif isinstance(source, str) and source.startswith(MARK):
        found = Replay.parse(source)
    else:
        found = Replay.load(source)
    result = rerun(found, program or _named(found.name), **options)
    if found.trace and result.trace_hash != found.trace:
        raise ReplayError(
            f"the run was another one: expected trace {found.trace}, got {result.trace_hash}; "
            "the program or its settings have changed"
        )
    return result


def rerun(
    found: Replay,
    program: Callable[[], Coroutine[Any, Any, object]],
    **options: Unpack[Options],
) -> Run[object]:
    """Run a program with the decisions of a replay, be the run the same as then or not."""
    settings = replace(settings_of(program, options), wakeups=found.wakeups, gaps=found.gaps)
    with guarded():
        return run(program, Choices(found.program, found.environment), settings)


def how_to_replay(program: Any, settings: Settings, found: Replay) -> str:
    """The command that runs it again; the line alone where a command could not do the same."""
    name = name_from_here(program)
    carried = replace(settings_of(program, {}), wakeups=settings.wakeups, gaps=settings.gaps)
    if not name or carried != settings:
        return found.line
    return f"muxleak replay {found.line} {name}"


def settings_of(program: Any, options: Options) -> Settings:
    """The settings that a program carries, with some of them replaced."""
    settings: Settings = getattr(program, _SETTINGS, None) or Settings()
    return replace(settings, **options) if options else settings


def name_of_program(program: Any) -> str:
    """A program as "module:qualified name"."""
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
