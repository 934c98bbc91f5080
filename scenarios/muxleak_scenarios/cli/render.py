"""Output of the commands: consoles, JSON, tables and progress."""

# Output is plain when it is piped, and has colour and progress on a terminal. Nothing in it depends
# on the clock or on the machine, so two runs can be compared with diff; only `bench` measures, and
# says so.
#
# Widths. A terminal has its own width, up to `MAX_WIDTH`. Output that is piped has `PIPED_WIDTH`
# columns, or as many as COLUMNS says, so that a document shows the same wherever it was made. Text
# is wrapped; a line that is there to be copied (a command, a path, a diff in a pipe) is not, since
# a shell would take its halves for two commands.
#
# Tables. rich computes the columns of a `Table` from all its rows. That suits a table that is
# printed at once, and not the rows of a proof, which appear one by one over minutes: `Rows` has
# columns that are fixed before the first row. No cell is ever cut off with an ellipsis, because
# half a name or figure is worse than a second line.
#
# Progress goes to stderr, and only if that is a terminal. A result that is printed meanwhile to the
# same terminal needs `Steps.aside`: otherwise the next refresh of the bar, which moves the cursor
# up, would erase it.

from __future__ import annotations

import json
import math
import os
import re
import shlex
import sys
from contextlib import contextmanager
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TextIO, cast

import click
from rich.console import Console
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
)
from rich.table import Column as TableColumn
from rich.table import Table
from rich.text import Text

from muxleak_scenarios.sequence.describe import step_in_words

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from rich.console import RenderableType

    from muxleak import LeakReport
    from muxleak_scenarios import Step

PIPED_WIDTH = 80
MAX_WIDTH = 120
"""Columns at most, however wide the terminal is: longer lines are hard to read."""
GOOD, BAD, QUIET, HEAD = "green", "red", "dim", "bold"
MARKS = {True: Text("ok", GOOD), False: Text("FAIL", "bold red")}
MARK_WIDTH = 6
"""Columns for a mark and the space after it; lines below a row begin where its name does."""
OUTCOMES = {True: "every claim holds", False: "not every claim holds"}

_TRAILING = re.compile(r" +$", re.MULTILINE)
_BAR_FROM = 60
_DIFF_STYLES = {"+": GOOD, "-": BAD, "@": "cyan"}


class _Piped:
    """A file that writes no trailing spaces, for output that is piped."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.encoding = file.encoding or "utf-8"

    def write(self, text: str) -> int:
        """Write a text without the spaces that rich adds to fill its lines."""
        self._file.write(_TRAILING.sub("", text))
        return len(text)

    def flush(self) -> None:
        """Flush the file."""
        self._file.flush()


def stdout() -> Console:
    """Return a console for results."""
    # Bars and signs such as ≠ are not in every encoding; a "?" is better than an error.
    if isinstance(sys.stdout, TextIOWrapper) and not sys.stdout.encoding.lower().startswith("utf"):
        sys.stdout.reconfigure(errors="replace")
    # By default, rich colours numbers and paths, and reads "[x]" as a style and ":x:" as an emoji;
    # steps, diffs and stacks hold all of these.
    console = Console(highlight=False, markup=False, emoji=False)
    free = console.is_terminal or "COLUMNS" in os.environ
    console.width = min(console.width, MAX_WIDTH) if free else PIPED_WIDTH
    if not console.is_terminal:
        console.file = cast("TextIO", _Piped(sys.stdout))
    return console


def emit_json(data: object) -> None:
    """Print data as JSON."""
    click.echo(json_text(data))


def json_text(data: Any, used: int = 0, depth: int = 1) -> str:
    """Return JSON in which every list or object that fits on a line has one line.

    Args:
        data: the data.
        used: columns of the first line that are taken already.
        depth: levels of indentation of the lines after the first.
    """
    # `json.dumps` has all on one line, or every number of a curve on a line of its own.
    text = json.dumps(data)
    if len(text) + used <= PIPED_WIDTH or not data or not isinstance(data, dict | list | tuple):
        return text
    pad = 2 * depth
    if isinstance(data, dict):
        keys = [json.dumps(key) + ": " for key in data]
        parts = [
            key + json_text(value, pad + len(key) + 1, depth + 1)
            for key, value in zip(keys, data.values(), strict=True)
        ]
    else:
        parts = [json_text(value, pad + 1, depth + 1) for value in data]
    start, end = "{}" if isinstance(data, dict) else "[]"
    lines = f",\n{' ' * pad}".join(parts)
    return f"{start}\n{' ' * pad}{lines}\n{' ' * (pad - 2)}{end}"


class Steps:
    """The progress of a long run: a line on stderr if that is a terminal, else nothing."""

    def __init__(self, progress: Progress, total: float | None) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=total)

    def say(self, text: str) -> None:
        """Show a text beside the progress, such as the run under way."""
        self._progress.update(self._task, description=text)

    def advance(self, steps: float = 1) -> None:
        """Add steps to those that are done."""
        self._progress.advance(self._task, steps)

    def begin(self, text: str) -> None:
        """Show the text of a step, and count it as one of those that are done."""
        self.say(text)
        self.advance()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Remove the line of progress for a block that prints to the same terminal."""
        self._progress.stop()
        try:
            yield
        finally:
            self._progress.start()

    def follow(self, steps: float) -> None:
        """Set the number of steps that are done."""
        self._progress.update(self._task, completed=steps)


