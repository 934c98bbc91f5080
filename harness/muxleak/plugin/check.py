"""What one test, or one fixture, is charged with, and what it left behind."""

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from muxleak.checks.ignores import Ignore
    from muxleak.checks.report import LeakReport
    from muxleak.ledger.counters import Scope
    from muxleak.plugin.plans import CheckPlan

CHECK = pytest.StashKey["Check"]()


class Check:
    """A test or a fixture under check.

    Attributes:
        blamed: the test's id, or what stands for a fixture.
        plan: how it is checked.
        scope: what is charged.
        reports: what was found, loop by loop.
        places: for each site in a report, its place without line numbers.
        finished: whether it was looked at for the last time.
        seen: covers what was reported already.
        outer: of a fixture that is being torn down, the check that is interrupted.
        function: of a fixture.
    """

    __slots__ = (
        "blamed",
        "finished",
        "function",
        "outer",
        "places",
        "plan",
        "reports",
        "scope",
        "seen",
    )

    def __init__(self, blamed: str, plan: "CheckPlan", scope: "Scope") -> None:
        self.blamed, self.plan, self.scope = blamed, plan, scope
        self.reports: list[LeakReport] = []
        self.places: dict[str, str] = {}
        self.finished = False
        self.seen: tuple[Ignore, ...] = ()
        self.outer: Check | None = None
        self.function: Any = None

    @property
    def wanted(self) -> bool:
        """Whether anything has to be looked at."""
        return not (self.plan.allowed or self.plan.repeat or self.scope.clean)
