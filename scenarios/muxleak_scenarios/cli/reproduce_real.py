"""``muxleak reproduce --real``: run a real proxy beside both Python variants of its bugs."""

# A bug of the Python pairs would be of little interest if no real program had it. So the same
# sequences run at a real proxy and at both variants of a pair, each a process of its own, and all
# three are counted by the same code from outside: goroutines by pprof, tasks by /debug/tasks,
# descriptors by /proc. Each count is compared with one that was measured before by other means (see
# `muxleak_scenarios.real.cases`), and a difference is exit code 1.
#
# The servers are processes that this command starts, so they must end with it, whatever ends it. A
# signal cancels the work, and the servers are ended on the way out; a second and third signal
# change nothing, since that takes no time.

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from muxleak_scenarios.cli import interrupt, render
from muxleak_scenarios.cli.hunt_report import chain
from muxleak_scenarios.hunt.counters import CounterError
from muxleak_scenarios.hunt.remote_server import StartError
from muxleak_scenarios.hunt.stacks import parted
from muxleak_scenarios.real.cases import CASES, CUTS, cuts, for_release, number
from muxleak_scenarios.real.compare import SERVERS, SUBJECTS, DiedError, Servers, compare
from muxleak_scenarios.real.programs import MissingError, find

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Sequence
    from fractions import Fraction

    from rich.console import Console
    from rich.table import Table

    from muxleak_scenarios import Pair
    from muxleak_scenarios.hunt.stacks import Stack
    from muxleak_scenarios.real.cases import Case, Left
    from muxleak_scenarios.real.compare import CaseRow, Measured
    from muxleak_scenarios.real.programs import Program


NAMES = tuple(SERVERS)
"""Names of the proxies that ``--real`` takes."""
SECONDS = 300.0
"""Seconds in all, at most: a count that never stands still is given up then."""


def reproduce_real(
    name: str, path: str | None, copies: int, pair: Pair | None, *, as_json: bool
) -> int:
    """Compare a real proxy with its Python variants, and print the figures.

    Args:
        name: of the proxy, one of `NAMES`.
        path: of its program; None to search where it is installed.
        copies: repetitions of each sequence.
        pair: the pair whose cases are run; None for all cases.
        as_json: print JSON.

    Returns:
        0 if every figure is as claimed, else 1.

    Raises:
        click.UsageError: the program is missing, or cannot be started and counted.
    """
    cases = [each for each in CASES if pair is None or each.pair == pair.slug]
    if pair is not None and not cases:
        pairs = ", ".join(dict.fromkeys(each.pair for each in CASES))
        raise click.UsageError(f"expected a pair with cases for --real: {pairs}; got {pair.slug}")
    try:
        program = find(name, path)
        claimed = for_release(cases, program.version)
        rows = asyncio.run(_stoppable(_compare(program, claimed, copies)))
    except asyncio.CancelledError:
        click.echo("interrupted", err=True)
        return interrupt.CODE
    except (MissingError, StartError, CounterError) as error:
        raise click.UsageError(str(error)) from None
    # No bad usage: the servers ran, and something in them kept the counts moving, or died.
    except TimeoutError:
        click.echo(f"Error: expected to be done within {SECONDS:g} s; try fewer --copies", err=True)
        return 1
    except DiedError as error:
        click.echo(f"Error: {error}", err=True)
        return 1
    if as_json:
        render.emit_json(to_json(rows, program, copies))
    else:
        show(render.stdout(), rows, program, copies)
    return 0 if all(row.agrees for row in rows) else 1


async def _compare(program: Program, cases: Sequence[Case], copies: int) -> list[CaseRow]:
    done = itertools.count()
    with Servers(program) as servers, render.progress(len(SUBJECTS) * len(cases)) as steps:

        def tell(subject: str, case: Case) -> None:
            steps.follow(next(done))
            who = program.name if subject == "real" else f"{case.pair}/{subject}"
            steps.say(f"{who}: {case.name}")

        # Around all of it, and not each case: a proxy whose counts never rest is broken as a whole.
        async with asyncio.timeout(SECONDS):
            return await compare(cases, servers, copies=copies, tell=tell)


async def _stoppable(work: Coroutine[object, object, list[CaseRow]]) -> list[CaseRow]:
    """Run the work, which every signal cancels."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    with interrupt.calling(loop, task.cancel):
        return await task


_INNER = 3
"""Innermost functions of a stack that are shown, beside the outermost one."""
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
    # Figures are exact fractions of the repetitions; JSON has 2 and not 2.0 where it is whole.
    return value.numerator if value.denominator == 1 else float(value)


def show(console: Console, rows: Sequence[CaseRow], program: Program, copies: int) -> None:
    """Print the figures, the places where tasks wait, and the verdict."""
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
    if cuts(program.version):
        console.print(f"{program.name} {CUTS}.")
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
    """Print the places where tasks wait; cases that differ in numbers only are one section."""
    # Many cases end in the same places, as the same bug shows in each. They are told apart by the
    # stacks of all three subjects, and listed once with their numbers.
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
    # The innermost functions say where it waits, and the outermost one which part of the program
    # it belongs to; those between are the layers of the proxy.
    names = chain(frames).split(_CALLED)
    inner, outer = names[:_INNER], names[_INNER:][-1:]
    gap = ["..."] if len(names) > _INNER + 1 else []
    return _CALLED.join([*inner, *gap, *outer])


def _listed(values: Iterable[Fraction]) -> str:
    shown = [number(value) for value in values]
    return shown[0] if len(set(shown)) == 1 else ", ".join(shown)
