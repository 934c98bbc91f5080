"""``muxleak list`` and ``muxleak show``: the pairs, and the wrong fixes of each."""

# A pair is a package that is found by its place (see `registry`), so both commands show a pair that
# was added without a change here. Facts, story and diff are read from the package: nothing about a
# bug is written twice.
#
# The text of `show` follows the order in which a reader needs it: the symptom, the question of the
# life cycle that is answered wrongly, the story, the diff of both answers, the minimal sequence,
# and the lines that replay it. Wrong fixes come last, since each is understood from the right one.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from rich.markdown import Markdown
from rich.padding import Padding
from rich.text import Text

from muxleak_scenarios import PROPERTIES, load_pairs
from muxleak_scenarios.cli import params, render
from muxleak_scenarios.pairs.replay import SequenceReplay
from muxleak_scenarios.sequence import describe

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from muxleak_scenarios import Pair
    from muxleak_scenarios.pairs.registry import WrongVariant


_BREAKS, _QUESTION = 11, 26
"""Widths of columns: the longest name of a property with a comma, and of a question."""


@click.command(
    "list",
    epilog=params.examples(
        "list                              the pairs, the flagship first",
        "list --json | jq -r '.[].pair'    their names",
    ),
)
@params.json_option
def list_command(*, as_json: bool) -> None:
    """List the pairs: bugs with a buggy and a fixed variant.

    Below a pair stand its wrong fixes: changes that repaired the bug and broke something else. The
    columns are the properties that each breaks, and the life-cycle questions that it answers wrong.
    """
    pairs = load_pairs().values()
    if as_json:
        render.emit_json([_facts(pair) for pair in pairs])
        return
    console = render.stdout()
    names = [pair.slug for pair in pairs]
    names += [f"  /{wrong.name}" for pair in pairs for wrong in pair.wrong]
    name = max(map(len, names))
    rest = max(_QUESTION, console.width - name - _BREAKS - 4)
    rows = render.Rows(
        console, [render.Column(name), render.Column(_BREAKS), render.Column(rest)], indent=4
    )
    rows.head("pair", "breaks", "question")
    for pair in pairs:
        facts = pair.facts
        rows.print(Text(pair.slug, render.HEAD), ", ".join(facts.fails), facts.question)
        console.print(Padding(facts.title, (0, 0, 0, 2)))
        for wrong in pair.wrong:
            head = Text(f"  /{wrong.name}", render.HEAD)
            rows.print(head, ", ".join(wrong.facts.fails), ", ".join(wrong.questions))
            console.print(Padding(wrong.facts.title, (0, 0, 0, 4)))


@click.command(
    "show",
    epilog=params.examples(
        "show watcher_outlives_connection    the bug of sing-box issue #2421",
        "show live_id --json    another, by its beginning, as data",
    ),
)
@click.argument("pair", type=params.pair, shell_complete=params.complete_pair)
@params.json_option
def show_command(pair: Pair, *, as_json: bool) -> None:
    """Show one pair: facts, story, diff, and the steps that show it.

    PAIR is a name, its beginning, or an alias, such as 2421.
    """
    if as_json:
        replay = str(SequenceReplay(pair.slug, "buggy", pair.minimal))
        # The parts that make the data of one pair long are not in `list --json`.
        more = {"story": pair.readme, "diff": pair.diff(), "replay": replay}
        render.emit_json({**_facts(pair), **more})
    else:
        _show(render.stdout(), pair)


def _show(console: Console, pair: Pair) -> None:
    facts = pair.facts
    console.print(Text(pair.slug, render.HEAD))
    console.print(facts.title)
    console.print()
    question = f"{facts.question}: {describe.question_in_words(facts.question)}"
    shown: dict[str, str | Iterable[str]] = {
        "symptom": facts.symptom,
        "question": question,
        "breaks": [f"{name}: {PROPERTIES[name]}" for name in facts.fails],
        "references": facts.references,
    }
    if facts.aliases:
        shown["also named"] = ", ".join(facts.aliases)
    render.body(console, render.facts(shown))
    title, _, story = pair.readme.partition("\n")
    render.heading(console, "Story", title.removeprefix("# "))
    # The drawings stand in code blocks, which Markdown would wrap.
    for index, part in enumerate(story.strip().split("```")):
        if index:
            console.print()
        if index % 2 == 0:
            render.body(console, Markdown(part, hyperlinks=False))
        else:
            for line in part.strip("\n").splitlines():
                render.copyable(console, line)
    render.heading(console, "Diff")
    render.diff(console, pair.diff())
    note = "a gap is needed to see it" if facts.needs_gap else ""
    render.heading(console, "Minimal sequence", note)
    render.body(console, render.sequence(pair.minimal))
    console.print()
    for variant in ("buggy", "fixed"):
        line = str(SequenceReplay(pair.slug, variant, pair.minimal))
        render.copyable(console, render.command("replay", line))
    for wrong in pair.wrong:
        _show_wrong(console, pair, wrong)


def _show_wrong(console: Console, pair: Pair, wrong: WrongVariant) -> None:
    facts = wrong.facts
    render.heading(
        console, f"Wrong fix: /{wrong.name}", "repairs the bug above, and breaks something else"
    )
    shown = {
        "title": facts.title,
        "questions": [f"{each}: {describe.question_in_words(each)}" for each in wrong.questions],
        "breaks": [f"{name}: {PROPERTIES[name]}" for name in facts.fails],
        "references": facts.references,
    }
    render.body(console, render.facts(shown))
    console.print()
    render.body(console, render.sequence(wrong.minimal))
    console.print()
    line = str(SequenceReplay(pair.slug, wrong.name, wrong.minimal))
    render.copyable(console, render.command("replay", line))


def _facts(pair: Pair) -> dict[str, Any]:
    facts = pair.facts
    # The keys "witness" are older than the term "minimal sequence", and stay for their readers.
    return {
        "pair": pair.slug,
        "title": facts.title,
        "symptom": facts.symptom,
        "question": facts.question,
        "references": list(facts.references),
        "aliases": list(facts.aliases),
        "fails": list(facts.fails),
        "witness": facts.minimal,
        "needs_gap": facts.needs_gap,
        "wrong_fixes": [
            {
                "name": wrong.name,
                "title": wrong.facts.title,
                "questions": list(wrong.questions),
                "references": list(wrong.facts.references),
                "fails": list(wrong.facts.fails),
                "witness": wrong.facts.minimal,
                "replay": str(SequenceReplay(pair.slug, wrong.name, wrong.minimal)),
            }
            for wrong in pair.wrong
        ],
    }
