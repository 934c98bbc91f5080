"""Turns leaks into outcomes of tests; the only module that changes the reports of tests."""

# The outcome of a test with a new leak (one that the baseline does not list):
#
#   its call                  the test then
#   passed                    fails in its call, with LeakError and without a traceback
#   passed, leaks = warn      passes, with a LeakWarning. A filter that makes an error of the
#                             warning is not obeyed: the report goes to the summary instead
#   raised, or setup failed   keeps its failure; the leak is a section of the report
#   skipped                   fails, since the skip came after the leak
#   marked xfail              is decided by pytest: LeakError is an AssertionError of the call
#
# A fixture with a wider scope has no call. Its leak is an error of its teardown, which pytest
# reports at the last test that used it. If that teardown makes room for a test that is being set up
# (another parameter of the fixture), an error would fail a test that has nothing to do with it;
# then the leak is listed in the summary, and fails the run.
#
# The difficulty: a leak is known only after the teardown, and pytest reports the call before it. A
# leak reported at the teardown would be an error beside a passed test: the run would count both,
# and a test marked xfail would be an XPASS already. So this module runs pytest's protocol itself
# and holds the report of the call back until the teardown is done. A failed call of a test that can
# have no leak is reported at once, because `-x` must be known before the teardown.
#
# Another plugin may run tests in its own way (pytest-rerunfailures), and so does `--setup-show`.
# Then nothing is held back, and the leak is an error of the teardown.
#
# With pytest-xdist, the workers run this and the controller sums up (`summary`): every leak travels
# in plain values in an attribute of the next report.

import inspect
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from _pytest.runner import call_and_report

from muxleak.plugin.item_checks import CHECK, PLAN, Check
from muxleak.plugin.options import LeakWarning

if TYPE_CHECKING:
    from muxleak.checks.report import LeakReport
    from muxleak.plugin.baseline import Baseline

SECTION = "Left behind"
NEW_LEAKS = pytest.StashKey[tuple["LeakReport", bool]]()  # with True if they fail the test
_PASSED = pytest.StashKey[bool]()  # True if the call raised nothing