@contextmanager
def progress(total: float | None = None) -> Iterator[Steps]:
    """Show progress for the length of a block, and remove it at its end.

    Args:
        total: steps in all, or None if the number is not known.
    """
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    columns: list[ProgressColumn] = [
        TaskProgressColumn(table_column=TableColumn(min_width=4)),
        TextColumn("{task.description}"),
    ]
    # A bar of 24 would leave no room for the text, of which the beginning counts.
    if console.width >= _BAR_FROM:
        columns = [SpinnerColumn(), BarColumn(24), *columns]
    shown = console.is_terminal
    # Room for the ^C that a terminal shows: the line must not wrap, or half of it would stay.
    console.width -= 4
    with Progress(*columns, console=console, transient=True, disable=not shown) as bar:
        yield Steps(bar, total)


def heading(console: Console, text: str, note: str = "") -> None:
    """Print the heading of a section, with a note beside it."""
    console.print()
    console.print(Text.assemble((text, HEAD), (f"  {note}" if note else "", QUIET)))
    console.print()


def body(console: Console, content: RenderableType) -> None:
    """Print the content of a section, indented."""
    console.print(Padding(content, (0, 0, 0, 2)))


def copyable(console: Console, text: str, indent: int = 2) -> None:
    """Print a line to be copied, which is not wrapped."""
    console.print(" " * indent + text, soft_wrap=True)


def command(*words: str) -> str:
    """Return a command line of this program, quoted for a shell."""
    return shlex.join(["muxleak", *words])


def facts(rows: Mapping[str, str | Iterable[str]]) -> Table:
    """Return a table of names and their values, with one line for each value."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style=QUIET, no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows.items():
        values = [value] if isinstance(value, str) else list(value)
        for index, line in enumerate(values):
            grid.add_row(name if index == 0 else "", line)
    return grid


def table(*names: str, fixed: Sequence[str] = ()) -> Table:
    """Return a table without rules, for rows that are all known.

    Args:
        names: the titles of the columns.
        fixed: titles of the columns that are not wrapped.
    """
    grid = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style=QUIET)
    for name in names:
        # Not cut off with an ellipsis, wherever a word is too long for its column.
        grid.add_column(name, no_wrap=name in fixed, overflow="fold")
    return grid


class Column(NamedTuple):
    """A column of `Rows`: its width, and the side on which its cells are flush."""

    width: int
    justify: Literal["left", "right"] = "left"


class Rows:
    """A table that is printed row by row, with columns that are fixed before the first row.

    A cell wider than its column is wrapped inside it. On a console too narrow for all columns, the
    first cell has a line of its own; the others stand below it, as many to a line as fit.

    Args:
        console: for the rows.
        columns: the widths.
        gap: spaces between two columns.
        indent: spaces before the cells that stand below the first.
    """

    # A table of rich knows its columns when it knows all its rows. The rows of a proof appear one
    # by one over minutes, so that their columns cannot depend on rows that are still to come.

    def __init__(
        self,
        console: Console,
        columns: Sequence[Column],
        gap: int = 2,
        indent: int = MARK_WIDTH,
    ) -> None:
        self._console = console
        self._columns = columns
        self._gap = gap
        self._indent = indent
        self._lines = self._layout()

    def head(self, *titles: str) -> None:
        """Print the titles of the columns."""
        self.print(*(Text(title, QUIET) for title in titles))

    def print(self, *cells: RenderableType) -> None:
        """Print a row; cells that are missing at its end are empty."""
        for number, indexes in enumerate(self._lines):
            if not any(cells[at] for at in indexes if at < len(cells)):
                continue
            grid = Table.grid(padding=(0, self._gap, 0, 0))
            indent = self._indent if number else 0
            for at in indexes:
                width, justify = self._columns[at]
                grid.add_column(width=min(width, self._console.width - indent), justify=justify)
            grid.add_row(*(cells[at] if at < len(cells) else "" for at in indexes))
            self._console.print(Padding(grid, (0, 0, 0, indent)))

    def _layout(self) -> list[list[int]]:
        """Return the columns of each line of a row."""
        widths = [column.width for column in self._columns]
        if sum(widths) + self._gap * (len(widths) - 1) <= self._console.width:
            return [list(range(len(widths)))]
        lines: list[list[int]] = [[0], []]
        used = room = self._console.width - self._indent
        for at, width in enumerate(widths[1:], 1):
            used += self._gap + width
            if used > room and lines[-1]:
                lines.append([])
            if not lines[-1]:
                used = width
            lines[-1].append(at)
        return lines


def proof_rows(console: Console, width: int) -> Rows:
    """Return the table of pairs and controls: a name of that width, and three figures."""
    # As wide as "exceptions," and "nothing found".
    return Rows(
        console,
        [Column(MARK_WIDTH + width), Column(11), Column(13, "right"), Column(13, "right")],
    )


def marked(holds: bool, name: str) -> Text:  # noqa: FBT001 - the outcome is the subject
    """Return "ok" or "FAIL" and a name, the name where it stands in every row."""
    mark = MARKS[holds]
    return Text.assemble(mark, " " * (MARK_WIDTH - len(mark.plain)), name)


def sequence(steps: Iterable[Step]) -> Table:
    """Return a table of steps, each with its meaning."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="cyan", no_wrap=True)
    grid.add_column(overflow="fold")
    for step in steps:
        grid.add_row(str(step), step_in_words(step))
    return grid


