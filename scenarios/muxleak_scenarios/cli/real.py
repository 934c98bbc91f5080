"""``muxleak reproduce --real``: a real proxy beside its twins in Python."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

import click

from muxleak_scenarios.cli import interrupt, real_report, render
from muxleak_scenarios.hunt.counters import CounterError
from muxleak_scenarios.hunt.remote_server import StartError
from muxleak_scenarios.real.cases import CASES
from muxleak_scenarios.real.compare import SERVERS, SUBJECTS, DiedError, Servers, compare
from muxleak_scenarios.real.programs import MissingError, find

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from muxleak_scenarios import Pair
    from muxleak_scenarios.real.cases import Case
    from muxleak_scenarios.real.compare import CaseRow
    from muxleak_scenarios.real.programs import Program

NAMES = tuple(SERVERS)
"""What ``--real`` takes."""
SECONDS = 300.0
"""At most, in all; counts that never stand still are given up then."""


def reproduce_real(
    name: str, path: str | None, copies: int, pair: Pair | None, *, as_json: bool
) -> int:
    """Compare and print; ``pair`` limits it to that one's cases. Return the exit code.

    Raises:
        click.UsageError: if the program is missing, or cannot be started and counted.
    """
    cases = [each for each in CASES if pair is None or each.pair == pair.slug]
    if pair is not None and not cases:
        pairs = ", ".join(dict.fromkeys(each.pair for each in CASES))
        raise click.UsageError(f"expected a pair with cases for --real: {pairs}; got {pair.slug}")
    try:
        program = find(name, path)
        rows = asyncio.run(_stoppable(_compare(program, cases, copies)))
    except asyncio.CancelledError:
        click.echo("interrupted", err=True)
        return interrupt.CODE
    except (MissingError, StartError, CounterError) as error:
        raise click.UsageError(str(error)) from None
    except TimeoutError:
        click.echo(f"Error: expected to be done within {SECONDS:g} s; try fewer --copies", err=True)
        return 1
    except DiedError as error:
        click.echo(f"Error: {error}", err=True)
        return 1
    if as_json:
        render.emit_json(real_report.to_json(rows, program, copies))
    else:
        real_report.show(render.stdout(), rows, program, copies)
    return 0 if all(row.agrees for row in rows) else 1


async def _compare(program: Program, cases: Sequence[Case], copies: int) -> list[CaseRow]:
    done = itertools.count()
    with Servers(program) as servers, render.progress(len(SUBJECTS) * len(cases)) as steps:

        def tell(subject: str, case: Case) -> None:
            steps.follow(next(done))
            who = program.name if subject == "real" else f"{case.pair}/{subject}"
            steps.say(f"{who}: {case.name}")

        async with asyncio.timeout(SECONDS):
            return await compare(cases, servers, copies=copies, tell=tell)


async def _stoppable(work: Coroutine[object, object, list[CaseRow]]) -> list[CaseRow]:
    """Let the signals that end a program cancel the work, so that it ends what it has started.

    Also the second and third: to end servers takes no time, and they would outlive us.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    with interrupt.calling(loop, task.cancel):
        return await task
