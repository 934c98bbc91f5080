"""``muxleak reproduce``: show one bug end to end, from its symptom to its fix."""

# Each section of the output is measured when the command runs; none is written down. In order:
#
# - Growth: connections are opened and closed over loopback TCP, because that is the symptom as
#   users saw it, and no simulator can be suspected of it. Each count has a new server, so the
#   figures do not add up.
# - Blocked: the tasks that are left, from the last and largest count.
# - Shortest sequence: the search is not told the minimal sequence of the pair, so it shows that the
#   bug is found by somebody who does not know it.
# - Fixes: every historical version runs the pair's minimal sequence, on the simulated network.
#
# The exit code says if all of this came out as claimed: every connection left at least one task (or
# was counted as open), the fixed variant left none, and the search violated the properties that the
# pair names.

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from muxleak_scenarios import PROPERTIES, SequenceOutcome, find_violation, run_sequence
from muxleak_scenarios.cli import params, render
from muxleak_scenarios.cli.reproduce_real import NAMES, reproduce_real
from muxleak_scenarios.pairs.growth import COUNTS, TaskGrowth, grow
from muxleak_scenarios.pairs.registry import FLAGSHIP
from muxleak_scenarios.pairs.replay import SequenceReplay
from muxleak_scenarios.real.compare import COPIES
from muxleak_scenarios.sequence import describe
from muxleak_vless.versions import VERSIONS

if TYPE_CHECKING:
    from rich.console import Console

    from muxleak.search import Finding
    from muxleak_scenarios import Pair
    from muxleak_scenarios.pairs.subject import SequenceRunOutcome


@dataclass(frozen=True, slots=True)
class Reproduction:
    """The measurements of a pair.

    Attributes:
        pair: the pair.
        buggy: the growth of the buggy variant at each count of connections.
        fixed: the growth of the fixed variant at each count.
        found: the violation that the search found, or None.
        fixes: the outcome of the pair's minimal sequence in each historical version.
        fixed_violates: properties that the fixed variant violates on the sequence that was found.
    """

    pair: Pair
    buggy: list[TaskGrowth]
    fixed: list[TaskGrowth]
    found: Finding[SequenceRunOutcome] | None
    fixes: dict[str, SequenceOutcome]
    fixed_violates: tuple[str, ...]

    @property
    def replay(self) -> SequenceReplay:
        """The run that shows the bug: the sequence that was found, or else the minimal one."""
        sequence = self.found.outcome.sequence if self.found is not None else self.pair.minimal
        return SequenceReplay(self.pair.slug, "buggy", sequence)

    @property
    def metric(self) -> str:
        """The count that changes with every connection: "tasks" or "counted_open"."""
        return "tasks" if "tasks" in self.pair.facts.fails else "counted_open"

    @property
    def reproduced(self) -> bool:
        """True if the buggy variant leaks as claimed and the fixed one leaves nothing."""
        # A pair may count too few as open, so the count may also fall by one each time.
        grown = all(abs(getattr(each, self.metric)) >= each.closed for each in self.buggy)
        clean = not any(each.tasks or each.counted_open for each in self.fixed)
        found = self.found is not None and set(self.pair.facts.fails) <= set(
            self.found.outcome.violated
        )
        return grown and clean and found and not self.fixed_violates

    def points(self, variant: str, metric: str) -> list[tuple[int, int]]:
        """Return the curve of a variant: numbers of closed connections, and a count after each."""
        growths = self.buggy if variant == "buggy" else self.fixed
        return [(each.closed, getattr(each, metric)) for each in growths]

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        facts, found = self.pair.facts, self.found
        variants = ("buggy", "fixed")
        return {
            "pair": self.pair.slug,
            "title": facts.title,
            "symptom": facts.symptom,
            "references": list(facts.references),
            "question": facts.question,
            "growth": {variant: self.points(variant, "tasks") for variant in variants},
            "counted_open": {variant: self.points(variant, "counted_open") for variant in variants},
            "blocked": self._blocked(),
            "minimal": None if found is None else str(found.outcome.sequence),
            "found_at": None
            if found is None
            else {"sequences": found.examples, "connections": found.connections},
            "violated": [] if found is None else list(found.outcome.violated),
            "replay": str(self.replay),
            "diff": self.pair.diff(),
            "fixes": self._fixes(),
            "reproduced": self.reproduced,
            "python": platform.python_version(),
            "platform": platform.platform(),
        }

    def _blocked(self) -> list[dict[str, Any]]:
        return [
            {
                "count": group.count,
                "name": group.name,
                "made_at": group.site,
                "waiting_on": group.waits_on,
                "chain": list(group.waiting),
            }
            for group in self.buggy[-1].report.groups
        ]

    def _fixes(self) -> list[dict[str, Any]]:
        return [
            {
                "version": name,
                "left": outcome.left,
                "cleanups": outcome.cleanups,
                "left_after_server_end": outcome.left_after_end,
                "violated": list(outcome.violated),
            }
            for name, outcome in self.fixes.items()
        ]


