"""``muxleak soak``: make very many connections to one version, and check that nothing grows."""

# A leak of a few bytes for each connection violates no property of a single sequence. So this runs
# very many, with the automatic garbage collector off, and samples memory, blocks and objects in
# cycles after each tenth of the run. Growth is counted from the second tenth on, since the first
# fills caches.
#
# Part of a soak proves nothing, so one that is stopped exits with 130; but it may show that
# something grows, and then it exits with 1.

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from rich.text import Text

from muxleak_scenarios.bench.soak import Soaked, soak
from muxleak_scenarios.cli import interrupt, params, render
from muxleak_scenarios.cli.fuzz import subject
from muxleak_scenarios.pairs.replay import SequenceReplay, find_subject
from muxleak_scenarios.sequence.steps import Sequence

if TYPE_CHECKING:
    from rich.console import Console

    from muxleak_scenarios.cli.params import TargetChoice

CONNECTIONS = 100_000
_WIDTHS = 11, 8, 15, 9, 9
"""Widths of the columns of the table, 60 with the gaps."""


@click.command(
    "soak",
    epilog=params.examples(
        "soak                      the reference, 100,000 connections",
        "soak REF --connections 1000000 --seed 7",
        "soak REF --target tcp --connections 20000",
        "soak silent_peer/fixed --json | jq .flat",
    ),
)
@click.argument(
    "subject",
    type=subject,
    default="REF",
    metavar="[PAIR|VERSION]",
    shell_complete=params.complete_subject,
)
@click.option(
    "--connections",
    type=params.COUNT,
    default=CONNECTIONS,
    show_default=True,
    help="Number of connections, at least.",
)
@params.target_option
@params.seed_option
@params.json_option
@click.pass_context
def soak_command(
    ctx: click.Context,
    subject: str,
    connections: int,
    target: TargetChoice,
    seed: int,
    *,
    as_json: bool,
) -> None:
    """Make very many connections; check that nothing grows.

    Every property is checked after each, with the garbage collector off. Exits with 1 if a property
    is violated, or the memory of the process grows.
    """
    replay = SequenceReplay(*find_subject(subject, None), Sequence())
    with interrupt.caught() as stopped, render.progress(connections) as steps:

        def tell(so_far: int) -> bool:
            steps.follow(so_far)
            steps.say(f"{so_far:,} connections to {subject}")
            return stopped()

        found = soak(
            replay.lifecycle,
            connections,
            seed=seed,
            target=target.make,
            virtual=target.virtual,
            progress=tell,
        )
    # A violation ends the soak before its time, which is a result, and not an interruption.
    unfinished = not found.violation and found.connections < connections
    if as_json:
        head = {"subject": subject, "target": target.name, "seed": seed, "stopped": unfinished}
        render.emit_json({**head, **found.to_json()})
    else:
        _show(render.stdout(), found, replay, connections if unfinished else None)
    ctx.exit(interrupt.CODE if unfinished and found.flat else int(not found.flat))


def _show(console: Console, found: Soaked, replay: SequenceReplay, wanted: int | None) -> None:
    """Print the rows and the verdict.

    Args:
        console: for the output.
        found: the measurements of the soak.
        replay: the server that was driven.
        wanted: connections that were asked for, if it was stopped before; else None.
    """
    rows = render.Rows(console, [render.Column(width) for width in _WIDTHS])
    rows.head("connections", "each", "in cycles, each", "blocks", "memory")
    for tenth in found.tenths:
        memory = "" if tenth.resident is None else f"{tenth.resident / 1e6:.1f} MB"
        each = f"{tenth.seconds * 1e6:.0f} µs"
        garbage, blocks = f"{tenth.garbage:.1f} objects", f"{tenth.blocks:,}"
        rows.print(f"{tenth.connections:,}", each, garbage, blocks, memory)
    console.print()
    if found.sequence is not None:
        console.print(Text.assemble(("violated", render.BAD), f": {found.violation}"))
        again = str(replay._replace(sequence=found.sequence))
        render.copyable(console, render.command("replay", again))
        return
    ran = f"{found.connections:,}"
    mark = Text.assemble(render.MARKS[found.flat], "  ")
    if wanted is not None:
        ran = f"stopped after {ran} of {wanted:,}"
        mark = Text() if found.flat else mark
    told = f"{ran} connections, every property held; memory "
    grown = f"grew by {found.grown / 1e6:.1f} MB, {found.blocks:,} blocks"
    end = "flat" if found.flat else grown
    console.print(Text.assemble(mark, told + end))
