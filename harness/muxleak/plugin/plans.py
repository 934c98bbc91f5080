"""What is asked of one test: the settings of the run with what its markers say."""

import inspect
from dataclasses import dataclass
from typing import Any

import pytest

from muxleak.checks.ignores import Ignore, ignore_name, valid_ignores
from muxleak.ledger.kinds import valid_kinds
from muxleak.plugin.options import MARKS, PluginSettings, is_marked, valid

_OPTIONS = ("kinds", "budget", "ignore", "repeat")
# The one task in which anyio's plugin runs tests and fixtures; it ends with its loop.
RUNNERS = (ignore_name("TestRunner._run_tests_and_fixtures", reason="anyio's own"),)

PLAN = pytest.StashKey["CheckPlan | None"]()


@dataclass(frozen=True, slots=True)
class CheckPlan:
    """How one test, or one fixture, is checked.

    Attributes:
        strict: whether a leak fails it; else it warns.
        kinds: of `kinds.KINDS`.
        budget: seconds.
        ignores: values of `muxleak.checks.ignores`.
        repeat: how often to run it, looking for growth instead.
        allowed: whether nothing is looked for.
    """

    strict: bool
    kinds: frozenset[str]
    budget: float
    ignores: tuple[Ignore, ...]
    repeat: int | None = None
    allowed: bool = False


def general(settings: PluginSettings) -> CheckPlan:
    """The plan of whatever has no marker."""
    ignores = (*RUNNERS, *settings.ignores)
    return CheckPlan(settings.mode == "strict", settings.kinds, settings.budget, ignores)


def plan_of(item: pytest.Item, settings: PluginSettings, usual: CheckPlan) -> CheckPlan | None:
    """The plan of a test, `usual` if it has no marker; None if nothing is asked of it.

    Raises:
        pytest.UsageError: a marker's arguments are not valid; the message says which are.
    """
    found = (mark for mark in item.iter_markers() if mark.name in MARKS)
    mark = next(found, None) if is_marked(item) else None
    if mark is None:
        return usual if settings.mode != "off" else None
    if mark.name == "leaks_allowed":
        _reason(item, *mark.args, **mark.kwargs)
        return CheckPlan(strict=False, kinds=frozenset(), budget=1.0, ignores=(), allowed=True)
    return _marked(item, mark, settings, usual)


def decorate(item: pytest.Item, plan: CheckPlan) -> None:
    """Have a test run as often as its marker says.

    Raises:
        pytest.UsageError: it is a test that cannot be repeated.
    """
    from muxleak.checks.no_leaks import no_leaks  # noqa: PLC0415 - only marked tests pay for it

    function = getattr(item, "obj", None)
    if hasattr(function, "hypothesis") or not inspect.iscoroutinefunction(function):
        raise pytest.UsageError(
            f"{item.nodeid}: mark no_leaks: repeat needs a plain async test, got {function!r}"
        )
    check = no_leaks(kinds=plan.kinds, budget=plan.budget, ignore=plan.ignores, repeat=plan.repeat)
    subject: Any = item
    subject.obj = check(function)


def _marked(
    item: pytest.Item, mark: pytest.Mark, settings: PluginSettings, usual: CheckPlan
) -> CheckPlan:
    where = f"{item.nodeid}: mark no_leaks"
    unknown = sorted(set(mark.kwargs) - set(_OPTIONS))
    if mark.args or unknown:
        got = ", ".join([*map(repr, mark.args), *unknown])
        raise pytest.UsageError(f"{where} takes {', '.join(_OPTIONS)} by keyword, got {got}")
    valid(where, **mark.kwargs)
    kinds = mark.kwargs.get("kinds")
    return CheckPlan(
        strict=True,
        kinds=settings.kinds if kinds is None else valid_kinds(kinds),
        budget=mark.kwargs.get("budget", settings.budget),
        ignores=(*usual.ignores, *valid_ignores(mark.kwargs.get("ignore", ()))),
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
