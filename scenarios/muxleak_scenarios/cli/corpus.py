"""The commands of ``muxleak corpus``."""

# A case is a folder that is found by its place (see `corpus.registry`), so all commands know a case
# that was added without a change here.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from rich.markdown import Markdown
from rich.padding import Padding
from rich.text import Text

from muxleak_scenarios.cli import params, render
from muxleak_scenarios.corpus.properties import CASE_PROPERTIES
from muxleak_scenarios.corpus.registry import load_cases
from muxleak_scenarios.corpus.steps import parse_steps
from muxleak_scenarios.corpus.subject import CaseSubject
from muxleak_scenarios.corpus.verify import FIXED_SEQUENCES, verify_case
from muxleak_scenarios.pairs.registry import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable

    from muxleak_scenarios.corpus import Origin
    from muxleak_scenarios.corpus.registry import CorpusCase

_CONTROL = "(control)"


def case_named(text: str) -> CorpusCase:
    """Return the case of a name.

    Raises:
        click.BadParameter: there is none; the message names the nearest.
    """
    cases = load_cases()
    if text not in cases:
        raise click.BadParameter(
            f"expected one of {', '.join(cases)}; got {text[:40]!r}{did_you_mean(text, cases)}"
        )
    return cases[text]


def _complete(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in load_cases() if name.startswith(incomplete)]


_case_argument = click.argument("case", type=case_named, shell_complete=_complete)


@click.command(
    "list",
    epilog=params.examples(
        "corpus list", "corpus list --json | jq -r '.[] | select(.needs == \"gap\").case'"
    ),
)
@params.json_option
def list_command(*, as_json: bool) -> None:
    """List the cases: real bugs, each with its fix.

    The columns are the fault class, the properties that the buggy variant violates, and the kind of
    search that it needs. Controls look like leaks and are none.
    """
    cases = load_cases().values()
    if as_json:
        render.emit_json([_facts(case) for case in cases])
        return
    console = render.stdout()
    widths = [
        max(map(len, column))
        for column in (
            [case.slug for case in cases],
            [case.facts.fault or _CONTROL for case in cases],
            ["breaks", *(", ".join(case.facts.fails) for case in cases)],
        )
    ]
    rows = render.Rows(
        console, [*map(render.Column, widths), render.Column(len("nothing"))], indent=4
    )
    rows.head("case", "fault", "breaks", "needs")
    for case in cases:
        facts = case.facts
        needs = "" if case.is_control else facts.needs
        head = Text(case.slug, render.HEAD)
        rows.print(head, facts.fault or _CONTROL, ", ".join(facts.fails), needs)
        console.print(Padding(facts.title, (0, 0, 0, 2)))


@click.command(
    "show", epilog=params.examples("corpus show slot_pass_on", "corpus show slot_pass_on --json")
)
@_case_argument
@params.json_option
def show_command(case: CorpusCase, *, as_json: bool) -> None:
    """Show one case: facts, story, and the diff of its variants."""
    if as_json:
        render.emit_json({**_facts(case), "story": case.readme, "diff": case.diff()})
        return
    console, facts = render.stdout(), case.facts
    console.print(Text(case.slug, render.HEAD))
    console.print(facts.title)
    console.print()
    shown: dict[str, str | Iterable[str]] = {
        "fault": facts.fault or _CONTROL,
        "origin": [_origin(each) for each in facts.origins],
        "roles": facts.roles,
    }
    if not case.is_control:
        shown["breaks"] = [f"{name}: {CASE_PROPERTIES[name]}" for name in facts.fails]
        shown["needs"] = facts.needs
    render.body(console, render.facts(shown))
    title, _, story = case.readme.partition("\n")
    render.heading(console, "Story", title.removeprefix("# "))
    # Drawings stand in code blocks, which Markdown would wrap.
    for index, part in enumerate(story.strip().split("```")):
        if index % 2 == 0:
            render.body(console, Markdown(part, hyperlinks=False))
        else:
            console.print()
            for line in part.strip("\n").splitlines():
                render.copyable(console, line)
            console.print()
    if not case.is_control:
        render.heading(console, "Diff")
        render.diff(console, case.diff())
    for name, wrong in (facts.wrong or {}).items():
        render.heading(console, f"Wrong fix: {name}", wrong.title)
        render.diff(console, case.diff(name))
    console.print()
    for name in case.variants:
        steps = (facts.wrong or {})[name].minimal if name in case.wrong else facts.minimal
        render.copyable(console, render.command("corpus", "run", case.slug, name, steps))


