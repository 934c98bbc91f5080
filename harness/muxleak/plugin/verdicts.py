"""What a leak means for a test's outcome: the only place that knows of reports and warnings.

A test passes or fails when its own fixtures are gone, so the report of a passed call is held back
until then, and a leak fails the call itself: not a neighbour, and not only the teardown. Where
another plugin runs the tests its own way, nothing is held back and a leak is an error at teardown.
"""

import inspect
import warnings
from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from _pytest.runner import call_and_report

from muxleak.plugin.check import CHECK, Check
from muxleak.plugin.options import LeakWarning
from muxleak.plugin.plans import PLAN

if TYPE_CHECKING:
    from muxleak.checks.report import LeakReport
    from muxleak.plugin.baseline import Baseline

SECTION = "Left behind"
VERDICT = pytest.StashKey[tuple["LeakReport", bool]]()  # with whether it fails the test
_PASSED = pytest.StashKey[bool]()  # whether the call raised nothing


class Court:
    """Judges what checks found.

    Args:
        known: the leaks that pass; None if there is no such file.
        update: whether every leak passes, since it will be written to that file.
    """

    def __init__(self, baseline: "Baseline | None", *, update: bool) -> None:
        self._baseline, self._update = baseline, update
        self._drives: bool | None = None
        self._driven: pytest.Item | None = None
        self._raised: BaseException | None = None
        self._evidence: list[dict[str, Any]] = []
        self._done: list[str] = []

    def judge(self, item: pytest.Item, check: Check) -> None:
        """Settle what a test is blamed for."""
        if self._baseline is not None and item.stash.get(_PASSED, False) and not check.plan.allowed:
            self._done.append(check.blamed)
        if not check.reports:
            return
        from muxleak.plugin.findings import add_properties  # noqa: PLC0415 - only leaking tests pay for it

        for found in check.reports:
            add_properties(item, found)
        report = self._new(check)
        if report:
            item.stash[VERDICT] = report, check.plan.strict

    def judge_fixture(self, check: Check, *, innocent: Check | None) -> None:
        """Settle what a fixture of a wider scope is blamed for, as an error of its teardown.

        Args:
            check: of the fixture.
            innocent: of a test that is being set up, for which the fixture made room.
        """
        if self._baseline is not None:
            self._done.append(check.blamed)
        report = self._new(check) if check.reports else None
        if not report:
            return
        report = replace(report, headline=f"{report.headline} by {check.blamed}")
        if innocent is not None:
            self._evidence[-1]["text"] = str(report)
        elif check.plan.strict:
            self._raised = _error(report)
            raise self._raised
        else:
            code = getattr(inspect.unwrap(check.function), "__code__", _error.__code__)
            warnings.warn_explicit(
                LeakWarning(str(report)), None, code.co_filename, code.co_firstlineno
            )

    @pytest.hookimpl
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> Any:
        """Run a test, and report on its call when it is known what it left behind."""
        if self._drives is None:
            self._drives = self._nobody_else_drives(item.config)
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
        """Show a leak as what it is, and hand the evidence on to whoever sums up."""
        report = yield
        excinfo = call.excinfo
        if excinfo is not None and excinfo.value is self._raised:
            # The traceback would lead into this plugin.
            report.longrepr = excinfo.getrepr(style="value")
            self._raised = None
        elif call.when == "call" and VERDICT not in item.stash:
            item.stash[_PASSED] = excinfo is None
            if excinfo is not None:
                self._look_inside(item, excinfo, report)
        if call.when == "teardown" and self._driven is not item:
            self._error_at_teardown(item, report)
        if self._evidence or self._done:
            # A report takes any attribute, and pytest-xdist carries it to the controller.
            vars(report)["muxleak"] = {"leaks": self._evidence, "done": self._done}
            self._evidence, self._done = [], []
        return report

    def _nobody_else_drives(self, config: pytest.Config) -> bool:
        """Whether pytest itself would run the tests: no pytest-rerunfailures, no --setup-show."""
        if config.getoption("setupshow", default=False):
            return False
        hooks = config.hook.pytest_runtest_protocol.get_hookimpls()
        plain = [each.plugin for each in hooks if not (each.wrapper or each.hookwrapper)]
        names = [getattr(each, "__name__", type(each).__module__) for each in plain]
        return all(name.startswith("_pytest.") or name == __name__ for name in names)

    def _phases(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[pytest.TestReport, None, None]:
        """What pytest's own protocol does, with one report held back."""
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
            # A failure that no leak can add to goes out: `-x` has to know before the teardown.
            if not report.passed and _clean(item):
                yield held.pop()
            stop = item.session.shouldfail or item.session.shouldstop
            teardown = call_and_report(
                item, "teardown", log=False, nextitem=None if stop else nextitem
            )
            yield from self._verdict(item, held)
            yield teardown
        finally:
            # As pytest does, so that what the fixtures gave can go.
            if hasattr(item, "_request"):
                vars(item).update(_request=False, funcargs=None)

    def _verdict(self, item: pytest.Item, held: list[pytest.TestReport]) -> list[pytest.TestReport]:
        """The reports held back, the last of them telling of the leak."""
        if VERDICT not in item.stash or not held:
            return held
        report, strict = item.stash[VERDICT]
        *before, last = held
        last.sections.append((SECTION, str(report)))
        if item.stash.get(_PASSED, False) or (last.skipped and not hasattr(last, "wasxfail")):
            call = pytest.CallInfo.from_call(lambda: _accuse(item, report, strict), when="call")
            last = self._failed(item, call, last)
        return [*before, last]

    def _failed(
        self, item: pytest.Item, call: pytest.CallInfo[None], held: pytest.TestReport
    ) -> pytest.TestReport:
        """The report of a call that raised, in place of one that did not."""
        if call.excinfo is None:
            return held
        self._raised = call.excinfo.value
        report: pytest.TestReport = item.ihook.pytest_runtest_makereport(item=item, call=call)
        report.start, report.stop, report.duration = held.start, held.stop, held.duration
        report.sections = [each for each in held.sections if each[0] != SECTION]
        return report

    def _error_at_teardown(self, item: pytest.Item, report: pytest.TestReport) -> None:
        found, strict = item.stash.get(VERDICT, (None, False))
        if found is None:
            return
        call = pytest.CallInfo.from_call(lambda: _accuse(item, found, strict), when="teardown")
        if call.excinfo is not None and report.passed:
            report.outcome = "failed"
            report.longrepr = call.excinfo.getrepr(style="value")
        else:
            report.sections.append((SECTION, str(found)))

    def _look_inside(
        self, item: pytest.Item, excinfo: pytest.ExceptionInfo[Any], report: pytest.TestReport
    ) -> None:
        """Take up what a `no_leaks` within the test, or its repetition, has found."""
        from muxleak.checks.report import LeakError  # noqa: PLC0415 - only failing tests pay for it

        if not isinstance(excinfo.value, LeakError):
            return
        from muxleak.plugin.findings import add_properties, evidence  # noqa: PLC0415 - the same

        found = excinfo.value.report
        add_properties(item, found)
        self._evidence += [
            evidence(item.nodeid, each, {}, new=False, explicit=True) for each in found.groups
        ]
        plan = item.stash.get(PLAN, None)
        if plan is not None and plan.repeat is not None:
            report.longrepr = excinfo.getrepr(style="value")

    def _new(self, check: Check) -> "LeakReport":
        """What is not known of a check's finding; all of it is kept as evidence."""
        from muxleak.plugin.findings import evidence, leak_of, only, report_of  # noqa: PLC0415

        report, known = report_of(check), (self._baseline or {}).get(check.blamed, {})
        counts: dict[str, int] = {}
        for group in report.groups:
            leak = leak_of(group, check.places)
            counts[leak] = counts.get(leak, 0) + group.count
        fresh = [leak for leak, n in counts.items() if n > known.get(leak, 0) and not self._update]
        chosen = []
        for group in report.groups:
            new = leak_of(group, check.places) in fresh
            self._evidence.append(evidence(check.blamed, group, check.places, new=new))
            if new:
                chosen.append(group)
        more = (
            f"{counts[leak]} x {leak}; {known[leak]} in the baseline"
            for leak in fresh
            if leak in known
        )
        return only(report, chosen).noting(*more)


def _error(report: "LeakReport") -> BaseException:
    from muxleak.checks.report import LeakError  # noqa: PLC0415 - only leaking tests pay for it

    return LeakError(report)


def _accuse(item: pytest.Item, report: "LeakReport", strict: bool) -> None:  # noqa: FBT001
    """Raise what fails the test; a warning does only if the user's filters make it an error."""
    if strict:
        raise _error(report)
    item.warn(LeakWarning(str(report)))


def _clean(item: pytest.Item) -> bool:
    check = item.stash.get(CHECK, None)
    return check is None or check.scope.clean
