"""`no_leaks`: the check as a context manager and as a decorator."""

import asyncio
import functools
import inspect
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any, Never, ParamSpec, Self, TypeVar, cast, overload

from muxleak.checks.growth import measure_growth, valid_repetitions
from muxleak.checks.ignores import Ignore, remaining, valid_ignores
from muxleak.checks.loop_watch import LoopWatch
from muxleak.checks.report import LeakError, LeakReport
from muxleak.checks.scope_check import BUDGET, diagnosed, left_behind
from muxleak.checks.teardown import release
from muxleak.ledger.counters import Scope
from muxleak.ledger.kinds import GROWTH_KINDS, KINDS, valid_kinds
from muxleak.ledger.ledger import Ledger, shared_ledger

_P = ParamSpec("_P")
_R = TypeVar("_R")

_OPTIONS = "kinds, budget, ignore, repeat"


class LeakCheck:
    """What `no_leaks` gives: an asynchronous context manager, and a decorator."""

    def __init__(
        self, kinds: frozenset[str], budget: float, ignores: tuple[Ignore, ...], repeat: int | None
    ) -> None:
        self.kinds, self.budget, self.ignores, self.repeat = kinds, budget, ignores, repeat
        self.name = "no_leaks"
        self._stack: ExitStack | None = None
        self._scope: Scope | None = None
        self._ledger: Ledger | None = None

    @property
    def scope(self) -> Scope:
        """What the block is charged to.

        Raises:
            RuntimeError: outside the block.
        """
        if self._scope is None:
            raise RuntimeError("no_leaks has a scope only inside its block")
        return self._scope

    def ignore(self, *ignores: Ignore) -> None:
        """Overlook more, from inside the block for instance."""
        self.ignores += valid_ignores(ignores)

    async def __aenter__(self) -> Self:
        if self.repeat is not None:
            raise TypeError("repeat= repeats a function: use no_leaks as its decorator")
        if self._stack is not None:
            raise RuntimeError("this no_leaks is in use; make one for each block")
        self._stack = ExitStack()
        self._ledger = self._stack.enter_context(shared_ledger(asyncio.get_running_loop()))
        self._scope = self._stack.enter_context(self._ledger.scope(self.name))
        return self

    async def __aexit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        stack, scope, ledger = self._stack, self._scope, self._ledger
        if stack is None or scope is None or ledger is None:
            raise RuntimeError("no_leaks was left before it was entered")
        self._stack = self._scope = self._ledger = None
        with stack:
            if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
                return
            report = await self.examine(scope, ledger)
        blame(report, error)

    async def examine(self, scope: Scope, ledger: Ledger) -> LeakReport:
        """Report what `scope` left behind, then end it."""
        found = await left_behind(scope, self.kinds - GROWTH_KINDS, self.ignores, self.budget)
        if not found:
            return LeakReport((), 0)
        report = diagnosed(found, scope).noting(*ledger.unseen)
        return report.noting(*await release(found, self.budget))

    def select(self, records: list[Any]) -> list[Any]:
        """Of what is alive, what counts as a leak by the options."""
        return remaining(records, self.kinds, self.ignores)

    def __call__(self, function: Callable[_P, _R]) -> Callable[_P, _R]:
        """Check each call of `function`.

        Raises:
            TypeError: not a function that can be checked.
        """
        if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
            raise TypeError(f"no_leaks cannot check a generator function, got {function!r}")
        if not callable(function):
            raise TypeError(f"no_leaks decorates a function, got {function!r}")
        if inspect.iscoroutinefunction(function):
            return cast("Callable[_P, _R]", self._around_async(function))
        if self.repeat is not None:
            raise TypeError(f"repeat= needs an async function, got {function!r}")
        return self._around_sync(function)

    def _around_async(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def checked(*args: Any, **settings: Any) -> Any:
            if self.repeat is not None:
                return await self._repeated(function, args, settings)
            async with self._again(function):
                return await function(*args, **settings)

        return checked

    def _around_sync(self, function: Callable[_P, _R]) -> Callable[_P, _R]:
        @functools.wraps(function)
        def checked(*args: _P.args, **settings: _P.kwargs) -> _R:
            check = self._again(function)
            watch = LoopWatch(check.name, check.examine, check.select)
            try:
                with watch:
                    result = function(*args, **settings)
            except BaseException as error:
                blame(watch.report, error)
                raise
            blame(watch.report, None)
            return result

        return checked

    async def _repeated(self, function: Callable[..., Any], args: Any, settings: Any) -> Any:
        results: list[Any] = []

        async def once() -> None:
            results[:] = [await function(*args, **settings)]

        growth = await measure_growth(
            once,
            repetitions=self.repeat or 0,
            kinds=self.kinds,
            budget=self.budget,
            ignore=self.ignores,
        )
        if growth:
            raise LeakError(growth.report)
        return results[0]

    def _again(self, function: Callable[..., Any]) -> "LeakCheck":
        check = LeakCheck(self.kinds, self.budget, self.ignores, None)
        check.name = function.__qualname__
        return check


@overload
def no_leaks(function: Callable[_P, _R], /) -> Callable[_P, _R]: ...


@overload
def no_leaks(
    *,
    kinds: Iterable[str] = ...,
    budget: float = ...,
    ignore: Ignore | Iterable[Ignore] = ...,
    repeat: int | None = ...,
) -> LeakCheck: ...


def no_leaks(
    function: Callable[..., Any] | None = None,
    /,
    *,
    kinds: Iterable[str] = KINDS,
    budget: float = BUDGET,
    ignore: Ignore | Iterable[Ignore] = (),
    repeat: int | None = None,
    **unknown: Never,
) -> Any:
    """Fail with `LeakError` if a block, or a function, leaves something behind.

    ::

        async with no_leaks():
            await operation()

        @no_leaks(repeat=6)
        async def test_connection() -> None: ...

    Charged to it is whatever is made inside, in its tasks and theirs, and nothing else, so that
    checks may run at the same time and what was there before is never accused: also not of what a
    server that was started before makes for its connections, which `repeat` and the pytest plugin
    see. Where nothing is left it costs a few turns of the loop. A leak is ended after it was
    reported, within the budget; it never replaces the block's own exception, which carries the
    report as a note instead.

    With `repeat` the function runs so often, and only what still grows over the second half is a
    leak: the form for whatever is made once and kept, and the only one that judges kinds like
    finished tasks that are kept. A function that is not async is checked on every loop that it
    runs, before `asyncio.run` cancels what is left.

    Args:
        function: when used as `@no_leaks`, without options.
        kinds: what to look for, of `kinds.KINDS`; by default all.
        budget: seconds. What ends by itself within it is no leak; a cancelled task may take as
            long, twice, before it is given up.
        ignore: values of `ignore_created_by`, `ignore_name`, `ignore_waiting_in`, `ignore_current`.
        repeat: how often to run the function; at least 4.
        **unknown: refused.

    Raises:
        TypeError: an unknown option, or one of a wrong type.
        ValueError: an unknown kind, a budget or a repetition count that makes no sense.
    """
    if unknown:
        names = ", ".join(sorted(unknown))
        raise TypeError(f"no_leaks got unknown options {names}; expected some of {_OPTIONS}")
    _valid_budget(budget)
    if repeat is not None:
        valid_repetitions(repeat)
    check = LeakCheck(valid_kinds(kinds), budget, valid_ignores(ignore), repeat)
    return check if function is None else check(function)


def _valid_budget(budget: object) -> None:
    if isinstance(budget, bool) or not isinstance(budget, int | float) or not budget > 0:
        raise ValueError(f"expected a budget in seconds above 0, got {budget!r}")


def blame(report: LeakReport, error: BaseException | None) -> None:
    """Raise the report, or attach it to the error that is on its way."""
    if not report:
        return
    if error is None:
        raise LeakError(report)
    error.add_note(str(report))
