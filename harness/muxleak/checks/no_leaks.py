"""`no_leaks`: the check for leaks, as a context manager and as a decorator."""

# How one check works. On entry it takes the shared ledger of the running loop and makes a scope
# that is current inside the block. Everything that the block creates is charged to the scope, also
# what its tasks create, since they inherit the scope with their context (see `ledger.counters`).
# On exit, the scope is examined (`scope_check`), a report is made, the leaks are ended
# (`teardown`), and the report is raised.
#
# What follows from scopes:
#
# - Checks can run at the same time and can be nested: each is charged with its own work only. An
#   inner check ends the leaks that it reports, so the outer one has nothing to add.
# - Nothing that existed before can be a leak of the block.
# - Work that the block causes in a context from before is not charged to it. The usual case is a
#   server that was started before: the task of a new connection inherits the server's context.
#   Start the server inside the block, or use ``repeat``, which also counts outside every scope.
#
# The forms differ in how they get at a loop:
#
#   form                        loop
#   ------------------------    ------------------------------------------------------------------
#   ``async with no_leaks()``   the running one
#   on an async function        the same; each call is a check of its own
#   on a function               the loops that the function runs (`loop_watch`)
#   ``repeat=``                 the running one; growth decides, not a single run (`growth`)
#
# The verdict never hides an error. If the block raises, its exception passes, with the report as a
# note; in place of a cancellation the report is raised (`cancellation`). `KeyboardInterrupt`,
# `SystemExit` and `GeneratorExit` pass at once, without an examination, which could take the whole
# budget or would have to await in a generator that is being closed.
#
# Price of a block without leaks: the hooks of the ledger, once for all blocks open on the loop, and
# a few iterations. Only a leak costs a wait.

import asyncio
import functools
import gc
import inspect
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any, Never, ParamSpec, Self, TypeVar, cast, overload

from muxleak.checks import descriptors
from muxleak.checks.cancellation import may_be_swallowed, though_cancelled
from muxleak.checks.descriptors import OpenedDescriptors
from muxleak.checks.failure import failed
from muxleak.checks.growth import measure_growth, valid_repetitions
from muxleak.checks.ignores import Ignore, kept_by_libraries, remaining, valid_ignores
from muxleak.checks.loop_watch import LoopWatch
from muxleak.checks.report import LeakError, LeakReport
from muxleak.checks.scope_check import BUDGET, diagnosed, left_behind
from muxleak.checks.teardown import release
from muxleak.ledger.counters import Scope
from muxleak.ledger.kinds import DEFAULT_KINDS, GROWTH_KINDS, valid_kinds
from muxleak.ledger.ledger import Ledger, shared_ledger

_P = ParamSpec("_P")
_R = TypeVar("_R")

_OPTIONS = "kinds, budget, ignore, repeat"


