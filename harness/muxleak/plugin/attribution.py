"""Attributes each new object to the test or fixture that makes it, and measures the leaks."""

# Who is charged. The context variable `CURRENT` names the scope that is charged for each new task,
# timer, transport and so on. A task inherits the context of its maker, so everything that a test
# starts, at any depth and on any loop, is charged to the scope that was current when the test
# started it. The hooks below set `CURRENT` around each phase:
#
# - Setup, call and teardown of a test charge the test, and so do its function-scoped fixtures.
# - Setup and teardown of a fixture with a wider scope charge that fixture, whichever test requested
#   it first. So no test is charged for a server that a module shares.
# - Everything else (collection, other plugins, this plugin's own measurements) charges the root of
#   the ledger, whose leaks are not reported.
#
# Some runners of tests need more, because they run code in another context than the one that the
# hooks set:
#
# - pytest-asyncio needs nothing more: it copies the current context for each test and for each
#   async fixture, and keeps the copy for the fixture's teardown.
# - anyio runs all tests and fixtures of a loop in one task, which inherits the scope of the first.
#   So each test and fixture function is wrapped (`charging_test`, `charging_fixture`) and enters
#   its own scope. A fixture that yields leaves the scope between setup and teardown. Of a test of
#   Hypothesis anyio calls the inner function, once for each example (`charging_examples`).
# - alt-pytest-asyncio runs everything in one context of its own, in which the scope is set, too.
# - `unittest.IsolatedAsyncioTestCase` runs in a context that it copied when it was made, so the
#   scope is set in that context too.
#
# When a scope is measured. At the last moment at which the owner could still have ended its
# objects, and before anything else ends them:
#
# - A test is measured after the teardown of its own fixtures, before that of wider ones. pytest
#   runs finalizers last in, first out, so a finalizer added before the first fixture runs after the
#   last.
# - If the loop of a test ends earlier (pytest-asyncio's default, or `asyncio.run` in a test), the
#   test is measured on that loop when it ends, before the runner cancels the tasks that are left.
#   `LoopWatcher` calls `_before_cancel` at that moment. Plain fixtures of the test may be torn down
#   later, and a plain test itself goes on (`_later`). What these can end without the loop, such as
#   a thread or the socket of a watched descriptor, is judged after them.
# - A test that runs no loop is measured at the same moment on a loop that is made for that, if it
#   has left threads or jobs.
# - A fixture of a wider scope is measured after its own teardown. A parametrized fixture may be
#   torn down while the next test is being set up; that test is interrupted and not charged.
# - A scope that is clean is not measured; asking costs O(1). So a suite in which every test ends
#   what it makes never loads the module that measures.
# - A measurement runs on the loop itself: a task gets up to `budget` seconds to end, and in strict
#   mode the leaks are then ended, so that they do not disturb later tests on a shared loop.
#
# The outcome is decided in `outcomes`. With pytest-xdist each worker does all of this for its own
# tests; a fixture of session scope exists, and is measured, once in each worker.

import asyncio
import functools
import inspect
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

import pytest

from muxleak.ledger import resource_warnings
from muxleak.ledger.counters import CURRENT, Scope
from muxleak.plugin import runners
from muxleak.plugin.item_checks import (
    CHECK,
    PLAN,
    RUNNERS,
    Check,
    CheckPlan,
    default_plan,
    plan_of,
    repeat_test,
)
from muxleak.plugin.loop_watcher import LoopWatcher, can_run
from muxleak.plugin.options import PluginSettings
from muxleak.plugin.outcomes import Outcomes
from muxleak.plugin.summary import FIXTURE

if TYPE_CHECKING:
    from types import FrameType

ANYIO = "anyio_backend"  # the fixture that anyio's plugin adds to its tests
_CHARGED = "_muxleak_charged"  # attribute of the inner function of a Hypothesis test