def reproduce(pair: Pair, counts: tuple[int, ...], seed: int) -> Reproduction:
    """Measure the growth of both variants, search the buggy one, and try the historical fixes.

    Args:
        pair: the pair.
        counts: numbers of connections, ascending.
        seed: of the search.
    """
    with render.progress(2 * sum(counts)) as steps:
        steps.say("buggy variant: opens and closes connections over TCP")
        buggy = grow(pair.minimal, pair.buggy, counts, steps.advance)
        steps.say("fixed variant: opens and closes connections over TCP")
        fixed = grow(pair.minimal, pair.fixed, counts, steps.advance)
    # How long the search takes is not known before, so its progress has no total.
    with render.progress() as steps:
        steps.say("searches the buggy variant for the shortest sequence")
        found = find_violation(pair.buggy, seed=seed)
    fixes = {name: run_sequence(pair.minimal, version()) for name, version in VERSIONS.items()}
    # The fixed variant must hold on the sequence that was found, which may not be the pair's own.
    minimal = pair.minimal if found is None else found.outcome.sequence
    violated = run_sequence(minimal, pair.fixed()).violated
    return Reproduction(pair, buggy, fixed, found, fixes, violated)


@click.command(
    "reproduce",
    epilog=params.examples(
        "reproduce                           the bug of sing-box issue #2421",
        "reproduce live_id_reused            another one",
        "reproduce --counts 1,10,100         fewer connections",
        "reproduce --real sing-box           a real proxy, beside Python",
        "reproduce --json | jq -r .replay    a line for `muxleak replay`",
    ),
)
@click.argument("pair", type=params.pair, default=FLAGSHIP, shell_complete=params.complete_pair)
@click.option(
    "--counts",
    type=params.counts,
    metavar="N,N,...",
    default=",".join(map(str, COUNTS)),
    show_default=True,
    help="Numbers of connections to open and close, each time on a new server.",
)
@click.option(
    "--real",
    type=click.Choice(NAMES),
    help="Run a real proxy beside PAIR, by default all pairs with its bugs, and count both.",
)
@click.option(
    "--program", metavar="PATH", help="Program of the proxy.  [default: the one that is installed]"
)
@click.option(
    "--copies",
    type=params.COUNT,
    default=COPIES,
    show_default=True,
    help="Number of repetitions of each sequence at a real proxy and its Python variants.",
)
@params.seed_option
@params.json_option
@click.pass_context
def reproduce_command(
    ctx: click.Context,
    *,
    pair: Pair,
    counts: tuple[int, ...],
    real: str | None,
    program: str | None,
    copies: int,
    seed: int,
    as_json: bool,
) -> None:
    """Show one bug end to end, from its symptom to its fix.

    Opens and closes connections over loopback TCP against the buggy and the fixed variant of PAIR
    (default: the flagship), and counts the tasks they leave. Exits with 0 if the bug was reproduced
    and its fix left nothing.

    With --real, sequences that leak in a real proxy are run at it and at both variants of the pairs
    that have the same bugs, all counted from outside; exits with 0 if every count is as claimed.
    """
    if real is not None:
        params.refuse(ctx, "--real", "counts", "seed")
        # Without PAIR, the flagship is shown, but a real proxy runs the cases of all pairs.
        default = ctx.get_parameter_source("pair") is click.core.ParameterSource.DEFAULT
        chosen = None if default else pair
        ctx.exit(reproduce_real(real, program, copies, chosen, as_json=as_json))
    params.refuse(ctx, "a run without --real", "program", "copies")
    params.need_hypothesis("muxleak reproduce")
    if as_json:
        result = reproduce(pair, counts, seed)
        render.emit_json(result.to_json())
    else:
        console = render.stdout()
        # The facts are printed before the measurements, which take seconds.
        show_opening(console, pair)
        result = reproduce(pair, counts, seed)
        show_result(console, result)
    ctx.exit(0 if result.reproduced else 1)


GROWS = {
    "tasks": "tasks left by n closed connections",
    "counted_open": "connections counted as open after n closed",
}

CONCLUSIONS = {
    "tasks": "after {0} the buggy variant leaves {1}, the fixed variant {3:,}.",
    "counted_open": "after {0} the buggy variant counts {2:,} as open, the fixed variant {3:,}.",
}


def show_opening(console: Console, pair: Pair) -> None:
    """Print the facts of a pair, before anything is measured."""
    facts = pair.facts
    console.print(Text(pair.slug, render.HEAD))
    console.print(facts.title)
    console.print()
    question = f"{facts.question}: {describe.question_in_words(facts.question)}"
    shown = {"symptom": facts.symptom, "question": question, "references": facts.references}
    render.body(console, render.facts(shown))


def show_result(console: Console, result: Reproduction) -> None:
    """Print the measurements, section by section."""
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
    render.body(console, render.sequence(found.outcome.sequence))
    console.print()
    broken = [f"{name}: {PROPERTIES[name]}" for name in found.outcome.violated]
    render.body(console, render.facts({"violates": broken}))
    console.print()
    render.body(console, Text("again, and with the fix:", render.QUIET))
    line = str(result.replay)
    render.copyable(console, render.command("replay", line))
    render.copyable(console, render.command("replay", "--variant", "fixed", line))


def _fixes(console: Console, result: Reproduction) -> None:
    # The question that a maintainer asks of the history: which of the proposed fixes would have
    # repaired this bug, and which would have traded it for another?
    note = "versions of the original, on the minimal sequence"
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
