"""``muxleak self controls``, and the same rows in ``muxleak verify``: the negative controls."""

# A checker that flags every server finds every leak. The controls show that this one does not: each
# is a server that keeps a task or connection on purpose, within a bound, and must not be flagged.
# The same server without its bound must be flagged, or the control would prove nothing.

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import click
from rich.text import Text

from muxleak_scenarios.cli import params, render
from muxleak_scenarios.pairs.negative_controls import CONTROLS, SEQUENCES, Trial, try_control
from muxleak_scenarios.worker_processes import Job, in_order

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

LEGEND = {
    "flagged": "properties violated by a control, which looks like a leak and is none; "
    "expected: nothing",
    "unbounded": "the same without the bound that the control keeps; it must be flagged",
}
"""The columns of a control, but for ``holds for``."""


@click.command(
    "controls",
    epilog=params.examples(
        "self controls",
        "self controls --sequences 1000 --json | jq .holds",
    ),
)
@click.option(
    "--sequences",
    type=params.COUNT,
    default=SEQUENCES,
    show_default=True,
    help="Random sequences, of about 15 connections each, that each control is driven through.",
)
@params.seed_option
@params.json_option
@click.pass_context
def controls_command(ctx: click.Context, sequences: int, seed: int, *, as_json: bool) -> None:
    """Show that servers which look as if they leaked are not flagged.

    Each control keeps something within a bound. Without its bound, it must be flagged. Exits with 1
    if either fails. `muxleak verify` without PAIR proves the same, with the pairs.
    """
    console = None if as_json else render.stdout()
    with render.progress(len(CONTROLS)) as steps:
        jobs = control_jobs(seed, sequences)
        trials = show_trials(
            console, steps, in_order(jobs, 1, steps.begin), max(map(len, CONTROLS))
        )
    holds = all(trial.holds for trial in trials)
    if console is None:
        controls = [trial.to_json() for trial in trials]
        render.emit_json({"controls": controls, "holds": holds})
    else:
        console.print()
        legend = {**LEGEND, "holds for": "random connections of the control, nothing flagged"}
        console.print(render.facts(legend), style=render.QUIET)
        console.print()
        text = f"  {render.plural(len(trials), 'control')}: {render.OUTCOMES[holds]}"
        console.print(Text.assemble(render.MARKS[holds], text))
    ctx.exit(0 if holds else 1)


def control_jobs(seed: int, sequences: int) -> list[Job]:
    """Return the calls that drive the controls, each of which gives a `Trial`.

    Args:
        seed: of the random sequences.
        sequences: how many of them each control is driven through.
    """
    return [
        Job(
            partial(try_control, name, seed=seed, sequences=sequences),
            f"drives the control {name}",
        )
        for name in CONTROLS
    ]


def show_trials(
    console: Console | None, steps: render.Steps, driven: Iterable[Trial], width: int
) -> list[Trial]:
    """Print a row for each control as it has been driven.

    Args:
        console: for the rows; None prints nothing.
        steps: the progress.
        driven: a trial for each control.
        width: of the column of names.

    Returns:
        The trials.
    """
    rows = None if console is None else render.proof_rows(console, width)
    # The columns of pairs, with other titles: in `verify`, both tables stand below each other.
    if rows is not None:
        rows.head("      control", "flagged", "unbounded", "holds for")
    trials = []
    for trial in driven:
        trials.append(trial)
        if console is None or rows is None:
            continue
        with steps.aside():
            flagged = ", ".join(trial.flagged) or "nothing"
            # A control may lose its bound in several ways; the first property of each is shown.
            unbounded = dict.fromkeys(each for twin in trial.twins.values() for each in twin[:1])
            head = render.marked(trial.holds, trial.name)
            rows.print(head, flagged, ", ".join(unbounded) or "nothing", f"{trial.connections:,}")
            for line in trial.broken:
                render.copyable(console, line, render.MARK_WIDTH)
    return trials
