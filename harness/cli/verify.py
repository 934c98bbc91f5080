"""``muxleak verify``: the proof of everything that is claimed of the pairs and the versions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from harness.cli import params, render
from harness.cli.versions import print_versions
from scenarios import load_pairs
from scenarios.history import ENDINGS, compare
from scenarios.replay import Replay
from scenarios.verify import FIXED_SEQUENCES, Verdict, reference_holds, verify
from vless.versions import VERSIONS

if TYPE_CHECKING:
    from rich.console import Console

    from scenarios import Pair

REFERENCE = "the reference"
CLAIMS = 4
"""Claims per pair that `scenarios.verify` reports as it takes them up."""
_LEGEND = {
    "breaks": "violated by the buggy half's witness, simulated and over TCP",
    "found after": "random connections until the search violates a property",
    "holds for": "random connections of the fixed half, nothing violated",
    "proved, too": "halves differ in one answer; the fixed one is the reference's own",
}


@click.command(
    "verify",
    epilog=params.examples(
        "verify                      every pair, and the reference itself",
        "verify live_id_reused --sequences 5000",
        "verify --versions           every version of the original, beside Go",
        "verify --json | jq .holds",
    ),
)
@click.argument(
    "pairs",
    nargs=-1,
    type=params.pair,
    metavar="[PAIR]...",
    shell_complete=params.complete_pair,
)
@click.option("--versions", is_flag=True, help="Compare the historical versions with Go instead.")
@click.option(
    "--sequences",
    type=click.IntRange(min=1),
    default=FIXED_SEQUENCES,
    show_default=True,
    help="Random sequences, of about 15 connections each, in which each fixed half must hold.",
)
@params.seed_option
@params.json_option
@click.pass_context
def verify_command(
    ctx: click.Context,
    pairs: tuple[Pair, ...],
    sequences: int,
    seed: int,
    *,
    versions: bool,
    as_json: bool,
) -> None:
    """Prove every claim made of the pairs, one line each.

    Without PAIR, all are proved, and the reference is driven, too.
    Exits with 1 if a claim does not hold, and says which, with the line that replays it.
    """
    if versions and pairs:
        raise click.UsageError("--versions compares all versions: expected no PAIR")
    if versions:
        holds = _versions(as_json=as_json)
    else:
        whole = not pairs
        proof = _Proof(pairs or tuple(load_pairs().values()), seed, sequences)
        holds = proof.run(None if as_json else render.stdout(), whole=whole)
        if as_json:
            render.emit_json(proof.to_json())
    ctx.exit(0 if holds else 1)


class _Proof:
    """The verdicts on some pairs and, perhaps, on the reference."""

    def __init__(self, pairs: tuple[Pair, ...], seed: int, sequences: int) -> None:
        self.pairs = pairs
        self.verdicts: list[Verdict] = []
        self.violated: list[str] | None = None
        self._seed = seed
        self._sequences = sequences
        self._width = max(len(REFERENCE), *(len(pair.slug) for pair in pairs))

    @property
    def holds(self) -> bool:
        """Whether every claim holds."""
        return not self.violated and all(verdict.holds for verdict in self.verdicts)

    def run(self, console: Console | None, *, whole: bool) -> bool:
        """Prove, printing a line for each pair as it is done."""
        self._row(console, Text("    "), "pair", "breaks", "found after", "holds for", render.QUIET)
        with render.progress(CLAIMS * len(self.pairs) + whole) as steps:
            for index, pair in enumerate(self.pairs):
                steps.follow(CLAIMS * index)

                def say(claim: str, slug: str = pair.slug) -> None:
                    steps.say(f"{slug}: {claim}")
                    steps.advance()

                verdict = verify(
                    pair, seed=self._seed, fixed_sequences=self._sequences, progress=say
                )
                self.verdicts.append(verdict)
                with steps.aside():
                    self._report(console, pair, verdict)
            if whole:
                steps.say("drives the reference")
                self.violated = reference_holds(seed=self._seed, sequences=self._sequences)
                held = "" if self.violated else render.plural(self._sequences, "sequence")
                with steps.aside():
                    self._row(console, render.MARKS[not self.violated], REFERENCE, "", "", held)
                    self._broken(console, self.violated)
        if console is not None:
            console.print()
            console.print(render.facts(_LEGEND), style=render.QUIET)
        return self.holds

    def to_json(self) -> dict[str, Any]:
        """Return plain data; without the reference if that was not driven."""
        data: dict[str, Any] = {"pairs": [verdict.to_json() for verdict in self.verdicts]}
        if self.violated is not None:
            data["reference"] = {"holds": not self.violated, "violated": self.violated}
        return {**data, "holds": self.holds}

    def _report(self, console: Console | None, pair: Pair, verdict: Verdict) -> None:
        found = verdict.found
        at = "nothing found" if found is None else f"{found.connections:,}"
        held = f"{verdict.connections:,}"
        mark = render.MARKS[verdict.holds]
        self._row(console, mark, pair.slug, ", ".join(verdict.buggy) or "nothing", at, held)
        lines = list(verdict.broken)
        if lines and not any("replay: " in line for line in lines):
            lines.append(f"replay: {Replay(pair.slug, 'buggy', pair.witness)}")
        self._broken(console, lines)

    def _row(self, console: Console | None, mark: Text, *cells: str, style: str = "") -> None:
        if console is None:
            return
        name, breaks, found, held, *rest = cells
        style = rest[0] if rest else style
        line = f"{name:<{self._width}}  {breaks:<10}  {found:>13}  {held:>13}".rstrip()
        gap = " " * (6 - len(mark.plain))
        console.print(Text.assemble(mark, gap, (line, style)), soft_wrap=True)

    def _broken(self, console: Console | None, lines: list[str]) -> None:
        if console is not None:
            for line in lines:
                render.copyable(console, line, 6)


def _versions(*, as_json: bool) -> bool:
    with render.progress(len(ENDINGS) * len(VERSIONS)) as steps:
        steps.say("runs every version through every ending")
        rows = compare(steps.follow)
    holds = all(row.holds for row in rows)
    if as_json:
        render.emit_json({"rows": [row.to_json() for row in rows], "holds": holds})
    else:
        print_versions(render.stdout(), rows)
    return holds
