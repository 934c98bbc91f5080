"""``muxleak self mutants``: the properties that kill each mutant of the reference."""

# This is mutation testing of the properties. A mutant is the reference with another answer to one
# question of the life cycle; a property that is violated on some sequence kills it. A mutant that
# survives shows a hole: in the properties, or in the sequences. A few are equivalent mutants, whose
# answer makes no difference that anybody could observe; each has its reason in
# `muxleak_scenarios.pairs.mutants`, and it is a failure if one of them is killed.
#
# The names of the JSON keys ("answers", "noticed", "witnesses") are older than these words, and
# stay for the programs that read them.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from muxleak_scenarios import PROPERTIES
from muxleak_scenarios.cli import params, render
from muxleak_scenarios.pairs.mutants import (
    SEQUENCES,
    MutantResult,
    all_mutants,
    minimal_sequences,
    mutant_sequences,
    run_mutant,
)
from muxleak_scenarios.sequence import describe

if TYPE_CHECKING:
    from rich.console import Console

_HEAD = 3
"""Letters of a property that name its column: as many as keep all columns within 80."""
_LABEL = 28
_NARROWEST = 20


@click.command(
    "mutants",
    epilog=params.examples(
        "self mutants",
        "self mutants --sequences 20 --json | jq .holds",
    ),
)
@click.option(
    "--sequences",
    type=params.COUNT,
    default=SEQUENCES,
    show_default=True,
    help="Random sequences, of about 15 connections each, that each mutant is driven through.",
)
@params.seed_option
@params.json_option
@click.pass_context
def mutants_command(ctx: click.Context, sequences: int, seed: int, *, as_json: bool) -> None:
    """Show which property kills each mutant of the reference.

    A mutant is the reference with another answer to one question of the life cycle. Exits with 1 if
    a mutant survives that is not known to be equivalent, or an equivalent one is killed.
    """
    ctx.exit(0 if print_mutants(sequences, seed, as_json=as_json) else 1)


def print_mutants(number: int, seed: int, *, as_json: bool) -> bool:
    """Run every mutant and print the properties that kill it.

    Args:
        number: of random sequences.
        seed: of the random sequences.
        as_json: print JSON at the end, instead of a row for each mutant as it is done.

    Returns:
        True if every mutant was killed, except those known to be equivalent to the reference.
    """
    sequences = mutant_sequences(number, seed)
    mutants = all_mutants()
    console = None if as_json else render.stdout()
    table = None if console is None else _Table(console, len(str(len(sequences))))
    results: list[MutantResult] = []
    with render.progress(len(mutants)) as steps:
        for mutant in mutants:
            steps.say(f"{mutant.question}: {mutant.label}")
            result = run_mutant(mutant, sequences)
            results.append(result)
            steps.advance()
            if table is not None:
                with steps.aside():
                    table.print(result)
    holds = all(each.holds for each in results)
    known = len(minimal_sequences())
    if console is None:
        render.emit_json(_data(results, number, known))
    else:
        _sum_up(console, results, number, known)
    return holds


class _Table:
    """The rows of mutants, those of each question under its heading."""

    def __init__(self, console: Console, digits: int) -> None:
        first = render.Column(render.MARK_WIDTH + _LABEL)
        counts = [render.Column(max(_HEAD, digits), "right")] * len(PROPERTIES)
        self._counts = render.Rows(console, [first, *counts], gap=1)
        # A reason stands in place of the counts, and is as long as it is.
        rest = max(_NARROWEST, console.width - first.width - 1)
        self._reasons = render.Rows(console, [first, render.Column(rest)], gap=1)
        self._console = console
        self._question = ""

    def print(self, result: MutantResult) -> None:
        """Print one row, after the heading of its question if it is the first of it."""
        mutant = result.mutant
        if mutant.question != self._question:
            self._question = mutant.question
            self._console.print()
            question = describe.question_in_words(mutant.question)
            self._console.print(question, style=render.QUIET)
            heads = (Text(name[:_HEAD], render.QUIET) for name in PROPERTIES)
            self._counts.print(Text(mutant.question, render.HEAD), *heads)
        head = render.marked(result.holds, mutant.label)
        if result.holds and mutant.equivalent:
            self._reasons.print(head, mutant.equivalent)
        else:
            cells = (str(result.counts[name] or ".") for name in PROPERTIES)
            self._counts.print(head, *cells)


def _sum_up(console: Console, results: list[MutantResult], number: int, known: int) -> None:
    equivalent = sum(bool(each.mutant.equivalent) for each in results)
    survived = sum(not each.killed and not each.mutant.equivalent for each in results)
    legend = (
        "Each column is a property, named by its first letters: it counts the sequences that "
        f"violated it, of {render.plural(number, 'random sequence')} and the {known} minimal "
        "sequences of the pairs. A mutant that is equivalent to the reference has a reason instead."
    )
    console.print()
    console.print(Text(legend, render.QUIET))
    console.print()
    mark = render.MARKS[all(each.holds for each in results)]
    killed = len(results) - equivalent - survived
    mutants = render.plural(len(results), "mutant")
    text = f"  {mutants}: {killed} killed, {equivalent} equivalent, {survived} survived"
    console.print(Text.assemble(mark, text))


def _data(results: list[MutantResult], number: int, known: int) -> dict[str, Any]:
    return {
        "random_sequences": number,
        "witnesses": known,
        "answers": [each.to_json() for each in results],
        "holds": all(each.holds for each in results),
    }