def chart(console: Console, columns: Sequence[str], rows: Sequence[tuple[int, int, int]]) -> Table:
    """Return a chart of bars on one logarithmic scale.

    Args:
        console: for the chart.
        columns: the titles of the counts and of both values.
        rows: a count and two values each; a value may be negative.
    """
    # Tasks grow with the connections, which are 1, 10, 100, 1,000: on a linear scale, all bars but
    # the last would be empty. Zero has no bar at all, so that a fix differs from any leak.
    top = max((abs(value) for row in rows for value in row[1:]), default=0)
    digits = max(len(f"{value:,}") for row in rows for value in row)
    digits = max(digits, *map(len, columns))
    room = max(4, (console.width - 3 * digits - 12) // 2)
    block = "#" if console.options.ascii_only else "█"
    grid = Table.grid(padding=(0, 1))
    grid.add_column(justify="right", width=digits)
    for _ in columns[1:]:
        grid.add_column(justify="right", width=digits + 1, no_wrap=True)
        grid.add_column(width=room, no_wrap=True)
    first, *others = (Text(name, QUIET) for name in columns)
    grid.add_row(first, *(cell for title in others for cell in (title, "")))
    for count, *values in rows:
        cells = [Text(f"{count:,}")]
        for value in values:
            style = BAD if value else GOOD
            cells.append(Text(f"{value:,}", style))
            cells.append(Text(block * _length(abs(value), top, room), style))
        grid.add_row(*cells)
    return grid


def leaks(console: Console, report: LeakReport) -> None:
    """Print leaked tasks, grouped by their creation site and the place where they wait."""
    for index, group in enumerate(report.groups):
        if index:
            console.print()
        body(console, Text(f"{group.count:,} x {group.name}", BAD))
        shown = {"made at": group.site, "waits in": group.waits_on}
        console.print(Padding(facts(shown), (0, 0, 0, 4)))


def diff(console: Console, text: str) -> None:
    """Print a unified diff: in colour and wrapped on a terminal, else line by line as it is."""
    for line in text.splitlines():
        style = HEAD if line[:3] in {"---", "+++"} else _DIFF_STYLES.get(line[:1], "")
        if console.is_terminal:
            body(console, Text(line, style))
        else:
            copyable(console, line)


def plural(number: int, noun: str) -> str:
    """Return "1 task" or "1,000 tasks"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _length(value: int, top: int, room: int) -> int:
    # A value of 1 has a bar, and twice as many digits have twice the bar.
    return round(room * (math.log10(value) + 1) / (math.log10(top) + 1)) if value else 0