@click.command(
    "run",
    epilog=params.examples(
        "corpus run accept_backlog buggy 'open new:1 new:2'",
        "corpus run accept_backlog fixed 'open new:1 new:2'",
    ),
)
@_case_argument
@click.argument("variant")
@click.argument("steps", default="")
@params.json_option
@click.pass_context
def run_command(
    ctx: click.Context, case: CorpusCase, variant: str, steps: str, *, as_json: bool
) -> None:
    """Perform steps at a variant, and check it.

    VARIANT is buggy, fixed, or the name of a wrong fix. STEPS are those of the minimal sequence
    unless given; a close follows them. Exits with 1 if a property is violated.
    """
    if variant not in case.variants:
        raise click.BadParameter(f"expected one of {', '.join(case.variants)}; got {variant!r}")
    known = (case.facts.wrong or {}).get(variant, case.facts)
    try:
        parsed = parse_steps(steps or known.minimal)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    outcome = CaseSubject(case, variant).perform(parsed)
    if as_json:
        render.emit_json(
            {
                "case": case.slug,
                "variant": variant,
                "steps": " ".join(map(str, parsed)),
                "violated": list(outcome.violated),
                "violations": [str(each) for each in outcome.violations],
            }
        )
    else:
        console = render.stdout()
        for each in outcome.violations:
            console.print(Text(str(each)))
        if not outcome.failed:
            console.print("clean: every property holds")
    ctx.exit(1 if outcome.failed else 0)


@click.command(
    "verify",
    epilog=params.examples("corpus verify", "corpus verify slot_pass_on --seed 7"),
)
@click.argument("cases", nargs=-1, type=case_named, metavar="[CASE]...", shell_complete=_complete)
@click.option(
    "--sequences",
    type=params.COUNT,
    default=FIXED_SEQUENCES,
    show_default=True,
    help="Random sequences in which each fixed variant and control must hold.",
)
@params.seed_option
@params.json_option
@click.pass_context
def verify_command(
    ctx: click.Context,
    cases: tuple[CorpusCase, ...],
    sequences: int,
    seed: int,
    *,
    as_json: bool,
) -> None:
    """Prove every claim made of the cases.

    Each buggy variant and wrong fix must violate the properties in its facts, be found by a search,
    and shrink to its minimal sequence; fixed variants and controls must hold. Exits with 1 if a
    claim does not hold.
    """
    chosen = cases or tuple(load_cases().values())
    console, verdicts = render.stdout(), []
    for case in chosen:
        verdict = verify_case(case, seed=seed, fixed_sequences=sequences)
        verdicts.append(verdict)
        if not as_json:
            console.print(render.marked(verdict.holds, case.slug))
            for line in verdict.broken:
                console.print(Padding(Text(line), (0, 0, 0, 4)))
    holds = all(each.holds for each in verdicts)
    if as_json:
        render.emit_json({"holds": holds, "cases": [each.to_json() for each in verdicts]})
    else:
        console.print(f"{sum(each.holds for each in verdicts)} of {len(verdicts)} cases hold")
    ctx.exit(0 if holds else 1)


def _facts(case: CorpusCase) -> dict[str, Any]:
    facts = case.facts
    return {
        "case": case.slug,
        "control": case.is_control,
        "title": facts.title,
        "fault": facts.fault,
        "origins": [_origin(each) for each in facts.origins],
        "roles": list(facts.roles),
        "minimal": facts.minimal,
        "fails": list(facts.fails),
        "needs": facts.needs,
        "close_bound": facts.close_bound,
        "linger": facts.linger,
        "wrong_fixes": [
            {"name": name, "title": wrong.title, "minimal": wrong.minimal, "fails": [*wrong.fails]}
            for name, wrong in (facts.wrong or {}).items()
        ],
    }


def _origin(origin: Origin) -> str:
    releases = f" (fixed in {origin.fixed})" if origin.fixed else ""
    return f"{origin.project}, {origin.reference}{releases}"
