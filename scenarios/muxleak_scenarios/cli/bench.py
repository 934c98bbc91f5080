"""``muxleak bench``: measure the costs of muxleak beside those of its alternatives."""

# A figure of a benchmark says little on another machine; a ratio says more. So each row measures
# ours and its baseline in one process and in turns, by CPU time, and takes the median of the
# rounds: a machine that is busy, or that changes its clock, changes both alike. A baseline is an
# alternative that a user might take instead, or the least that the work can cost ("of it").
#
# Goals are shown with "met" or "missed" and decide nothing: the exit code is 0, since a slow
# machine is no failure. Rows that need a process of their own (`apart`) are measured in one.

from __future__ import annotations

import math
import os
import platform
from statistics import median
from typing import TYPE_CHECKING, Any

import click
from rich.padding import Padding
from rich.text import Text

from muxleak_scenarios.bench import ROWS, measure, ticks
from muxleak_scenarios.bench.measure import LEAKS, MAX_LEAKS, ROUNDS, BenchPlan
from muxleak_scenarios.bench.row_process import measure_apart
from muxleak_scenarios.bench.sequence import SEQUENCE, breakdown
from muxleak_scenarios.cli import params, render

if TYPE_CHECKING:
    from rich.console import Console

    from muxleak_scenarios.bench.measure import Beside, Comparison

FEWEST_LEAKS = 100
QUICK_LEAKS = 1_000
_UNITS = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}
_DIGITS = 3
_LISTED = "\n".join(["\b", "Rows:", *(f"  {name:<10} {row.title}" for name, row in ROWS.items())])


@click.command(
    "bench",
    epilog=_LISTED
    + "\n\n"
    + params.examples(
        "bench                       the whole table, in about half a minute",
        "bench sequence frame        two rows of it",
        "bench --quick               a look, in seconds and rough",
        "bench leaked --leaks 350000",
        "bench --profile             where the time of a sequence goes",
        "bench --json | jq '.rows[] | {row, what, ours}'",
    ),
)
@click.argument("rows", nargs=-1, type=click.Choice(list(ROWS)), metavar="[ROW]...")
@click.option(
    "--rounds",
    type=params.COUNT,
    default=ROUNDS,
    show_default=True,
    help="Number of measurements, of which the median is shown.",
)
@click.option("--quick", is_flag=True, help="One round of a tenth of the work.")
@click.option(
    "--leaks",
    type=params.Whole(min=FEWEST_LEAKS, max=MAX_LEAKS),
    help=f"Number of sessions in the row 'leaked'.  [default: {LEAKS}; quick: {QUICK_LEAKS}]",
)
@click.option("--profile", is_flag=True, help="Show the parts of a checked sequence instead.")
@params.json_option
def bench_command(
    rows: tuple[str, ...],
    rounds: int,
    leaks: int | None,
    *,
    quick: bool,
    profile: bool,
    as_json: bool,
) -> None:
    """Measure the costs of muxleak beside those of its alternatives.

    Each row compares ours with a baseline, or with the least that the work can cost, in one run and
    in turns: by CPU time, as the median of the rounds. Ratios can be compared with those of another
    machine, the figures themselves cannot. Goals are shown and decide nothing.
    """
    if profile and rows:
        raise click.UsageError("--profile takes the checked sequence apart: expected no ROW")
    rows = tuple(dict.fromkeys(rows or ROWS))
    if not profile and "example" in rows:
        params.need_hypothesis("the row 'example'")
    plan = BenchPlan(1 if quick else rounds, quick, leaks or (QUICK_LEAKS if quick else LEAKS))
    console = None if as_json else render.stdout()
    if profile:
        _profile(plan, console)
    else:
        _table(plan, rows, console)


def _table(plan: BenchPlan, names: tuple[str, ...], console: Console | None) -> None:
    if console is not None:
        _opening(console, plan)
        _rows(console).head("", "one", "ours is", "goal")
    data: list[dict[str, Any]] = []
    with render.progress(sum(ticks(name, plan) for name in names)) as steps:
        for name in names:
            steps.say(f"{name}: {ROWS[name].title}")
            found = _measured(name, plan._replace(tick=steps.advance))
            data += [{"row": name, **each.to_json()} for each in found]
            if console is not None:
                with steps.aside():
                    _show(console, name, found)
    if console is None:
        render.emit_json({**_circumstances(plan), "rows": data})


def _measured(name: str, plan: BenchPlan) -> list[Comparison]:
    if not ROWS[name].apart:
        return measure(name, plan)
    # In a process of its own, so that the rows before it leave no garbage and no caches.
    try:
        return measure_apart(name, plan)
    except RuntimeError as error:
        raise click.ClickException(str(error)) from None


