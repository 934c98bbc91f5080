"""``muxleak verify --answers``: the properties that kill each mutant of the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.text import Text

from muxleak_scenarios import PROPERTIES
from muxleak_scenarios.cli import describe, render
from muxleak_scenarios.pairs.mutants import (
    MutantResult,
    all_mutants,
    minimal_sequences,
    mutant_sequences,
    run_mutant,
)

if TYPE_CHECKING:
    from rich.console import Console

_HEAD = 3
"""Letters of a property that name its column."""
_LABEL = 28


def print_answers(number: int, seed: int, *, as_json: bool) -> bool:
    """Run every mutant, print what killed it, and return True if all came out as claimed."""
    sequences = mutant_sequences(number, seed)
    mutants = all_mutants()
    console = None if as_json else render.stdout()
    results: list[MutantResult] = []
    with render.progress(len(mutants)) as steps:
        for mutant in mutants:
            steps.say(f"{mutant.question}: {mutant.label}")
            result = run_mutant(mutant, sequences)
            results.append(result)
            steps.advance()
            if console is not None:
                new = len(results) == 1 or results[-2].mutant.question != mutant.question
                with steps.aside():
                    _show(console, result, new=new, digits=len(str(len(sequences))))
    holds = all(each.holds for each in results)
    known = len(minimal_sequences())
    if console is None:
        render.emit_json(_data(results, number, known))
    else:
        _sum_up(console, results, number, known)
    return holds


def _show(console: Console, result: MutantResult, *, new: bool, digits: int) -> None:
    mutant, width = result.mutant, max(_HEAD, digits)
    if new:
        heads = " ".join(f"{name[:_HEAD]:>{width}}" for name in PROPERTIES)
        console.print()
        console.print(describe.question_in_words(mutant.question), style=render.QUIET)
        head = Text.assemble(
            (f"{mutant.question:<{_LABEL + 6}}", render.HEAD), (heads, render.QUIET)
        )
        console.print(head, soft_wrap=True)
    mark = render.MARKS[result.holds]
    cells = " ".join(f"{result.counts[name] or '.':>{width}}" for name in PROPERTIES)
    line = mutant.equivalent if result.holds and mutant.equivalent else cells
    gap = " " * (6 - len(mark.plain))
    console.print(Text.assemble(mark, gap, f"{mutant.label:<{_LABEL}}", line), soft_wrap=True)


def _sum_up(console: Console, results: list[MutantResult], number: int, known: int) -> None:
    same = sum(bool(each.mutant.equivalent) for each in results)
    missed = sum(not each.killed and not each.mutant.equivalent for each in results)
    console.print()
    legend = (
        f"Of {render.plural(number, 'random sequence')} and the pairs' {known} witnesses, how many "
        "violated each property (its first letters head the column). An answer without figures "
        "amounts to the reference's, for the reason given."
    )
    console.print(Text(legend, render.QUIET))
    console.print()
    mark = render.MARKS[all(each.holds for each in results)]
    text = (
        f"  {len(results)} answers: {same} equal the reference's, {missed} of the others unnoticed"
    )
    console.print(Text.assemble(mark, text))


def _data(results: list[MutantResult], number: int, known: int) -> dict[str, Any]:
    return {
        "random_sequences": number,
        "witnesses": known,
        "answers": [each.to_json() for each in results],
        "holds": all(each.holds for each in results),
    }
