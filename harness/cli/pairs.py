"""``muxleak list`` and ``muxleak show``: which pairs there are, and what one is about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from rich.markdown import Markdown
from rich.text import Text

from harness.cli import params, render, words
from scenarios import PROPERTIES, load_pairs
from scenarios.replay import Replay

if TYPE_CHECKING:
    from rich.console import Console

    from scenarios import Pair


@click.command(
    "list",
    epilog=params.examples(
        "list                              the pairs, the flagship first",
        "list --json | jq -r '.[].pair'    their names",
    ),
)
@params.json_option
def list_command(*, as_json: bool) -> None:
    """List the pairs: bugs with a buggy and a fixed half."""
    pairs = load_pairs().values()
    if as_json:
        render.emit_json([_facts(pair) for pair in pairs])
        return
    console = render.stdout()
    width = max(len(pair.slug) for pair in pairs)
    console.print(Text(f"{'pair':<{width}}  {'breaks':<10}  question", render.QUIET))
    for pair in pairs:
        facts = pair.facts
        name = (f"{pair.slug:<{width}}", render.HEAD)
        rest = f"  {', '.join(facts.fails):<10}  {facts.question}"
        console.print(Text.assemble(name, rest), soft_wrap=True)
        render.body(console, facts.title)


@click.command(
    "show",
    epilog=params.examples(
        "show watcher_outlives_connection    the bug of sing-box issue #2421",
        "show live_id_reused --json          another one, as data",
    ),
)
@click.argument("pair", type=params.pair, shell_complete=params.complete_pair)
@params.json_option
def show_command(pair: Pair, *, as_json: bool) -> None:
    """Show one pair: facts, story, diff, and the steps that show it."""
    if as_json:
        replay = str(Replay(pair.slug, "buggy", pair.witness))
        more = {"story": pair.story, "diff": pair.diff(), "replay": replay}
        render.emit_json({**_facts(pair), **more})
    else:
        _show(render.stdout(), pair)


def _show(console: Console, pair: Pair) -> None:
    facts = pair.facts
    console.print(Text(pair.slug, render.HEAD))
    console.print(facts.title)
    console.print()
    question = f"{facts.question}: {words.question_in_words(facts.question)}"
    shown = {
        "symptom": facts.symptom,
        "question": question,
        "breaks": [f"{name}: {PROPERTIES[name]}" for name in facts.fails],
        "references": facts.references,
    }
    render.body(console, render.facts(shown))
    title, _, story = pair.story.partition("\n")
    render.heading(console, "Story", title.removeprefix("# "))
    # A drawing must keep its lines, and Markdown would wrap them.
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
    render.heading(console, "Witness", note)
    render.body(console, render.sequence(pair.witness))
    console.print()
    for half in ("buggy", "fixed"):
        line = str(Replay(pair.slug, half, pair.witness))
        render.copyable(console, render.command("replay", line))


def _facts(pair: Pair) -> dict[str, Any]:
    facts = pair.facts
    return {
        "pair": pair.slug,
        "title": facts.title,
        "symptom": facts.symptom,
        "question": facts.question,
        "references": list(facts.references),
        "fails": list(facts.fails),
        "witness": facts.witness,
        "needs_gap": facts.needs_gap,
    }