class LeakCheck:
    """The result of `no_leaks`: an asynchronous context manager, and a decorator.

    Attributes:
        kinds: the kinds that are checked.
        budget: seconds, as given to `no_leaks`.
        ignores: `Ignore` values in force.
        repeat: repetitions of a decorated function; None for a single run.
        name: of the scope, in reports.
    """

    def __init__(
        self, kinds: frozenset[str], budget: float, ignores: tuple[Ignore, ...], repeat: int | None
    ) -> None:
        self.kinds, self.budget, self.ignores, self.repeat = kinds, budget, ignores, repeat
        self.name = "no_leaks"
        # Only if it is named: see `checks.descriptors`.
        self._wants_descriptors = descriptors.KIND in kinds and kinds is not DEFAULT_KINDS
        self._opened: OpenedDescriptors | None = None
        self._stack: ExitStack | None = None
        self._scope: Scope | None = None
        self._ledger: Ledger | None = None
        self._report = LeakReport((), 0)  # the last one, without the notes of the teardown

    @property
    def scope(self) -> Scope:
        """The scope that is charged inside the block.

        Raises:
            RuntimeError: outside the block.
        """
        if self._scope is None:
            raise RuntimeError("no_leaks has a scope only inside its block")
        return self._scope

    def ignore(self, *ignores: Ignore) -> None:
        """Add `Ignore` values, inside the block for instance.

        Raises:
            TypeError: one is no `Ignore`.
        """
        self.ignores += valid_ignores(ignores)

    async def __aenter__(self) -> Self:
        if self.repeat is not None:
            raise TypeError("repeat= repeats a function: use no_leaks as its decorator")
        if self._stack is not None:
            raise RuntimeError("this no_leaks is in use; make one for each block")
        self._stack = ExitStack()
        self._ledger = self._stack.enter_context(shared_ledger(asyncio.get_running_loop()))
        if self._wants_descriptors:
            self._opened = OpenedDescriptors(self._ledger)
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
            report, error = await self._examine_in_any_case(scope, ledger, error)
        raise_or_note(report, error)

    async def _examine_in_any_case(
        self, scope: Scope, ledger: Ledger, error: BaseException | None
    ) -> tuple[LeakReport, BaseException | None]:
        """Examine although the running task is, or gets, cancelled; see `cancellation`."""
        if not isinstance(error, asyncio.CancelledError):
            try:
                return await self.examine(scope, ledger), error
            except asyncio.CancelledError as cancelled:
                error = cancelled
        before = self._report
        report = await though_cancelled(lambda: self.examine(scope, ledger))
        report = report or before
        if not report:
            raise error
        return report, error

    async def examine(self, scope: Scope, ledger: Ledger) -> LeakReport:
        """Report the leaks of a scope, then end them.

        Args:
            scope: the scope to examine.
            ledger: its ledger, on the running loop.

        Returns:
            The report; falsy if nothing leaked.
        """
        self._report = report = LeakReport((), 0)
        try:
            found = await left_behind(scope, self.kinds - GROWTH_KINDS, self.ignores, self.budget)
            if self._opened is not None:
                found += await self._opened.left(self.ignores, self.budget)
            if found:
                report = diagnosed(found, scope).noting(*ledger.unseen)
                kept = kept_by_libraries(found)
                report = report.noting(*(f"if it is meant to stay: {each.call}" for each in kept))
                self._report = report
                report = report.noting(*await release(found, self.budget))
        except Exception as error:  # noqa: BLE001 - the outcome of the block must stay
            report = report.noting(failed(self.name, error))
        return report

    def opened_by_function(self, opened: OpenedDescriptors) -> LeakReport:
        """Report the descriptors that a function which is not async has left open."""
        if opened.records(self.ignores):
            gc.collect()
        return LeakReport.of(opened.records(self.ignores))

    def select(self, records: list[Any]) -> list[Any]:
        """Return those records that count as leaks by the options."""
        return remaining(records, self.kinds, self.ignores)

    def __call__(self, function: Callable[_P, _R]) -> Callable[_P, _R]:
        """Decorate a function, so that each call is checked.

        Raises:
            TypeError: a generator function, no function, or `repeat` on one that is not async.
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
            opened = OpenedDescriptors(None) if self._wants_descriptors else None
            try:
                with watch:
                    result = function(*args, **settings)
                if opened is not None and not watch.report:
                    watch.report = check.opened_by_function(opened)
            except BaseException as error:
                raise_or_note(watch.report, error)
                raise
            raise_or_note(watch.report, None)
            return result

        return checked

    async def _repeated(self, function: Callable[..., Any], args: Any, settings: Any) -> Any:
        results: list[Any] = []
        raised: list[Exception] = []

        async def once() -> None:
            try:
                results[:] = [await function(*args, **settings)]
            except Exception as error:
                raised.append(error)
                raise

        try:
            growth = await measure_growth(
                once,
                repetitions=self.repeat or 0,
                kinds=self.kinds,
                budget=self.budget,
                ignore=self.ignores,
            )
        except Exception as error:
            if error in raised:
                raise
            failed(function.__qualname__, error)
        else:
            if growth:
                raise LeakError(growth.report)
        if not results:
            await once()
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
    kinds: Iterable[str] = DEFAULT_KINDS,
    budget: float = BUDGET,
    ignore: Ignore | Iterable[Ignore] = (),
    repeat: int | None = None,
    **unknown: Never,
) -> Any:
    """Raise `LeakError` if tasks or resources outlive a block or a function that created them.

    ::

        async with no_leaks():
            await operation()

        @no_leaks(repeat=6)
        async def test_connection() -> None: ...

    The block is charged with everything created inside it and by its tasks, at any depth, and with
    nothing else. So checks can run at the same time, and nothing that existed before is reported.
    Connections of a server that was started before the block belong to that server; `repeat` and
    the pytest plugin see them. A block without leaks costs a few iterations of the loop.

    Leaks are ended after they are reported, within the budget. An exception of the block itself
    passes, and carries the report as a note.

    With `repeat` the function runs that many times, and only tasks and resources whose number
    still grows over the second half are leaks. Use it for code that creates something once and
    keeps it; it is also the only form that finds the kinds "retained" and "callback". A function
    that is not async is checked on every loop that it runs, before `asyncio.run` cancels the tasks
    that remain.

    Args:
        function: when used as `@no_leaks`, without options.
        kinds: the kinds to check, of `kinds.KINDS`; all by default.
        budget: seconds. Tasks and resources that end by themselves within it are no leak; a
            cancelled task may take as long, twice, before it is given up.
        ignore: values of `ignore_created_by`, `ignore_name`, `ignore_waiting_in`, `ignore_current`.
        repeat: number of times to run the function; at least 4.
        **unknown: refused.

    Returns:
        A `LeakCheck`; the decorated function when used as `@no_leaks`.

    Raises:
        TypeError: an unknown option, or one of a wrong type.
        ValueError: an unknown kind, a budget that is not above 0, or too few repetitions.
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


def raise_or_note(report: LeakReport, error: BaseException | None) -> None:
    """Raise a report, or add it as a note to the exception that is being raised.

    Args:
        report: does nothing if it is falsy.
        error: the exception of the block; None if there is none.

    Raises:
        LeakError: something leaked, and there is no other exception than a cancellation, which a
            timeout or a scope around the block may take for its own.
    """
    if not report:
        return
    if error is None or may_be_swallowed(error):
        raise LeakError(report) from error
    error.add_note(str(report))
