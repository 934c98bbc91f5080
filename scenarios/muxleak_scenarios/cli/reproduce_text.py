"""How a reproduction reads in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from muxleak_scenarios import PROPERTIES
from muxleak_scenarios.cli import describe, render

if TYPE_CHECKING:
    from rich.console import Console

    from muxleak_scenarios import Pair
    from muxleak_scenarios.cli.reproduce import Reproduction

GROWS = {
    "tasks": "tasks left by n closed connections",
    "counted_open": "connections counted as open after n closed",
}

CONCLUSIONS = {
    "tasks": "after {0} the buggy variant leaves {1}, the fixed variant {3:,}.",
    "counted_open": "after {0} the buggy variant counts {2:,} as open, the fixed variant {3:,}.",
}


def opening(console: Console, pair: Pair) -> None:
    """Say what bug this is."""
    facts = pair.facts
    console.print(Text(pair.slug, render.HEAD))
    console.print(facts.title)
    console.print()
    question = f"{facts.question}: {describe.question_in_words(facts.question)}"
    shown = {"symptom": facts.symptom, "question": question, "references": facts.references}
    render.body(console, render.facts(shown))


def tell(console: Console, result: Reproduction) -> None:
    """Say what was measured."""
    _growth(console, result)
    _blocked(console, result)
    _minimal(console, result)
    render.heading(console, "The fix", "everything that differs between the variants")
    render.diff(console, result.pair.diff())
    _fixes(console, result)
    _conclusion(console, result)


def _growth(console: Console, result: Reproduction) -> None:
    note = f"{GROWS[result.metric]}, over loopback TCP"
    render.heading(console, "Growth", note)
    buggy = result.points("buggy", result.metric)
    fixed = result.points("fixed", result.metric)
    rows = [(n, left, right) for (n, left), (_, right) in zip(buggy, fixed, strict=True)]
    render.body(console, render.chart(console, ("n", "buggy", "fixed"), rows))


def _blocked(console: Console, result: Reproduction) -> None:
    last = result.buggy[-1]
    if last.report:
        after = render.plural(last.closed, "closed connection")
        render.heading(console, "Blocked", f"what is left after {after}, buggy variant")
        render.leaks(console, last.report)


def _minimal(console: Console, result: Reproduction) -> None:
    found = result.found
    if found is None:
        render.heading(console, "Shortest sequence")
        render.body(console, Text("none found that violates a property", render.BAD))
        return
    note = f"found by Hypothesis after {render.plural(found.connections, 'connection')}, shrunk"
    render.heading(console, "Shortest sequence", note)
    render.body(console, render.sequence(found.sequence))
    console.print()
    broken = [f"{name}: {PROPERTIES[name]}" for name in found.outcome.violated]
    render.body(console, render.facts({"violates": broken}))
    console.print()
    render.body(console, Text("again, and with the fix:", render.QUIET))
    line = str(result.replay)
    render.copyable(console, render.command("replay", line))
    render.copyable(console, render.command("replay", "--variant", "fixed", line))


def _fixes(console: Console, result: Reproduction) -> None:
    note = "versions of the original, on this pair's witness"
    render.heading(console, "Which fix would have helped", note)
    grid = render.table("version", "result", "what it is", fixed=("version",))
    for name, outcome in result.fixes.items():
        style = render.BAD if outcome.violated else render.GOOD
        verdict = Text(describe.outcome_in_words(outcome), style)
        grid.add_row(name, verdict, describe.version_in_words(name))
    render.body(console, grid)
    console.print()
    render.body(console, Text("what else each of them breaks: muxleak self versions", render.QUIET))


def _conclusion(console: Console, result: Reproduction) -> None:
    console.print()
    closed = render.plural(result.buggy[-1].closed, "closed connection")
    buggy, fixed = (result.points(variant, result.metric)[-1][1] for variant in ("buggy", "fixed"))
    text = CONCLUSIONS[result.metric].format(closed, render.plural(buggy, "task"), buggy, fixed)
    if result.reproduced:
        console.print(Text.assemble(("Reproduced, and fixed: ", "bold green"), text))
        return
    console.print(Text.assemble(("Not as claimed: ", "bold red"), text))
    if result.fixed_violates:
        broken = ", ".join(result.fixed_violates)
        console.print(f"The fixed variant violates {broken} on the shortest sequence.")
