"""`ServerMachine`: a state machine of Hypothesis whose rules may be coroutines."""

# Hypothesis runs a state machine by calling its rules as plain functions. It has been asked since
# 2018 (its issue #1371) to run coroutines, and leaves that to others, as it knows no event loop.
# Here each example has a loop of its own (`example_loops`), and every rule, invariant and teardown
# runs on it, the plain functions too, so that they may create tasks.
#
# The machine stays Hypothesis's own. Three places are changed:
#
# - `setup_state` gives the rules and invariants of a class. The functions in it are replaced by
#   ones that run the original on the loop. Drawing, bundles, preconditions, shrinking and the
#   printed program do not notice.
# - The instance gets attributes of the names of its rules that do the same. So the program that
#   Hypothesis prints for a failure, `state.join(name='ann')` and so on, runs as it is printed. Code
#   that is on the loop already, such as a rule that awaits another, gets the coroutine.
# - The instance gets an attribute `teardown`, which calls that of the class, whatever it is, then
#   checks that nothing is left, and closes the loop in any case.
#
# The loop is made by the first call on it: a machine whose constructor fails gets no teardown.
#
# After a rule the loop runs until it is quiescent, so that invariants see the effect of the rule.
# With `drawn` it runs for a drawn time only, as races need. Decisions are drawn inside the step of
# the rule, so that Hypothesis deletes them together with the step.
#
# If a rule has failed, or an exception is on its way when `teardown` is called, nothing is checked:
# the steps that would have ended things were not taken, and the first failure must not be replaced
# by another. The exception may also be the one by which Hypothesis ends an example early.

from __future__ import annotations

import asyncio
import inspect
import sys
from dataclasses import replace
from functools import partial, wraps
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from muxleak.checks.ignores import Ignore, valid_ignores
from muxleak.extras import need_hypothesis
from muxleak.ledger.kinds import DEFAULT_KINDS, GROWTH_KINDS, valid_kinds
from muxleak.search.example_loops import ExampleLoop, RealExample, SimulatedExample
from muxleak.search.strategies import SIZE, StepChoices
from muxleak.sim.choices import Choices
from muxleak.sim.settings import Settings

need_hypothesis("ServerMachine")

from hypothesis import currently_in_test_context, note  # noqa: E402 - after the message above
from hypothesis.control import current_build_context  # noqa: E402 - the same
from hypothesis.errors import InvalidDefinition  # noqa: E402 - the same
from hypothesis.stateful import (  # noqa: E402 - the same
    INITIALIZE_RULE_MARKER,
    INVARIANT_MARKER,
    RULE_MARKER,
    RuleBasedStateMachine,
)

_Function = TypeVar("_Function", bound="Callable[..., Any]")

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from hypothesis.stateful import Bundle
    from hypothesis.strategies import SearchStrategy

    # To a type checker, Hypothesis's own take only functions that return the value themselves.
    def rule(
        *,
        target: Bundle[Any] = ...,
        targets: Sequence[Bundle[Any]] = ...,
        **arguments: SearchStrategy[Any],
    ) -> Callable[[_Function], _Function]:
        """Do as `hypothesis.stateful.rule`, also for coroutine functions."""

    def initialize(
        *,
        target: Bundle[Any] = ...,
        targets: Sequence[Bundle[Any]] = ...,
        **arguments: SearchStrategy[Any],
    ) -> Callable[[_Function], _Function]:
        """Do as `hypothesis.stateful.initialize`, also for coroutine functions."""
else:
    from hypothesis.stateful import initialize, rule

__all__ = ["ServerMachine", "closes", "initialize", "rule"]

_TARGETS = ("simulated", "asyncio", "uvloop")
_BUDGET = 0.1  # seconds; each failing example that is shrunk takes them


