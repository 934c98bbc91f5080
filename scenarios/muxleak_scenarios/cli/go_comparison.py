"""``muxleak self versions``: tasks left by each version in Python, beside those left in Go."""

# The Python versions are worth something only if they leak where the Go originals do. So each
# version runs through each ending, and its figure stands beside the one that was measured of the
# original; a bare figure was not measured in Go and proves nothing by itself. The figures of Go are
# data of `muxleak_scenarios.pairs.go_comparison`, where each has its source.

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from rich.text import Text

from muxleak_scenarios.cli import params, render
from muxleak_scenarios.pairs.go_comparison import ENDINGS, compare
from muxleak_vless.versions import VERSIONS

if TYPE_CHECKING:
    from rich.console import Console

    from muxleak_scenarios.pairs.go_comparison import VersionRow

_LEGEND = """\
Tasks left per connection in Python. 1= is the figure of Go, too; 1≠2: Go left 2; a bare number was
not measured in Go. Go's figures are goroutines left by sing-vmess, compiled at the commit of each
version, or by sing-box 1.12.10 to 1.14.4, which have V2, driven over loopback TCP; P-A and P-B are
V1 with the change applied, P-C was only ever described, REF is ours. Counted when all connections
are closed, or, where a row says so, when the server has ended, too; where peers stay, with their
connections still open."""
_END = "server end"
_WIDEST_CELL = 4
_NARROWEST_LABEL = 24


@click.command(
    "versions",
    epilog=params.examples(
        "self versions",
        "self versions --json | jq '.rows[] | select(.go != null)'",
    ),
)
@params.json_option
@click.pass_context
def versions_command(ctx: click.Context, *, as_json: bool) -> None:
    """Compare the historical versions with the Go originals.

    Each version runs through every way for a connection to end. Exits with 1 if a figure differs
    from the one measured in Go, or the reference leaves a task.
    """
    ctx.exit(0 if print_versions(as_json=as_json) else 1)


def print_versions(*, as_json: bool) -> bool:
    """Run every version through every ending, and print the figures.

    Returns:
        True if every figure that was measured in Go is the same, and the reference leaves none.
    """
    with render.progress(len(ENDINGS) * len(VERSIONS)) as steps:
        steps.say("runs every version through every ending")
        rows = compare(steps.follow)
    holds = all(row.holds for row in rows)
    if as_json:
        render.emit_json({"rows": [row.to_json() for row in rows], "holds": holds})
    else:
        _show(render.stdout(), rows, holds=holds)
    return holds


def _show(console: Console, rows: list[VersionRow], *, holds: bool) -> None:
    cells: dict[str, dict[str, VersionRow]] = {}
    for row in rows:
        cells.setdefault(row.ending, {})[row.version] = row
    labels = {ending: _label(ending, versions) for ending, versions in cells.items()}
    figures = [render.Column(_WIDEST_CELL) for _ in VERSIONS]
    # Beside the figures, or, where those leave too little room for a name, above them.
    room = console.width - len(VERSIONS) * (_WIDEST_CELL + 2)
    room = room if room >= _NARROWEST_LABEL else console.width
    name = render.Column(min(max(map(len, labels.values())), room))
    table = render.Rows(console, [name, *figures])
    table.head("ending", *VERSIONS)
    for ending, versions in cells.items():
        table.print(labels[ending], *(_cell(versions[name]) for name in VERSIONS))
    console.print()
    console.print(Text(" ".join(_LEGEND.split()), render.QUIET))
    console.print()
    measured = [row for row in rows if row.equal is not None]
    equal = sum(row.equal is True for row in measured)
    reference = sum(row.python for row in rows if row.version == "REF")
    text = f"  {equal} of {len(measured)} figures equal Go's; the reference leaves {reference}"
    console.print(Text.assemble(render.MARKS[holds], text))


def _label(ending: str, versions: dict[str, VersionRow]) -> str:
    """Return the name of an ending, with the moment of counting where that is a later one."""
    # Most endings are counted when all connections are closed; where the leak is defined by the end
    # of the server, the figure would be meaningless without the moment.
    counted_later = any(row.after == _END for row in versions.values()) and _END not in ending
    return f"{ending}, {_END}" if counted_later else ending


def _cell(row: VersionRow) -> Text:
    if row.equal is False:
        return Text(f"{row.python}≠{row.go}", "bold red")
    style = "bold red" if not row.holds else "yellow" if row.python else ""
    return Text.assemble((str(row.python), style), ("=" if row.equal else "", render.QUIET))