class Attribution:
    """The hooks that charge tests and fixtures; registered in sessions that check something.

    Args:
        config: of the session.
        settings: those of the run.
        outcomes: decides the outcome of a test with leaks.
    """

    def __init__(self, config: pytest.Config, settings: PluginSettings, outcomes: Outcomes) -> None:
        self.settings, self.outcomes = settings, outcomes
        self.default = default_plan(settings)
        self._config, self._root = config, config.rootpath
        self._latest: Check | None = None
        self._watcher = LoopWatcher(self._before_cancel, self._home, self._stalled)
        self._active: Check | None = None
        self._contexts = runners.contexts(config)
        self._scheduled = self._anyio = False
        self._item: pytest.Item

    def plan(self, item: pytest.Item) -> CheckPlan | None:
        """Return the plan of a test; None if it is not checked. Reads the markers once.

        Raises:
            pytest.UsageError: the arguments of a marker are not valid.
        """
        plan: CheckPlan | bool | None = item.stash.get(PLAN, False)
        if not isinstance(plan, bool):
            return plan
        plan = plan_of(item, self.settings, self.default)
        if plan is not None and plan.repeat is not None:
            repeat_test(item, plan)
        item.stash[PLAN] = plan
        return plan

    def unseen(self, items: Iterable[pytest.Item]) -> dict[str, list[tuple[str, bool]]]:
        """Return the tests that their runner hides, by a clause that names the runner.

        Args:
            items: all tests of the session.

        Returns:
            For each the id of the test, and True if it fails the run.
        """
        found = {}
        for runner, tests in runners.unseen(items).items():
            plans = [(item.nodeid, item.stash.get(PLAN, None)) for item in tests]
            wanted = [(name, plan.strict) for name, plan in plans if plan and not plan.allowed]
            if wanted:
                found[runner] = wanted
        return found

    # The wrappers are `trylast`, so that they are the innermost: objects that the wrappers of other
    # plugins make are charged to no test.

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Charge the test during its setup."""
        plan = self.plan(item)
        if plan is None:
            return (yield)
        self._watcher.start()
        # pytest makes a new list of filters for each test. Before the fixtures, so that a filter of
        # `recwarn` goes before.
        resource_warnings.renew()
        scope = self._watcher.ledger.scope(item.nodeid)
        check = self._latest = item.stash[CHECK] = Check(item.nodeid, plan, scope)
        self._item, self._scheduled = item, False
        self._anyio = ANYIO in getattr(item, "fixturenames", ())
        self._charge(check)
        try:
            return (yield)
        finally:
            self._charge(None)
            if not self._scheduled:
                self._schedule(check)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Charge the test during its call."""
        check = item.stash.get(CHECK, None)
        if check is None:
            return (yield)
        self._charge(check)
        # unittest's asynchronous cases run in the context in which they were made.
        context = getattr(getattr(item, "instance", None), "_asyncioTestContext", None)
        if context is not None:
            context.run(CURRENT.set, check.scope)
        if check.plan.counts_descriptors:
            from muxleak.checks.descriptors import OpenedDescriptors  # noqa: PLC0415 - only such tests pay for it

            check.opened = OpenedDescriptors(self._watcher.ledger)
        try:
            if not self._anyio:
                return (yield)
            with charging_test(item, check.scope), charging_examples(item, self._current):
                return (yield)
        finally:
            self._charge(None)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Charge the test until its own fixtures are torn down, then decide its outcome."""
        check = item.stash.get(CHECK, None)
        if check is None:
            return (yield)
        self._charge(check)
        try:
            return (yield)
        finally:
            self._charge(None)
            self._finish(check)
            self.outcomes.settle_test(item, check)
            del item.stash[CHECK]
            if self.settings.mode == "off":
                self._watcher.stop()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, Any, Any]:
        """Charge a fixture with a wider scope than one test during its setup."""
        outer = check = self._active
        if outer is None or check is None:
            return (yield)
        if not self._scheduled:
            self._schedule(outer)
        wide = fixturedef.scope != "function"
        if not (wide or self._anyio):
            return (yield)
        # The finalizer added before the setup runs last, the one added after it runs first.
        if wide:
            check = self._fixture_check(fixturedef)
            fixturedef.addfinalizer(lambda: self._finish_fixture(check))
            self._charge(check)
        try:
            with charging_fixture(fixturedef, request, check.scope):
                return (yield)
        finally:
            if wide:
                self._charge(outer)
                fixturedef.addfinalizer(lambda: self._enter_fixture(check))

    def pytest_keyboard_interrupt(self) -> None:
        """Show what the test that was interrupted, which may hang, has left so far."""
        check = self._latest
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if check is None or reporter is None:
            return
        from muxleak.plugin import leak_reports  # noqa: PLC0415 - only interrupted sessions pay for it

        for loop in self._watcher.open_loops() if check.needed else ():
            leak_reports.measure_now(check, loop, self._watcher.unseen(loop), self._root)
        report = leak_reports.report_of(check)
        if report:
            reporter.section(f"interrupted: {check.owner}")
            reporter.write_line(str(leak_reports.only(report, report.groups)))

    def pytest_unconfigure(self) -> None:
        """Restore asyncio."""
        self._watcher.stop()

    def _fixture_check(self, fixturedef: pytest.FixtureDef[Any]) -> Check:
        where = fixturedef.baseid or getattr(fixturedef.func, "__module__", "a plugin")
        name = f"{where}{FIXTURE}{fixturedef.argname} ({fixturedef.scope} scope)"
        # A scope is made inside the current one. Inside that of the test it would be measured with
        # the test, so none is current here.
        self._charge(None)
        check = Check(name, self.default, self._watcher.ledger.scope(name))
        check.function = fixturedef.func
        return check

    def _current(self) -> Scope | None:
        """Return the scope of the test or fixture that runs now."""
        return self._active.scope if self._active is not None else None

    def _charge(self, check: Check | None) -> None:
        self._active = check
        scope = check.scope if check is not None else None
        CURRENT.set(scope)
        for context in self._contexts:
            # A context that is entered is the current one, unless another one was entered in it.
            with suppress(RuntimeError):
                context.run(CURRENT.set, scope)

    def _schedule(self, check: Check) -> None:
        """Measure the test after the teardown of its own fixtures, before that of wider ones."""
        self._scheduled, item = True, self._item

        def finish() -> None:
            self._charge(None)
            self._finish(check)

        # A node whose setup failed before the test's own turn takes no finalizer; nothing ran then.
        if item in item.session._setupstate.stack:  # noqa: SLF001 - asked before it would assert
            item.addfinalizer(finish)

    def _finish(self, check: Check) -> None:
        """Measure for the last time, on every loop that is still open."""
        if check.finished:
            return
        check.finished = True
        loops = self._watcher.open_loops() if check.needed else []
        for loop in loops:
            self._measure(check, loop)
        if check.needed and not loops:
            self._measure_threads(check)
        if check.held:
            from muxleak.plugin.leak_reports import judge_held  # noqa: PLC0415 - only leaking tests pay for it

            judge_held(check, self._root)
        if check.opened is not None:
            from muxleak.plugin.leak_reports import judge_opened  # noqa: PLC0415 - the same

            judge_opened(check, check.opened, self._root)

    def _enter_fixture(self, check: Check) -> None:
        """Charge a fixture from the beginning of its teardown."""
        check.outer = self._active
        self._charge(check)

    def _finish_fixture(self, check: Check) -> None:
        self._charge(None)
        self._finish(check)
        outer, check.outer = check.outer, None
        self._charge(outer)
        if self.settings.mode != "off":
            self.outcomes.settle_fixture(check, in_setup=outer)

    def _home(self) -> Scope | None:
        """Return the scope of the test that is making a loop; None for a fixture of wider scope."""
        active = self._active
        return active.scope if active is not None and active.function is None else None

    def _measure(
        self, check: Check, loop: asyncio.AbstractEventLoop, later: Sequence[str] = ()
    ) -> None:
        """Measure a check on a loop; `later` names the functions that go on after it."""
        if not check.needed:
            return
        from muxleak.plugin import leak_reports  # noqa: PLC0415 - only leaking tests pay for it

        try:
            unseen = self._watcher.unseen(loop)
            if can_run(loop):
                shared = _wider_values(self._item) if check.function is None else []
                self._run(loop, leak_reports.measure(check, unseen, self._root, later, shared))
            else:
                leak_reports.measure_now(check, loop, unseen, self._root)
        except Exception as error:  # noqa: BLE001 - the outcome of the test must stay
            check.failed = True
            self.outcomes.note_failure(check.owner, error)

    def _measure_threads(self, check: Check) -> None:
        """Measure what has no loop, where no loop is open that a measurement could run on."""
        from muxleak.plugin import leak_reports  # noqa: PLC0415 - as above

        try:
            if leak_reports.has_threads(check):
                with closing(leak_reports.OwnLoop()) as loop:
                    if can_run(loop):
                        self._run(loop, leak_reports.measure_threads(check, self._root))
        except Exception as error:  # noqa: BLE001 - as above
            check.failed = True
            self.outcomes.note_failure(check.owner, error)

    def _before_cancel(self, loop: asyncio.AbstractEventLoop) -> None:
        """Measure on a loop that is about to end, and end the tasks that are left on it."""
        active = self._active
        if active is not None and not active.finished:
            later = _later(self._item) if active.needed else ()
            self._measure(active, loop, later)
        ledger = self._watcher.ledger
        if ledger.count and can_run(loop):
            from muxleak.plugin.leak_reports import end_tasks  # noqa: PLC0415 - the same

            # asyncio would wait for ever for a task that swallows its cancellation.
            try:
                self._run(loop, end_tasks(ledger.root, RUNNERS))
            except Exception as error:  # noqa: BLE001 - asyncio ends them by its own means
                self.outcomes.note_failure("the tasks left on a loop", error)

    def _stalled(self, loop: asyncio.AbstractEventLoop, server: asyncio.Server) -> bool:
        """Report that a server waits in vain for its connections, and abort those."""
        check = self._active
        if check is None or check.plan.allowed:
            return False
        from muxleak.plugin import leak_reports  # noqa: PLC0415 - as above

        alive = self._watcher.ledger.root.everything()
        return leak_reports.report_stall(check, loop, server, alive, self._root)

    def _run(self, loop: asyncio.AbstractEventLoop, work: Any) -> None:
        """Run a coroutine of the plugin on a loop, charged to no test."""
        active = self._active
        self._charge(None)
        try:
            loop.run_until_complete(work)
        finally:
            self._charge(active)


def _wider_values(item: pytest.Item) -> list[Any]:
    """Return the values of the fixtures that a test shares with others."""
    request: Any = getattr(item, "_request", None)
    definitions: dict[str, Any] = getattr(request, "_fixture_defs", None) or {}
    results = [each.cached_result for each in definitions.values() if each.scope != "function"]
    return [result[0] for result in results if result is not None]


def _later(item: pytest.Item) -> list[str]:
    """Return the names of functions of a test that go on when the loop that ends has ended.

    These are its plain fixtures whose teardown has not begun; and, as "_body", the test itself, if
    it is a plain function that runs a loop: its next line may stop a thread that was started there.
    """
    # A fixture that is being torn down is on the stack: it is the one that ends the loop.
    frame: FrameType | None = sys._getframe()  # noqa: SLF001 - its callers are read, nothing else
    running = set()
    while frame is not None:
        running.add(frame.f_code)
        frame = frame.f_back
    request: Any = getattr(item, "_request", None)
    definitions: dict[str, Any] = getattr(request, "_fixture_defs", None) or {}
    # pytest makes a fixture of each argument of `parametrize`, by a function of its own.
    arguments: Any = getattr(getattr(item, "callspec", None), "params", ())
    body: Any = inspect.unwrap(getattr(item, "function", None) or _later)
    return ["_body"] * (body.__code__ in running) + [
        name
        for name, each in definitions.items()
        if each.scope == "function"
        and each.cached_result is not None
        and not (name in arguments and each.func.__module__.startswith("_pytest."))
        and (inspect.isgeneratorfunction(each.func) or "request" in each.argnames)
        and getattr(inspect.unwrap(each.func), "__code__", None) not in running
    ]


@contextmanager
def charging_test(item: pytest.Item, scope: Scope) -> Iterator[None]:
    """Charge the function of an anyio test to `scope`, for the length of a block."""
    function = getattr(item, "obj", None)
    if ANYIO not in (getattr(item, "funcargs", None) or ()) or not _is_coroutine(function):
        yield
        return
    subject: Any = item
    subject.obj = _around_coroutine(function, lambda: scope)
    try:
        yield
    finally:
        subject.obj = function


@contextmanager
def charging_examples(item: pytest.Item, current: Callable[[], Scope | None]) -> Iterator[None]:
    """Charge the inner function of a Hypothesis test under anyio, for the length of a block.

    Args:
        item: the test; another one is left as it is.
        current: returns the scope to charge.
    """
    handle: Any = getattr(getattr(item, "obj", None), "hypothesis", None)
    inner = getattr(handle, "inner_test", None)
    # anyio puts a function in its place that refers to it, and leaves that there. So it is wrapped
    # once, and asks for the scope at each call: the test may run again with another backend.
    if inspect.iscoroutinefunction(inner) and not hasattr(inner, _CHARGED):
        wrapped: Any = _around_coroutine(inner, current)
        setattr(wrapped, _CHARGED, True)
        handle.inner_test = wrapped
    try:
        yield
    finally:
        if handle is not None and hasattr(handle.inner_test, _CHARGED):
            handle.inner_test = inner


@contextmanager
def charging_fixture(fixturedef: Any, request: Any, scope: Scope) -> Iterator[None]:
    """Charge the function of an anyio fixture to `scope`, for the length of a block.

    The teardown of the fixture runs in the same function, and is charged, too.
    """
    function = fixturedef.func
    generator = inspect.isasyncgenfunction(function)
    if ANYIO not in request.fixturenames or not (generator or _is_coroutine(function)):
        yield
        return
    # As pytest does: a method is bound to the instance of the test that requests it.
    bound, instance = function, request.instance
    if inspect.ismethod(function) and type(function.__self__) is type(instance):
        bound = function.__func__.__get__(instance)
    if generator:
        fixturedef.func = _around_generator(bound, scope)
    else:
        fixturedef.func = _around_coroutine(bound, lambda: scope)
    try:
        yield
    finally:
        fixturedef.func = function


def _is_coroutine(function: Any) -> bool:
    # The function of a Hypothesis test is not itself the coroutine function that anyio calls.
    return inspect.iscoroutinefunction(function) and not hasattr(function, "hypothesis")


def _around_coroutine(function: Any, current: Callable[[], Scope | None]) -> Any:
    @functools.wraps(function)
    async def charged(*args: Any, **settings: Any) -> Any:
        with current() or nullcontext():
            return await function(*args, **settings)

    return charged


def _around_generator(function: Any, scope: Scope) -> Any:
    @functools.wraps(function)
    async def charged(*args: Any, **settings: Any) -> Any:
        generator = function(*args, **settings)
        with scope:
            value = await anext(generator)
        yield value
        with scope:
            async for another in generator:
                yield another

    return charged
