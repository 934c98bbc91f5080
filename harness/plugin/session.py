"""Checking the tests of a session: who is charged while what runs, and when is looked.

A test is charged with what it makes, and what its function-scoped fixtures make, and is looked at
when those have been torn down or, if its loop ends before, when the loop is about to cancel what is
left. A fixture of a wider scope is charged with what it makes, whichever test asked for it first,
and looked at after its own teardown.
"""

import asyncio
import inspect
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from harness.plugin.anyio_tests import charging_fixture, charging_test
from harness.plugin.check import CHECK, Check, end_tasks
from harness.plugin.options import Settings
from harness.plugin.plans import PLAN, Plan, decorate, general, plan_of
from harness.plugin.summary import FIXTURE
from harness.plugin.verdicts import Court
from harness.plugin.watch import Watch
from harness.scope import CURRENT, Scope


class Checks:
    """The hooks that are called only in a session in which something is checked.

    Args:
        config: of the session.
        settings: what is in force.
        court: judges what is found.
    """

    def __init__(self, config: pytest.Config, settings: Settings, court: Court) -> None:
        self.settings, self.court = settings, court
        self.general = general(settings)
        self._root = config.rootpath
        self._watch = Watch(self._ending)
        self._active: Check | None = None
        self._hooked = False

    def plan(self, item: pytest.Item) -> Plan | None:
        """Read the markers of a test.

        Raises:
            pytest.UsageError: a marker's arguments are not valid.
        """
        if PLAN not in item.stash:
            plan = item.stash[PLAN] = plan_of(item, self.settings)
            if plan is not None and plan.repeat is not None:
                decorate(item, plan)
        return item.stash[PLAN]

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Begin to charge the test."""
        plan = self.plan(item)
        if plan is None:
            return (yield)
        self._watch.start()
        check = item.stash[CHECK] = Check(item.nodeid, plan, self._scope(item.nodeid))
        self._hooked = False
        with self._charging(check):
            try:
                return (yield)
            finally:
                self._hook(item)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Charge the test."""
        check = item.stash.get(CHECK, None)
        if check is None:
            return (yield)
        with self._charging(check), charging_test(item, check.scope):
            return (yield)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Charge the test until its own fixtures are torn down, and judge it in the end."""
        check = item.stash.get(CHECK, None)
        if check is None:
            return (yield)
        try:
            with self._charging(check):
                return (yield)
        finally:
            self._finish(check)
            self.court.judge(item, check)
            if self.settings.mode == "off":
                self._watch.stop()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, Any, Any]:
        """Charge a fixture of a wider scope than one test with what it makes."""
        check = self._active
        if check is None:
            return (yield)
        if not self._hooked and isinstance(request.node, pytest.Item):
            self._hook(request.node)
        if fixturedef.scope != "function":
            check = self._fixture_check(fixturedef)
            fixturedef.addfinalizer(lambda: self._finish_fixture(check))
        with self._charging(check), charging_fixture(fixturedef, request, check.scope):
            result = yield
        if fixturedef.scope != "function":
            fixturedef.addfinalizer(lambda: self._charge(check))
        return result

    def _scope(self, name: str) -> Scope:
        # Beside whatever is current, not inside it.
        token = CURRENT.set(None)
        try:
            return self._watch.book.scope(name)
        finally:
            CURRENT.reset(token)

    def _fixture_check(self, fixturedef: pytest.FixtureDef[Any]) -> Check:
        where = fixturedef.baseid or inspect.getmodule(fixturedef.func).__name__  # type: ignore[union-attr]
        name = f"{where}{FIXTURE}{fixturedef.argname} ({fixturedef.scope} scope)"
        return Check(name, self.general, self._scope(name))

    @contextmanager
    def _charging(self, check: Check) -> Iterator[None]:
        previous = self._active
        self._charge(check)
        try:
            yield
        finally:
            self._charge(previous)

    def _charge(self, check: Check | None) -> None:
        self._active = check
        CURRENT.set(check.scope if check is not None else None)

    def _hook(self, item: pytest.Item) -> None:
        """Have the test looked at when its own fixtures are gone and wider ones still stand."""
        if self._hooked:
            return
        self._hooked = True
        check = item.stash[CHECK]

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

    def _finish_fixture(self, check: Check) -> None:
        self._charge(None)
        self._finish(check)
        self.court.judge_fixture(check, wanted=self.settings.mode != "off")

    def _examine(self, check: Check, loop: asyncio.AbstractEventLoop) -> None:
        if check.wanted:
            self._run(loop, check.examine(self._watch.blind(loop), self._root))

    def _ending(self, loop: asyncio.AbstractEventLoop) -> None:
        """What is left on `loop` is about to be cancelled."""
        active = self._active
        if active is not None and not active.finished:
            self._examine(active, loop)
        book = self._watch.book
        if book.count:
            self._run(loop, end_tasks(book.root, self.general.ignores[:1]))

    def _run(self, loop: asyncio.AbstractEventLoop, work: Any) -> None:
        """Run our own work on a loop, charged to nobody."""
        active = self._active
        self._charge(None)
        try:
            loop.run_until_complete(work)
        finally:
            self._charge(active)
