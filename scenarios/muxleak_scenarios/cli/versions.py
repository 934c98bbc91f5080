"""The table of versions and endings: what is left in Python, beside what was left in Go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from muxleak_scenarios.cli import render
from muxleak_vless.versions import VERSIONS

if TYPE_CHECKING:
    from rich.console import Console

    from muxleak_scenarios.pairs.go_comparison import VersionRow

_LEGEND = """\
Tasks left per connection in Python. 1= is what was left in Go, too; 1≠2: Go left 2; a bare number
was not measured. Go's figures are goroutines left by sing-vmess, compiled at the commit of each
version, or by sing-box 1.14.4, which has V2, driven over loopback TCP; P-A and P-B are V1 with the
change applied, P-C was only ever described, REF is ours. Counted when all connections are closed,
or, where a row says so, when the server has ended, too; where peers stay, with their connections
still open."""
_END = "server end"


def print_versions(console: Console, rows: list[VersionRow]) -> None:
    """Print endings by versions, then who is who, then what the marks mean."""
    cells: dict[str, dict[str, VersionRow]] = {}
    for row in rows:
        cells.setdefault(row.ending, {})[row.version] = row
    grid = render.table("ending", *VERSIONS, fixed=tuple(VERSIONS))
    for ending, versions in cells.items():
        said = any(row.after == _END for row in versions.values()) and _END not in ending
        label = f"{ending}, {_END}" if said else ending
        grid.add_row(label, *(_cell(versions[name]) for name in VERSIONS))
    console.print(grid)
    console.print()
    console.print(Text(" ".join(_LEGEND.split()), render.QUIET))
    measured = [row for row in rows if row.equal is not None]
    equal = sum(row.equal is True for row in measured)
    reference = sum(row.python for row in rows if row.version == "REF")
    holds = all(row.holds for row in rows)
    console.print()
    mark = render.MARKS[holds]
    text = f"  {equal} of {len(measured)} figures equal Go's; the reference leaves {reference}"
    console.print(Text.assemble(mark, text))


def _cell(row: VersionRow) -> Text:
    if row.equal is False:
        return Text(f"{row.python}≠{row.go}", "bold red")
    style = "bold red" if not row.holds else "yellow" if row.python else ""
    return Text.assemble((str(row.python), style), ("=" if row.equal else "", render.QUIET))
