"""``muxleak verify --answers``: which property notices a wrong answer to which question."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.text import Text

from muxleak_scenarios import PROPERTIES
from muxleak_scenarios.cli import describe, render
from muxleak_scenarios.pairs.mutants import Noticed, notice, other_answers, sequences, witnesses

if TYPE_CHECKING:
    from rich.console import Console

_HEAD = 3
"""Letters of a property that name its column."""
_LABEL = 28


def print_answers(number: int, seed: int, *, as_json: bool) -> bool:
    """Try every other answer, print what noticed it, and return whether all came out as claimed."""
    subjects = sequences(number, seed)
    answers = other_answers()
    console = None if as_json else render.stdout()
    found: list[Noticed] = []
    with render.progress(len(answers)) as steps:
        for answer in answers:
            steps.say(f"{answer.question}: {answer.label}")
            noticed = notice(answer, subjects)
            found.append(noticed)
            steps.advance()
            if console is not None:
                new = len(found) == 1 or found[-2].answer.question != answer.question
                with steps.aside():
                    _show(console, noticed, new=new, digits=len(str(len(subjects))))
    holds = all(each.holds for each in found)
    known = len(witnesses())
    if console is None:
        render.emit_json(_data(found, number, known))
    else:
        _sum_up(console, found, number, known)
    return holds


def _show(console: Console, noticed: Noticed, *, new: bool, digits: int) -> None:
    answer, width = noticed.answer, max(_HEAD, digits)
    if new:
        heads = " ".join(f"{name[:_HEAD]:>{width}}" for name in PROPERTIES)
        console.print()
        console.print(describe.question_in_words(answer.question), style=render.QUIET)
        head = Text.assemble(
            (f"{answer.question:<{_LABEL + 6}}", render.HEAD), (heads, render.QUIET)
        )
        console.print(head, soft_wrap=True)
    mark = render.MARKS[noticed.holds]
    cells = " ".join(f"{noticed.counts[name] or '.':>{width}}" for name in PROPERTIES)
    line = answer.equivalent if noticed.holds and answer.equivalent else cells
    gap = " " * (6 - len(mark.plain))
    console.print(Text.assemble(mark, gap, f"{answer.label:<{_LABEL}}", line), soft_wrap=True)


def _sum_up(console: Console, found: list[Noticed], number: int, known: int) -> None:
    same = sum(bool(each.answer.equivalent) for each in found)
    missed = sum(not each.counts and not each.answer.equivalent for each in found)
    console.print()
    legend = (
        f"Of {render.plural(number, 'random sequence')} and the pairs' {known} witnesses, how many "
        "violated each property (its first letters head the column). An answer without figures "
        "amounts to the reference's, for the reason given."
    )
    console.print(Text(legend, render.QUIET))
    console.print()
    mark = render.MARKS[all(each.holds for each in found)]
    text = f"  {len(found)} answers: {same} equal the reference's, {missed} of the others unnoticed"
    console.print(Text.assemble(mark, text))


def _data(found: list[Noticed], number: int, known: int) -> dict[str, Any]:
    return {
        "random_sequences": number,
        "witnesses": known,
        "answers": [each.to_json() for each in found],
        "holds": all(each.holds for each in found),
    }