def _show(console: Console, name: str, found: list[Comparison]) -> None:
    """Print a row."""
    console.print(Text.assemble((name, render.HEAD), (f"  {ROWS[name].title}", render.QUIET)))
    for each in found:
        goal = "" if each.goal is None else f"≤ {figure(each.goal, each.unit)}"
        value = figure(each.value, each.unit)
        _rows(console).print(_indented(each.what, 2), value, "", _judged(goal, met=each.met()))
        _note(console, each.note)
        for other in each.beside:
            if other.rounds:
                _beside(console, each, other)
                _note(console, other.note)
            else:
                console.print(f"    {other.name}: {other.note}", style=render.QUIET)
    console.print()


def _beside(console: Console, ours: Comparison, other: Beside) -> None:
    value = ours.ratio(other) or 0.0
    # Of a floor, ours is a multiple, and of an alternative a fraction. The fraction is inverted,
    # since "24x less" reads better than "0.04x".
    ratio = f"{short(value)}x {'of it' if other.floor else 'less'}"
    goal = ""
    if other.goal is not None:
        goal = f"{'≤' if other.floor else '≥'} {other.goal:,g}x"
    shown = figure(median(other.rounds), ours.unit)
    judged = _judged(goal, met=ours.met(other))
    _rows(console).print(_indented(other.name, 4), shown, ratio, judged)


def _judged(goal: str, *, met: bool | None) -> Text:
    if met is None:
        return Text()
    return Text(f"{goal} {'met' if met else 'missed'}", render.GOOD if met else render.BAD)


def _rows(console: Console) -> render.Rows:
    """Return the table of the figures: name, figure, ratio and goal."""
    # 80 columns in all. A name that is longer is wrapped, and a ratio or goal never is.
    # Ratios end in one column, so that their units stand below each other.
    name, value, ratio, goal = 39, 9, 13, 16
    figures = [render.Column(value, "right"), render.Column(ratio, "right"), render.Column(goal)]
    return render.Rows(console, [render.Column(name), *figures], gap=1)


def _indented(name: str, indent: int) -> Padding:
    return Padding(name, (0, 0, 0, indent))


def _note(console: Console, note: str) -> None:
    if note:
        console.print(Padding(Text(note, render.QUIET), (0, 0, 0, 6)))


def _profile(plan: BenchPlan, console: Console | None) -> None:
    with render.progress(plan.rounds + 1) as steps:
        steps.say("takes a checked sequence apart")
        rounds, parts = breakdown(plan._replace(tick=steps.advance))
    whole = median(rounds)
    if console is None:
        data = [{"part": each.what, "seconds": each.seconds} for each in parts]
        rest = {"sequence": str(SEQUENCE), "seconds": whole, "parts": data}
        render.emit_json({**_circumstances(plan), **rest})
        return
    _opening(console, plan)
    rows = render.Rows(
        console, [render.Column(58), render.Column(9, "right"), render.Column(5, "right")]
    )
    for each in parts:
        rows.print(each.what, figure(each.seconds), f"{each.seconds / whole:.0%}")
    rows.print(Text("a checked sequence", render.HEAD), figure(whole), "100%")
    console.print()
    console.print(str(SEQUENCE), style=render.QUIET)


def _opening(console: Console, plan: BenchPlan) -> None:
    here = _circumstances(plan)
    rough = ", rough" if plan.quick else ""
    rounds = render.plural(plan.rounds, "round")
    console.print(f"{here['python']}, {here['machine']}, {here['cpus']} CPUs")
    console.print(f"CPU time, median of {rounds} in turns{rough}", style=render.QUIET)
    console.print()


def _circumstances(plan: BenchPlan) -> dict[str, Any]:
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "machine": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "rounds": plan.rounds,
        "quick": plan.quick,
    }


def figure(value: float, unit: str = "s") -> str:
    """Return seconds, seconds as a rate, or bytes, with three digits: "431 µs"."""
    # Seconds of a run are shown as runs in a second where other tools say so.
    if unit == "/s":
        return f"{short(1 / value)}/s" if value else "inf/s"
    if unit == "B":
        return f"{value:,.0f} B"
    name, size = next(
        ((name, size) for name, size in _UNITS.items() if abs(value) >= size), ("ns", 1e-9)
    )
    return f"{short(value / size)} {name}"


def short(value: float) -> str:
    """Return a number with three significant digits: "3.20", "25.8", "378,000"."""
    rounded = float(f"{value:.{_DIGITS}g}")
    whole = math.floor(math.log10(abs(rounded))) + 1 if rounded else 1
    return f"{rounded:,.{max(0, _DIGITS - whole)}f}"
