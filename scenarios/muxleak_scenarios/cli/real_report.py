"""What ``muxleak reproduce --real`` shows of a real proxy and its twins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.text import Text

from muxleak_scenarios.cli import render
from muxleak_scenarios.cli.hunt_report import chain
from muxleak_scenarios.hunt.stacks import parted
from muxleak_scenarios.real.cases import number
from muxleak_scenarios.real.compare import SUBJECTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from fractions import Fraction

    from rich.console import Console
    from rich.table import Table

    from muxleak_scenarios.hunt.stacks import Stack
    from muxleak_scenarios.real.cases import Left
    from muxleak_scenarios.real.compare import CaseRow, Measured
    from muxleak_scenarios.real.programs import Program


_INNER = 3
"""Functions that are shown of a stack, from the inside; and the outermost one."""
_CALLED = " < "
_NARROW = 64
"""Columns below which three figures leave no room for the sequence beside them."""


def to_json(rows: Sequence[CaseRow], program: Program, copies: int) -> dict[str, Any]:
    """Return plain data."""
    return {
        "program": program.name,
        "version": program.version,
        "copies": copies,
        "as_claimed": all(row.agrees for row in rows),
        "cases": [
            {
                "case": row.case.name,
                "sequence": row.case.line,
                "pair": row.case.pair,
                "replay": str(row.case.replay),
                **{subject: _subject(row, subject) for subject in SUBJECTS},
            }
            for row in rows
        ],
    }


def _subject(row: CaseRow, subject: str) -> dict[str, Any]:
    measured = row.measured(subject)
    return {
        "as_claimed": row.holds(subject),
        "left": _figures(measured.left),
        "claimed": _figures(row.claim(subject)),
        "blocked": [
            {
                "each": _plain(each),
                "after": _plain(after),
                "stack": list(functions),
                "made_at": starter or None,
            }
            for stack in measured.stacks
            for each, after in [measured.each(stack)]
            for functions, starter in [parted(stack)]
        ],
    }


def _figures(left: Left) -> dict[str, float]:
    return {name: _plain(value) for name, value in left._asdict().items()}


def _plain(value: Fraction) -> float:
    return value.numerator if value.denominator == 1 else float(value)


def show(console: Console, rows: Sequence[CaseRow], program: Program, copies: int) -> None:
    """Print the figures, what is blocked where, and whether all is as claimed."""
    console.print(Text(f"{program.name} {program.version} beside its twins in Python", render.HEAD))
    render.heading(console, "Left", f"by each of {copies} repetitions")
    render.body(console, "goroutines or tasks + descriptors, while the destinations live;")
    render.body(console, "then the same when they have gone")
    console.print()
    if console.width < _NARROW:
        _show_narrow(console, rows, program)
    else:
        render.body(console, _table(rows, program))
    _show_blocked(console, rows, program)
    console.print()
    wrong = [str(at) for at, row in enumerate(rows, 1) if not row.agrees]
    if wrong:
        text = f"Not as claimed: {', '.join(wrong)} of {render.plural(len(rows), 'case')}."
        console.print(Text(text, render.BAD))
    else:
        console.print(Text(f"All {render.plural(len(rows), 'case')} as claimed.", render.GOOD))


def _table(rows: Sequence[CaseRow], program: Program) -> Table:
    figures = (program.name, "buggy twin", "fixed twin")
    grid = render.table("", "case and sequence, by twin", *figures, fixed=("", *figures))
    pair = ""
    for at, row in enumerate(rows, 1):
        if row.case.pair != pair:
            pair = row.case.pair
            grid.add_row("", Text(f"\n{pair}", render.HEAD))
        what = Text.assemble(row.case.name, "\n", (row.case.line, "cyan"))
        grid.add_row(str(at), what, *(_cell(row, subject) for subject in SUBJECTS))
    return grid


def _show_narrow(console: Console, rows: Sequence[CaseRow], program: Program) -> None:
    """Print the same as `_table`, with the figures of a case below its sequence."""
    pair = ""
    for at, row in enumerate(rows, 1):
        if row.case.pair != pair:
            pair = row.case.pair
            console.print(Text(f"{pair}", render.HEAD))
        console.print(f"{at}  {row.case.name}")
        render.body(console, Text(row.case.line, "cyan"))
        names = (program.name, "buggy twin", "fixed twin")
        figures = zip(names, SUBJECTS, strict=True)
        grid = render.table("", "", fixed=("",))
        for name, subject in figures:
            grid.add_row(Text(name, render.QUIET), _cell(row, subject))
        grid.show_header = False
        render.body(console, grid)


def _cell(row: CaseRow, subject: str) -> Text:
    left, claim = row.measured(subject).left, row.claim(subject)
    if left != claim:
        return Text(f"{left}\nnot\n{claim}", render.BAD)
    return Text(str(left), render.QUIET if not any(left) else "")


def _show_blocked(console: Console, rows: Sequence[CaseRow], program: Program) -> None:
    """Print where they wait; cases that differ in the numbers only are shown together."""
    alike: dict[tuple[object, ...], list[int]] = {}
    for at, row in enumerate(rows):
        places = tuple(row.measured(subject).stacks for subject in SUBJECTS)
        if any(places):
            alike.setdefault(places, []).append(at)
    for found in alike.values():
        numbers = ", ".join(str(at + 1) for at in found)
        render.heading(console, "Blocked", f"in case{'s' * (len(found) > 1)} {numbers}")
        titles = f"goroutines of {program.name}", "tasks of the buggy twin", "of the fixed twin"
        for subject, title in zip(SUBJECTS, titles, strict=True):
            measured = [rows[at].measured(subject) for at in found]
            if measured[0].stacks:
                if subject != "real":
                    console.print()
                render.body(console, _places(measured, title))


def _places(measured: Sequence[Measured], title: str) -> Table:
    grid = render.table("each", "after", title, fixed=("each", "after"))
    for stack in measured[0].stacks:
        each, after = zip(*(one.each(stack) for one in measured), strict=True)
        functions, starter = parted(stack)
        where = _short(functions) + (f"\nmade at {starter}" if starter else "")
        grid.add_row(_listed(each), _listed(after), where)
    return grid


def _short(frames: Stack) -> str:
    names = chain(frames).split(_CALLED)
    inner, outer = names[:_INNER], names[_INNER:][-1:]
    gap = ["..."] if len(names) > _INNER + 1 else []
    return _CALLED.join([*inner, *gap, *outer])


def _listed(values: Iterable[Fraction]) -> str:
    shown = [number(value) for value in values]
    return shown[0] if len(set(shown)) == 1 else ", ".join(shown)