class Outcomes:
    """The hooks that turn leaks into failures, errors and warnings.

    Args:
        baseline: the leaks that pass; None without a baseline.
        update: True if every leak passes, because the run writes the baseline.
    """

    def __init__(self, baseline: "Baseline | None", *, update: bool) -> None:
        self._baseline, self._update = baseline, update
        self._drives: bool | None = None
        self._driven: pytest.Item | None = None
        self._raised: BaseException | None = None
        # For the summary; they travel with the next report.
        self._leaks: list[dict[str, Any]] = []
        self._complete: list[str] = []
        self._refused: list[str] = []
        self._failures: list[str] = []

    def note_failure(self, owner: str, error: Exception) -> None:
        """Note for the summary that a measurement raised; the outcome of the test stays."""
        from muxleak.checks.failure import failed  # noqa: PLC0415 - only failures pay for it

        self._failures.append(failed(owner, error))

    def settle_test(self, item: pytest.Item, check: Check) -> None:
        """Decide which leaks of a test are new; they become part of its report later."""
        whole = item.stash.get(_PASSED, False) and not (check.plan.allowed or check.failed)
        if self._baseline is not None and whole:
            self._complete.append(check.owner)
        if not check.reports:
            return
        from muxleak.plugin.leak_reports import add_properties  # noqa: PLC0415 - only leaking tests pay for it

        for found in check.reports:
            add_properties(item, found)
        report = self._new(check)
        if report:
            item.stash[NEW_LEAKS] = report, check.plan.strict

    def settle_fixture(self, check: Check, *, in_setup: Check | None) -> None:
        """Raise, or warn of, the new leaks of a fixture with a wider scope than one test.

        Args:
            check: of the fixture.
            in_setup: of the test that is being set up meanwhile; None if there is none.

        Raises:
            LeakError: in strict mode, as an error of the teardown that is under way.
        """
        if self._baseline is not None and not check.failed:
            self._complete.append(check.owner)
        report = self._new(check) if check.reports else None
        if not report:
            return
        report = replace(report, headline=f"{report.headline} by {check.owner}")
        if in_setup is not None:
            self._leaks[-1]["text"] = str(report)
        elif check.plan.strict:
            self._raised = _error(report)
            raise self._raised
        else:
            code = getattr(inspect.unwrap(check.function), "__code__", _error.__code__)
            where = code.co_filename, code.co_firstlineno
            with self._warning(str(report)) as warning:
                warnings.warn_explicit(warning, None, *where)

    @pytest.hookimpl
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> Any:
        """Run a test, and report its call after its teardown."""
        if self._drives is None:
            self._drives = self._pytest_drives(item.config)
        if not self._drives or item.stash.get(PLAN, None) is None:
            return None
        ihook = item.ihook
        ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        self._driven = item
        try:
            for report in self._phases(item, nextitem):
                ihook.pytest_runtest_logreport(report=report)
        finally:
            self._driven = None
        ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Show a leak without a traceback, and attach the leaks for the summary."""
        report = yield
        excinfo = call.excinfo
        if excinfo is not None and excinfo.value is self._raised:
            # The traceback would lead into this plugin.
            report.longrepr = excinfo.getrepr(style="value")
            self._raised = None
        elif call.when == "call" and NEW_LEAKS not in item.stash:
            item.stash[_PASSED] = excinfo is None
            if excinfo is not None:
                self._note_explicit(item, excinfo, report)
        if call.when == "teardown" and self._driven is not item:
            self._error_at_teardown(item, report)
        self._attach(report)
        return report

    def _pytest_drives(self, config: pytest.Config) -> bool:
        """Return True if pytest itself runs the tests: no pytest-rerunfailures, no --setup-show."""
        if config.getoption("setupshow", default=False):
            return False
        hooks = config.hook.pytest_runtest_protocol.get_hookimpls()
        plain = [each.plugin for each in hooks if not (each.wrapper or each.hookwrapper)]
        names = [getattr(each, "__name__", type(each).__module__) for each in plain]
        return all(name.startswith("_pytest.") or name == __name__ for name in names)

    def _phases(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[pytest.TestReport, None, None]:
        """Run the phases as `_pytest.runner.runtestprotocol` does, with one report held back."""
        held: list[pytest.TestReport] = []
        try:
            report = call_and_report(item, "setup", log=False)
            if report.passed:
                yield report
                if not item.config.getoption("setuponly", default=False):
                    report = call_and_report(item, "call", log=False)
                    held.append(report)
            else:
                held.append(report)
            # No leak can change this failure, so it goes out now: `-x` acts on it before teardown.
            if not report.passed and _clean(item):
                yield held.pop()
            stop = item.session.shouldfail or item.session.shouldstop
            teardown = call_and_report(
                item, "teardown", log=False, nextitem=None if stop else nextitem
            )
            yield from self._with_leaks(item, held)
            yield teardown
        finally:
            # As pytest does, so that the values of the fixtures can be freed.
            if hasattr(item, "_request"):
                vars(item).update(_request=False, funcargs=None)

    def _with_leaks(
        self, item: pytest.Item, held: list[pytest.TestReport]
    ) -> list[pytest.TestReport]:
        """Return the reports held back, the last of them with the new leaks."""
        if NEW_LEAKS not in item.stash or not held:
            return held
        found, strict = item.stash[NEW_LEAKS]
        *before, last = held
        last.sections.append((SECTION, str(found)))
        if item.stash.get(_PASSED, False) or (last.skipped and not hasattr(last, "wasxfail")):
            if strict:
                last = self._failed(item, found, last)
            else:
                self._warn(item, found, last)
        return [*before, last]

    def _failed(
        self, item: pytest.Item, found: "LeakReport", held: pytest.TestReport
    ) -> pytest.TestReport:
        """Return the report of a call that raised the leaks, in place of the one held back."""
        self._raised = _error(found)
        call = pytest.CallInfo.from_call(partial(_raise, self._raised), when="call")
        report: pytest.TestReport = item.ihook.pytest_runtest_makereport(item=item, call=call)
        report.start, report.stop, report.duration = held.start, held.stop, held.duration
        report.sections = [each for each in held.sections if each[0] != SECTION]
        return report

    def _error_at_teardown(self, item: pytest.Item, report: pytest.TestReport) -> None:
        found, strict = item.stash.get(NEW_LEAKS, (None, False))
        if found is None:
            return
        if strict and report.passed:
            call = pytest.CallInfo.from_call(partial(_raise, _error(found)), when="teardown")
            report.outcome = "failed"
            report.longrepr = call.excinfo and call.excinfo.getrepr(style="value")
            return
        report.sections.append((SECTION, str(found)))
        if not strict:
            self._warn(item, found, report)

    def _warn(self, item: pytest.Item, found: "LeakReport", report: pytest.TestReport) -> None:
        """Warn of the leaks of a test; `report` brings a refused warning to the summary."""
        with self._warning(str(found), f"{item.nodeid}: ") as warning:
            item.warn(warning)
        self._attach(report)

    @contextmanager
    def _warning(self, text: str, owner: str = "") -> Iterator[LeakWarning]:
        """Yield a warning to emit; note it for the summary if a filter makes an error of it."""
        # `warn` promises that no outcome changes, whatever `filterwarnings` says.
        try:
            yield LeakWarning(text)
        except LeakWarning:
            self._refused.append(owner + text)

    def _attach(self, report: pytest.TestReport) -> None:
        """Move the notes for the summary to a report; pytest-xdist sends it to the controller."""
        notes: dict[str, list[Any]] = {
            "leaks": self._leaks,
            "complete": self._complete,
            "refused": self._refused,
            "failures": self._failures,
        }
        if not any(notes.values()):
            return
        brought = vars(report).setdefault("muxleak", {name: [] for name in notes})
        for name, each in notes.items():
            brought[name] += each
        self._leaks, self._complete, self._refused, self._failures = [], [], [], []

    def _note_explicit(
        self, item: pytest.Item, excinfo: pytest.ExceptionInfo[Any], report: pytest.TestReport
    ) -> None:
        """Note the leaks by which `no_leaks` in the test, or the marker's `repeat`, failed it."""
        from muxleak.checks.report import LeakError  # noqa: PLC0415 - only failing tests pay for it

        if not isinstance(excinfo.value, LeakError):
            return
        from muxleak.plugin.leak_reports import add_properties, values_of  # noqa: PLC0415 - the same

        found = excinfo.value.report
        add_properties(item, found)
        self._leaks += [
            values_of(item.nodeid, each, {}, new=False, explicit=True) for each in found.groups
        ]
        plan = item.stash.get(PLAN, None)
        if plan is not None and plan.repeat is not None:
            report.longrepr = excinfo.getrepr(style="value")

    def _new(self, check: Check) -> "LeakReport":
        """Return the leaks that the baseline does not list; note all of them for the summary."""
        from muxleak.plugin.leak_reports import leak_of, only, report_of, values_of  # noqa: PLC0415

        report, listed = report_of(check), (self._baseline or {}).get(check.owner, {})
        counts: dict[str, int] = {}
        for group in report.groups:
            leak = leak_of(group, check.places)
            counts[leak] = counts.get(leak, 0) + group.count
        fresh = [leak for leak, n in counts.items() if n > listed.get(leak, 0) and not self._update]
        chosen = []
        for group in report.groups:
            new = leak_of(group, check.places) in fresh
            self._leaks.append(values_of(check.owner, group, check.places, new=new))
            if new:
                chosen.append(group)
        more = (
            f"{counts[leak]} x {leak}; {listed[leak]} in the baseline"
            for leak in fresh
            if leak in listed
        )
        return only(report, chosen).noting(*more)


def _error(report: "LeakReport") -> BaseException:
    from muxleak.checks.report import LeakError  # noqa: PLC0415 - only leaking tests pay for it

    return LeakError(report)


def _raise(error: BaseException) -> None:
    raise error


def _clean(item: pytest.Item) -> bool:
    check = item.stash.get(CHECK, None)
    return check is None or check.scope.certainly_clean
