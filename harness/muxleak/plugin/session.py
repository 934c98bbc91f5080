"""Checking the tests of a session: who is charged while what runs, and when is looked.

A test is charged with what it makes, and what its function-scoped fixtures make, and is looked at
when those have been torn down or, if its loop ends before, when the loop is about to cancel what is
left. A fixture of a wider scope is charged with what it makes, whichever test asked for it first,
and looked at after its own teardown.
"""

import asyncio
from collections.abc import Generator
from typing import Any

import pytest

from muxleak.ledger.counters import CURRENT
from muxleak.plugin.anyio_tests import BACKEND, charging_fixture, charging_test
from muxleak.plugin.check import CHECK, Check
from muxleak.plugin.options import PluginSettings
from muxleak.plugin.plans import PLAN, RUNNERS, CheckPlan, decorate, general, plan_of
from muxleak.plugin.summary import FIXTURE
from muxleak.plugin.verdicts import Court
from muxleak.plugin.watch import LoopWatcher


class Checks:
    """The hooks that are called only in a session in which something is checked.

    Args:
        config: of the session.
        settings: what is in force.
        court: judges what is found.
    """

    def __init__(self, config: pytest.Config, settings: PluginSettings, court: Court) -> None:
        self.settings, self.court = settings, court
        self.general = general(settings)
        self._root = config.rootpath
        self._watch = LoopWatcher(self._ending)
        self._active: Check | None = None
        self._hooked = self._anyio = False
        self._item: pytest.Item

    def plan(self, item: pytest.Item) -> CheckPlan | None:
        """Read the markers of a test.

        Raises:
            pytest.UsageError: a marker's arguments are not valid.
        """
        plan: CheckPlan | bool | None = item.stash.get(PLAN, False)
        if not isinstance(plan, bool):
            return plan
        plan = plan_of(item, self.settings, self.general)
        if plan is not None and plan.repeat is not None:
            decorate(item, plan)
        item.stash[PLAN] = plan
        return plan

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Begin to charge the test."""
        plan = self.plan(item)
        if plan is None:
            return (yield)
        self._watch.start()
        check = item.stash[CHECK] = Check(item.nodeid, plan, self._watch.book.scope(item.nodeid))
        self._item, self._hooked = item, False
        self._anyio = BACKEND in getattr(item, "fixturenames", ())
        self._charge(check)
        try:
            return (yield)
        finally:
            self._charge(None)
            if not self._hooked:
                self._hook(check)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Charge the test."""
        check = item.stash.get(CHECK, None)
        if check is None:
            return (yield)
        self._charge(check)
        # unittest's asynchronous cases bring the context in which they were made.
        context = getattr(getattr(item, "instance", None), "_asyncioTestContext", None)
        if context is not None:
            context.run(CURRENT.set, check.scope)
        try:
            if not self._anyio:
                return (yield)
            with charging_test(item, check.scope):
                return (yield)
        finally:
            self._charge(None)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Charge the test until its own fixtures are torn down, and judge it in the end."""
        check = item.stash.get(CHECK, None)
        if check is None:
            return (yield)
        self._charge(check)
        try:
            return (yield)
        finally:
            self._charge(None)
            self._finish(check)
            self.court.judge(item, check)
            del item.stash[CHECK]
            if self.settings.mode == "off":
                self._watch.stop()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, Any, Any]:
        """Charge a fixture of a wider scope than one test with what it makes."""
        outer = check = self._active
        if outer is None or check is None:
            return (yield)
        if not self._hooked:
            self._hook(outer)
        wide = fixturedef.scope != "function"
        if not (wide or self._anyio):
            return (yield)
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

    def pytest_unconfigure(self) -> None:
        """Leave asyncio as it was."""
        self._watch.stop()

    def _fixture_check(self, fixturedef: pytest.FixtureDef[Any]) -> Check:
        where = fixturedef.baseid or getattr(fixturedef.func, "__module__", "a plugin")
        name = f"{where}{FIXTURE}{fixturedef.argname} ({fixturedef.scope} scope)"
        # Beside whatever is current, not inside it.
        self._charge(None)
        check = Check(name, self.general, self._watch.book.scope(name))
        check.function = fixturedef.func
        return check

    def _charge(self, check: Check | None) -> None:
        self._active = check
        CURRENT.set(check.scope if check is not None else None)

    def _hook(self, check: Check) -> None:
        """Have the test looked at when its own fixtures are gone and wider ones still stand."""
        self._hooked, item = True, self._item

        def finish() -> None:
            self._charge(None)
            self._finish(check)

        # A node whose setup failed before the test's own turn takes no finalizer; nothing ran then.
        if item in item.session._setupstate.stack:  # noqa: SLF001 - asked before it would assert
            item.addfinalizer(finish)

    def _finish(self, check: Check) -> None:
        """Look for the last time, on every loop that is left."""
        if check.finished:
            return
        check.finished = True
        for loop in self._watch.open_loops() if check.wanted else ():
            self._examine(check, loop)

    def _enter_fixture(self, check: Check) -> None:
        """The teardown of a fixture begins, perhaps while another test is being set up."""
        check.outer = self._active
        self._charge(check)

    def _finish_fixture(self, check: Check) -> None:
        self._charge(None)
        self._finish(check)
        outer, check.outer = check.outer, None
        self._charge(outer)
        if self.settings.mode != "off":
            self.court.judge_fixture(check, innocent=outer)

    def _examine(self, check: Check, loop: asyncio.AbstractEventLoop) -> None:
        if check.wanted:
            from muxleak.plugin.findings import examine  # noqa: PLC0415 - only leaking tests pay for it

            self._run(loop, examine(check, self._watch.blind(loop), self._root))

    def _ending(self, loop: asyncio.AbstractEventLoop) -> None:
        """What is left on `loop` is about to be cancelled."""
        active = self._active
        if active is not None and not active.finished:
            self._examine(active, loop)
        book = self._watch.book
        if book.count:
            from muxleak.plugin.findings import end_tasks  # noqa: PLC0415 - the same

            self._run(loop, end_tasks(book.root, RUNNERS))

    def _run(self, loop: asyncio.AbstractEventLoop, work: Any) -> None:
        """Run our own work on a loop, charged to nobody."""
        active = self._active
        self._charge(None)
        try:
            loop.run_until_complete(work)
        finally:
            self._charge(active)
