"""The check of one test or fixture: its settings, the scope it is charged in, and its leaks."""

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from muxleak.checks.ignores import Ignore, ignore_name, valid_ignores
from muxleak.ledger.kinds import DEFAULT_KINDS, valid_kinds
from muxleak.plugin.foreign_marks import OPTIONS, is_foreign
from muxleak.plugin.options import MARKS, PluginSettings, is_marked, valid

if TYPE_CHECKING:
    from muxleak.checks.descriptors import OpenedDescriptors
    from muxleak.checks.report import LeakReport
    from muxleak.ledger.counters import Scope

# Of runners themselves. The one task in which anyio's plugin runs tests and fixtures ends with its
# loop; alt-pytest-asyncio sets a timer for each test and fixture, and leaves it set.
RUNNERS = (
    ignore_name("TestRunner._run_tests_and_fixtures", reason="anyio's own"),
    ignore_name("LoadedAsyncTimeout.*.timeout_task", reason="alt-pytest-asyncio's own"),
)

PLAN = pytest.StashKey["CheckPlan | None"]()
CHECK = pytest.StashKey["Check"]()


@dataclass(frozen=True, slots=True)
class CheckPlan:
    """The settings of one check: those of the run, changed by the markers of the test.

    Attributes:
        strict: True if a leak fails the test, False if it warns.
        kinds: a subset of `kinds.KINDS`.
        budget: seconds within which an object may end by itself.
        ignores: values of `muxleak.checks.ignores`.
        repeat: the number of runs of the test, which is then checked for growth instead.
        allowed: True if nothing is checked.
    """

    strict: bool
    kinds: frozenset[str]
    budget: float
    ignores: tuple[Ignore, ...]
    repeat: int | None = None
    allowed: bool = False

    @property
    def counts_descriptors(self) -> bool:
        """True if the kinds of one run name descriptors; by default they do not count there."""
        named = self.kinds is not DEFAULT_KINDS and "descriptor" in self.kinds
        return named and self.repeat is None


class Check:
    """One test or fixture under check.

    Attributes:
        owner: the id of the test, or the name of the fixture in reports and in the baseline.
        plan: the settings.
        scope: charged with every object that the test or fixture makes.
        reports: the leaks, one report for each loop with any.
        places: maps each creation site in a report to its place, which has no line number.
        opened: the descriptors opened since the call began; None if they are not counted.
        finished: True after the last measurement.
        failed: True if a measurement raised, so that leaks may have been missed.
        reported: ignores the objects that are in a report already.
        held: objects left on a loop that has ended, which fixtures of the test may still end, each
            with the evidence that it has not ended (see `leak_reports`).
        outer: for a fixture that is being torn down, the check that it interrupts.
        function: for a fixture, its function.
    """

    __slots__ = (
        "failed",
        "finished",
        "function",
        "held",
        "opened",
        "outer",
        "owner",
        "places",
        "plan",
        "reported",
        "reports",
        "scope",
    )

    def __init__(self, owner: str, plan: CheckPlan, scope: "Scope") -> None:
        self.owner, self.plan, self.scope = owner, plan, scope
        self.reports: list[LeakReport] = []
        self.places: dict[str, str] = {}
        self.finished = self.failed = False
        self.reported: tuple[Ignore, ...] = ()
        self.held: list[tuple[Any, Any]] = []
        self.opened: OpenedDescriptors | None = None
        self.outer: Check | None = None
        self.function: Any = None

    @property
    def needed(self) -> bool:
        """True if the scope may hold a leak, so that the loops must be measured."""
        return not (self.plan.allowed or self.plan.repeat or self.scope.certainly_clean)


def default_plan(settings: PluginSettings) -> CheckPlan:
    """Return the plan of tests without a marker, and of fixtures."""
    ignores = (*RUNNERS, *settings.ignores)
    return CheckPlan(settings.mode == "strict", settings.kinds, settings.budget, ignores)


def plan_of(item: pytest.Item, settings: PluginSettings, default: CheckPlan) -> CheckPlan | None:
    """Return the plan of a test, or None if the test is not checked.

    The nearest marker counts: one of the test overrides one of its class or module.

    Args:
        item: the test.
        settings: those of the run.
        default: the plan of a test without a marker.

    Raises:
        pytest.UsageError: a marker's arguments are not valid; the message lists the valid ones.
    """
    mark = _own_mark(item) if is_marked(item) else None
    if mark is None:
        return default if settings.mode != "off" else None
    if mark.name == "leaks_allowed":
        _reason(item, *mark.args, **mark.kwargs)
        return CheckPlan(strict=False, kinds=frozenset(), budget=1.0, ignores=(), allowed=True)
    return _marked(item, mark, settings, default)


def repeat_test(item: pytest.Item, plan: CheckPlan) -> None:
    """Replace the function of a test by one that repeats it and measures its growth.

    Raises:
        pytest.UsageError: the test cannot be repeated.
    """
    from muxleak.checks.no_leaks import no_leaks  # noqa: PLC0415 - only marked tests pay for it

    function = getattr(item, "obj", None)
    # Hypothesis repeats its tests itself, each time with other arguments.
    if hasattr(function, "hypothesis") or not inspect.iscoroutinefunction(function):
        raise pytest.UsageError(
            f"{item.nodeid}: mark no_leaks: repeat needs a plain async test, got {function!r}"
        )
    check = no_leaks(kinds=plan.kinds, budget=plan.budget, ignore=plan.ignores, repeat=plan.repeat)
    subject: Any = item
    subject.obj = check(function)


def _own_mark(item: pytest.Item) -> pytest.Mark | None:
    found = (mark for mark in item.iter_markers() if mark.name in MARKS)
    return next((mark for mark in found if not is_foreign(mark, item.config)), None)


def _marked(
    item: pytest.Item, mark: pytest.Mark, settings: PluginSettings, default: CheckPlan
) -> CheckPlan:
    where = f"{item.nodeid}: mark no_leaks"
    unknown = sorted(set(mark.kwargs) - set(OPTIONS))
    if mark.args or unknown:
        got = ", ".join([*map(repr, mark.args), *unknown])
        raise pytest.UsageError(f"{where} takes {', '.join(OPTIONS)} by keyword, got {got}")
    valid(where, **mark.kwargs)
    kinds = mark.kwargs.get("kinds")
    return CheckPlan(
        strict=True,
        kinds=settings.kinds if kinds is None else valid_kinds(kinds),
        budget=mark.kwargs.get("budget", settings.budget),
        ignores=(*default.ignores, *valid_ignores(mark.kwargs.get("ignore", ()))),
        repeat=mark.kwargs.get("repeat"),
    )


def _reason(item: pytest.Item, *args: Any, **settings: Any) -> None:
    given = [*args, *settings.values()]
    texts = [each for each in given if isinstance(each, str) and each.strip()]
    if len(given) != 1 or not texts or set(settings) - {"reason"}:
        raise pytest.UsageError(
            f'{item.nodeid}: mark leaks_allowed takes one reason, as in leaks_allowed(reason="the '
            f'daemon is meant to stay"), got {given!r}'
        )
