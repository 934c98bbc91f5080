"""``muxleak soak``: very many connections to one version, and whether anything grows."""

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
"""Of the columns of the table: 60 with the gaps between them."""


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
    help="At least so many.",
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
    """Make very many connections; see whether anything grows.

    Every property is checked after each; the garbage collector is off meanwhile. Exits with 1 if a
    property is violated, or the memory of the process grows.
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
    unfinished = not found.violation and found.connections < connections
    if as_json:
        head = {"subject": subject, "target": target.name, "seed": seed, "stopped": unfinished}
        render.emit_json({**head, **found.to_json()})
    else:
        _show(render.stdout(), found, replay, connections if unfinished else None)
    ctx.exit(interrupt.CODE if unfinished and found.flat else int(not found.flat))


def _show(console: Console, found: Soaked, replay: SequenceReplay, wanted: int | None) -> None:
    """Print the rows and the verdict; ``wanted`` is how many connections it was stopped before."""
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
        # Part of a soak proves nothing, but may show what grows.
        mark = Text() if found.flat else mark
    told = f"{ran} connections, every property held; memory "
    grown = f"grew by {found.grown / 1e6:.1f} MB, {found.blocks:,} blocks"
    end = "flat" if found.flat else grown
    console.print(Text.assemble(mark, told + end))
