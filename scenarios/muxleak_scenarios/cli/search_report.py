"""Output of searches and replays: outcomes and findings of every kind, in text and JSON."""

# `fuzz` and `replay` show programs, servers and sequences by this module alone; `hunt_report` shows
# what a hunt measures.
#
# An outcome of a program or server is shown as its error with the line that raised it, and not as a
# traceback: most frames of that belong to the simulation and to asyncio. The report of a leak has
# its own places; a line of the simulator would only mislead. The outcome of a sequence is shown as
# the properties that it violates.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from rich.text import Text

from muxleak.checks.report import LeakError
from muxleak.sim import DeadlockError, TimeLimitError
from muxleak_scenarios import PROPERTIES
from muxleak_scenarios.cli import interrupt, programs, render
from muxleak_scenarios.pairs.subject import SequenceRunOutcome

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from muxleak.search import Finding, Outcome
    from muxleak_scenarios import SequenceOutcome
    from muxleak_scenarios.pairs.campaign import Budget

BEYOND = (
    "beyond stock asyncio: wakes tasks in an order that its first-in, first-out queue never has"
)
_STEPS_SHOWN = 30
_REPORTS = (LeakError, DeadlockError, TimeLimitError)  # errors that have a report
_BEST = {"schedule": "simplest", "sequence": "shortest"}
_WHY = {"time": "the time is up", "stopped": "stopped"}


class SearchReport(NamedTuple):
    """The result of a search.

    Attributes:
        name: the subject.
        noun: one of its runs: "schedule" or "sequence".
        budget: the limits of the search.
        seed: of all chance.
        ended: the reason for the end: "shrunk", "examples", "time", "stopped", or another of the
            finding's own.
        found: the finding; None without one.
    """

    name: str
    noun: str
    budget: Budget
    seed: int
    ended: str
    found: Finding[Any] | None

    @property
    def code(self) -> int:
        """The exit code: a search that was stopped before it found something proves less."""
        if self.found is None and self.ended == "stopped":
            return interrupt.CODE
        return int(self.found is not None)

    def to_json(self, replay: str = "", path: Path | None = None, **more: Any) -> dict[str, Any]:
        """Return plain data.

        Args:
            replay: the line that runs the finding again.
            path: the file of the finding.
            more: further keys.
        """
        data = {
            "subject": self.name,
            "seed": self.seed,
            "budget": self.budget._asdict(),
            "ended": self.ended,
            "found": self.found is not None,
            **more,
        }
        if self.found is None:
            return data
        return {
            **data,
            "shrunk": self.ended == "shrunk",
            "replay": replay,
            "file": None if path is None else str(path),
            **outcome_to_json(self.found.outcome),
        }

    def show_nothing(self, ran: str) -> None:
        """Say that nothing was found, and what the budget was.

        Args:
            ran: the number of runs in words.
        """
        limits = []
        if self.budget.examples is not None:
            limits.append(render.plural(self.budget.examples, self.noun))
        if self.budget.seconds is not None:
            limits.append(f"{self.budget.seconds:g} s")
        within = "stopped before" if self.ended == "stopped" else "within"
        text = f": {ran}, {within} the budget of {' and '.join(limits)}"
        render.stdout().print(Text.assemble(("nothing found", render.GOOD), text))

    def show(self, at: str, again: Sequence[str], where: str, why: str = "") -> None:
        """Print the finding.

        Args:
            at: the place of the finding in the search, in words.
            again: the command lines that run it again.
            where: the end of the line before them.
            why: the reason why it may not be the simplest, if `ended` does not say it.
        """
        if self.found is None:
            return
        # A search that was ended while it shrank has a run that fails, but perhaps steps too many.
        why = why or _WHY.get(self.ended, "")
        note = f"; {why}, so perhaps not the {_BEST[self.noun]}" if why else ""
        if self.found.ended == "once":
            note = "; it did not fail again"
        console = render.stdout()
        console.print(Text.assemble(("found", render.BAD), f" in {self.name}, {at}{note}"))
        show_outcome(console, self.found.outcome)
        console.print(f"again{where}:")
        for line in again:
            render.copyable(console, line)


def outcome_to_json(outcome: Outcome) -> dict[str, Any]:
    """Return a failing run as plain data."""
    if isinstance(outcome, SequenceRunOutcome):
        return {"outcome": outcome.result.to_json()}
    error = outcome.error
    return {
        "error": type(error).__name__,
        "message": str(error),
        "raised_at": programs.raised_at(error) or None,
        "steps": list(outcome.steps),
        "beyond_stock_asyncio": outcome.beyond,
        "report": error.report.to_json() if isinstance(error, _REPORTS) else None,
    }


def show_outcome(console: Console, outcome: Outcome) -> None:
    """Print the steps of a failing run, and its error or the properties that it violates."""
    console.print()
    if isinstance(outcome, SequenceRunOutcome):
        render.body(console, render.sequence(outcome.sequence))
        console.print()
        show_violations(console, outcome.result)
    else:
        _show_steps(console, outcome.steps)
        _show_error(console, outcome)
    console.print()


def _show_steps(console: Console, steps: Sequence[str]) -> None:
    for step in steps[:_STEPS_SHOWN]:
        render.copyable(console, step)
    if (more := len(steps) - _STEPS_SHOWN) > 0:
        render.body(console, Text(f"and {render.plural(more, 'more step')}", render.QUIET))
    if steps:
        console.print()


def _show_error(console: Console, outcome: Outcome) -> None:
    error = outcome.error
    first, *lines = f"{type(error).__name__}: {error}".removesuffix(": ").splitlines()
    console.print(Text(first, render.BAD), soft_wrap=True)
    for line in lines:
        render.copyable(console, line, 0)
    if not isinstance(error, _REPORTS) and (at := programs.raised_at(error)):
        render.copyable(console, f"raised at {at}")
    if outcome.beyond:
        console.print(BEYOND)


def show_violations(console: Console, outcome: SequenceOutcome, title: str = "") -> None:
    """Print the violated properties of a sequence, leaked tasks, and the number of them."""
    if title:
        render.copyable(console, title, 0)
    if not outcome.violations:
        count = render.plural(outcome.connections, "connection")
        console.print(Text.assemble(("clean", render.GOOD), f": {count}, every property held"))
        return
    for name in outcome.violated:
        console.print(Text.assemble(("violated", render.BAD), f": {name}: {PROPERTIES[name]}"))
        for each in outcome.violations:
            if each.property == name:
                render.body(console, f"connection {each.connection}: {each.detail}")
    if outcome.report is not None:
        console.print()
        render.leaks(console, outcome.report)
        console.print()
        end = f"{outcome.left} left when all are closed, {outcome.left_after_end} after the server"
        render.body(console, Text(f"{end} has ended", render.QUIET))