class ServerMachine(RuleBasedStateMachine):
    """A `RuleBasedStateMachine` with an event loop for each example, and checks for leaks.

    Rules, invariants, initialize rules and `teardown` may be coroutine functions or plain
    functions; all run on the loop, in one task. Preconditions are plain functions. Everything that
    an example has made must be gone after its teardown. After a rule marked by `closes`, each
    connection that a server has accepted and that is over must have left nothing. Each leak is a
    failure of its own, which Hypothesis shrinks by itself.

    Attributes:
        target: "simulated" for virtual time and a network in memory; "asyncio" or "uvloop" for
            real time and sockets.
        simulation: settings of a simulated run; `kinds`, `grace` and `budget` among them.
        drawn: True if Hypothesis draws the decisions of the simulated network, and how far the
            program runs on after each rule. The plain course by default.
        timeout: seconds that a rule, an invariant or the teardown may take on a real loop.
        kinds: the kinds of leak that count on a real loop.
        budget: seconds in which leftovers may still end on a real loop.
        ignore: values of `ignore_created_by` and its like.

    Raises:
        TypeError: an attribute of the class has a wrong type.
        ValueError: an attribute has an impossible value.
        InvalidDefinition: a rule is a generator function, or a precondition a coroutine function.
        DeadlockError: a call cannot end, on a simulated loop; the message lists the tasks.
        CallTimeoutError: a call did not end in time, on a real loop; the message names the wait.
        LeakError: something is left.
    """

    target: ClassVar[str] = "simulated"
    simulation: ClassVar[Settings] = Settings()
    drawn: ClassVar[bool] = False
    timeout: ClassVar[float] = 5.0
    kinds: ClassVar[Iterable[str]] = DEFAULT_KINDS
    budget: ClassVar[float] = _BUDGET
    ignore: ClassVar[Ignore | Iterable[Ignore]] = ()

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        _validate(cls)

    def __init__(self) -> None:
        super().__init__()
        self._example: ExampleLoop | None = None
        self._over = self._closing = self._failed = False
        self._outside = sys.exc_info()[1]  # handled by the code around the test
        state = self.setup_state()
        steps: list[Any] = [*state.rules, *state.initializers, *state.invariants]
        own = vars(self)
        for each in steps:
            own[each.function.__name__] = partial(each.function, self)
        own["teardown"] = partial(_tear_down, self)

    @classmethod
    def setup_state(cls) -> Any:
        """Return the rules and invariants of the class; their functions run on the loop."""
        state = super().setup_state()
        # Hypothesis keeps the state of each class, so this is done once.
        lists: list[list[Any]] = [state.rules, state.initializers, state.invariants]
        for rules in lists:
            for at, each in enumerate(rules):
                if not hasattr(each.function, _DRIVEN):
                    rules[at] = replace(each, function=_driven(cls, each))
        return state

    def teardown(self) -> Awaitable[None] | None:  # type: ignore[override] # it may be a coroutine
        """Called at the end of each example, on its loop; does nothing by default."""
        return _Nothing()


def closes(rule: _Function) -> _Function:
    """Mark a rule that closes connections, so that leaks are looked for after it.

    ::

        @rule(client=consumes(clients))
        @closes
        async def leave(self, client): ...

    After each call of the rule, all connections that servers of the example have accepted and that
    are over are checked, and not only those that this call has closed.

    Args:
        rule: the function of a rule, or a rule.

    Returns:
        The same, marked.

    Raises:
        TypeError: it is no function, or an invariant.
    """
    given: object = rule
    if not callable(given) or isinstance(given, type):
        raise TypeError(f"closes marks a rule, got {rule!r}")
    if hasattr(rule, INVARIANT_MARKER):
        raise TypeError(f"closes marks rules, got the invariant {rule.__qualname__}")

    @wraps(rule)
    def closing(machine: Any, *args: Any, **arguments: Any) -> Any:
        if not isinstance(machine, ServerMachine):
            raise TypeError(f"closes marks rules of a ServerMachine, got one of {machine!r}")
        machine._closing = True  # noqa: SLF001 - of this module
        return rule(machine, *args, **arguments)

    # `wraps` has copied the mark of a rule, whose function is the one without ours.
    for marker in (RULE_MARKER, INITIALIZE_RULE_MARKER):
        found = getattr(rule, marker, None)
        if found is not None:
            setattr(closing, marker, replace(found, function=closes(found.function)))
    return closing  # type: ignore[return-value]


_DRIVEN = "_runs_on_the_loop_of_its_machine"


class _Nothing:
    """The result of a `teardown` that does nothing: may be awaited, and need not be."""

    def __await__(self) -> Any:
        return iter(())


def _driven(cls: type[ServerMachine], each: Any) -> Callable[..., Any]:
    """Return a function that runs that of a rule or an invariant on the loop of its machine."""
    function, name = each.function, f"{cls.__name__}.{each.function.__name__}"
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise InvalidDefinition(f"{name} is a generator function; expected one that returns")
    for condition in each.preconditions:
        if inspect.iscoroutinefunction(condition):
            raise InvalidDefinition(
                f"a precondition of {name} is a coroutine function; expected a plain one, since "
                "Hypothesis asks it between the steps, when the loop does not run"
            )
    is_rule = hasattr(each, "targets")

    @wraps(function)
    def driven(machine: ServerMachine, *args: Any, **arguments: Any) -> Any:
        call = partial(function, machine, *args, **arguments)
        example = _example_of(machine)
        if example.running():
            return call()
        try:
            if not is_rule:
                return example.call(call, name)
            return _step(machine, example, call, name)
        except BaseException:
            machine._failed = True  # noqa: SLF001 - of this module
            raise

    setattr(driven, _DRIVEN, True)
    return driven


def _step(machine: ServerMachine, example: ExampleLoop, call: Callable[[], Any], name: str) -> Any:
    """Make the call of a rule, let the loop run on, and check what must be gone."""
    machine._closing = False  # noqa: SLF001 - of this module
    simulation = example.simulation if isinstance(example, SimulatedExample) else None
    shown = len(simulation.steps) if simulation is not None else 0
    try:
        if simulation is not None:
            simulation.choices.begin_step()
            simulation.step(name)
        result = example.step(call, name, gap=machine.drawn)
        if machine._closing:  # noqa: SLF001 - of this module
            example.check_closed(diagnose=_is_final())
    finally:
        if simulation is not None and machine.drawn:
            _show(simulation.steps[shown:])
    return result


def _show(steps: list[str]) -> None:
    """Print the drawn part of a step as comments above the line that Hypothesis prints for it."""
    if not currently_in_test_context() or not steps:
        return
    own, *others = steps
    _, gap, iterations = own.partition(" !")
    for each in others:
        note(f"# {each}")
    if gap:
        note(f"# only {iterations} iterations of the loop until the next step:")


def _example_of(machine: ServerMachine) -> ExampleLoop:
    if machine._over:  # noqa: SLF001 - of this module
        raise RuntimeError(f"this {type(machine).__name__} is torn down; make a new one")
    if machine._example is None:  # noqa: SLF001 - the same
        machine._example = _new_example(machine)  # noqa: SLF001 - the same
    return machine._example  # noqa: SLF001 - the same


def _new_example(machine: ServerMachine) -> ExampleLoop:
    if asyncio._get_running_loop() is not None:  # noqa: SLF001 - the public one raises
        name = type(machine).__name__
        raise RuntimeError(f"{name} runs a loop of its own; start it outside of a running loop")
    if machine.target == "simulated":
        choices = Choices()
        if machine.drawn and currently_in_test_context():
            choices = StepChoices(current_build_context().data, SIZE)
        return SimulatedExample(
            choices, machine.simulation, ignores=valid_ignores(machine.ignore), diagnose=_is_final()
        )
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if machine.target == "uvloop":
        import uvloop  # noqa: PLC0415 - an optional package

        factory = uvloop.new_event_loop
    return RealExample(
        factory,
        kinds=valid_kinds(machine.kinds) - GROWTH_KINDS,
        ignores=valid_ignores(machine.ignore),
        budget=machine.budget,
        timeout=machine.timeout,
    )


def _is_final() -> bool:
    """Return True if the example is shown to the user, so that a diagnosis is worth its time."""
    return not currently_in_test_context() or current_build_context().is_final


def _tear_down(machine: ServerMachine) -> None:
    """Call the teardown of the machine's class, check that nothing is left, and close the loop."""
    if machine._over:  # noqa: SLF001 - of this module
        return
    error = sys.exc_info()[1]
    outside, failed = machine._outside, machine._failed  # noqa: SLF001 - the same
    failed = failed or (error is not None and error is not outside)
    teardown = type(machine).teardown
    try:
        if teardown is not ServerMachine.teardown:
            name = f"{type(machine).__name__}.teardown"
            _example_of(machine).call(partial(_torn_down, machine, teardown), name)
        example = machine._example  # noqa: SLF001 - the same
        if example is not None and not failed:
            example.check_end(diagnose=_is_final())
    finally:
        example, machine._example = machine._example, None  # noqa: SLF001 - the same
        machine._over = True  # noqa: SLF001 - the same
        if example is not None:
            example.close()


async def _torn_down(machine: ServerMachine, teardown: Callable[[Any], Any]) -> None:
    result = teardown(machine)
    if inspect.isawaitable(result):
        await result


def _validate(cls: type[ServerMachine]) -> None:
    """Check the attributes of a subclass.

    Raises:
        TypeError, ValueError, ImportError: one is wrong.
    """
    name = cls.__name__
    if cls.target not in _TARGETS:
        targets = ", ".join(map(repr, _TARGETS))
        raise ValueError(f"{name}.target: expected one of {targets}, got {cls.target!r}")
    if cls.target == "uvloop" and find_spec("uvloop") is None:
        raise ImportError(f"{name}.target: uvloop is not installed; pip install uvloop")
    if not isinstance(cls.simulation, Settings):
        raise TypeError(f"{name}.simulation: expected muxleak.sim.Settings, got {cls.simulation!r}")
    if cls.drawn and cls.target != "simulated":
        raise ValueError(f"{name}.drawn: only a simulated network can be drawn, not {cls.target!r}")
    for key in ("timeout", "budget"):
        value = getattr(cls, key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise ValueError(f"{name}.{key}: expected seconds above 0, got {value!r}")
    valid_kinds(cls.kinds)
    valid_ignores(cls.ignore)
