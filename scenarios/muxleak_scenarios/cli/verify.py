"""``muxleak verify``: the proof of everything that is claimed of pairs, controls and versions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from muxleak_scenarios import load_pairs
from muxleak_scenarios.cli import params, render
from muxleak_scenarios.cli.answers import print_answers
from muxleak_scenarios.cli.versions import print_versions
from muxleak_scenarios.pairs.go_comparison import ENDINGS, compare
from muxleak_scenarios.pairs.mutants import SEQUENCES as ANSWER_SEQUENCES
from muxleak_scenarios.pairs.negative_controls import CONTROLS, Trial, try_control
from muxleak_scenarios.pairs.replay import SequenceReplay
from muxleak_scenarios.pairs.verify import (
    FIXED_SEQUENCES,
    Verdict,
    reference_holds,
    verify,
    verify_wrong,
)
from muxleak_vless.versions import VERSIONS

if TYPE_CHECKING:
    from rich.console import Console

    from muxleak_scenarios import Pair
    from muxleak_scenarios.pairs.registry import WrongVariant

REFERENCE = "the reference"
CLAIMS = 4
"""Claims per pair that `muxleak_scenarios.pairs.verify` reports as it takes them up."""
_LEGEND = {
    "breaks": "violated by the minimal sequence of the buggy variant or wrong fix, simulated and "
    "over TCP",
    "found after": "random connections until the search violates a property",
    "holds for": "random connections of the fixed variant or control, nothing violated",
    "flagged": "of a control, which looks like a leak and is none; it must be nothing",
    "unbounded": "the same without what bounds it; it must be flagged",
    "proved, too": "variants differ in one answer; the fixed one is the reference's own; a wrong "
    "fix repairs what its pair's buggy variant breaks",
}


@click.command(
    "verify",
    epilog=params.examples(
        "verify                      pairs, reference and controls",
        "verify live_id_reused --sequences 5000",
        "verify --versions           every version of the original, beside Go",
        "verify --answers            every other answer, and what notices it",
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
    "--answers",
    is_flag=True,
    help="Show which property notices each other answer to each question instead.",
)
@click.option(
    "--sequences",
    type=click.IntRange(min=1),
    help="Random sequences, of about 15 connections each, in which each fixed variant and control"
    f" must hold.  [default: {FIXED_SEQUENCES}; with --answers, for each: {ANSWER_SEQUENCES}]",
)
@params.seed_option
@params.json_option
@click.pass_context
def verify_command(
    ctx: click.Context,
    pairs: tuple[Pair, ...],
    sequences: int | None,
    seed: int,
    *,
    versions: bool,
    answers: bool,
    as_json: bool,
) -> None:
    """Prove every claim made of the pairs, one line each.

    Without PAIR, all are proved with their wrong fixes, and the reference and the controls (what
    looks like a leak and is none) are driven, too. Exits with 1 if a claim does not hold, and says
    which, with the line that replays it.
    """
    if versions and answers:
        raise click.UsageError("expected --versions or --answers, got both")
    if versions and pairs:
        raise click.UsageError("--versions compares all versions: expected no PAIR")
    if answers and pairs:
        raise click.UsageError("--answers tries those of all questions: expected no PAIR")
    if versions:
        holds = _versions(as_json=as_json)
    elif answers:
        holds = print_answers(sequences or ANSWER_SEQUENCES, seed, as_json=as_json)
    else:
        params.need_hypothesis("muxleak verify")
        whole = not pairs
        proof = _Proof(pairs or tuple(load_pairs().values()), seed, sequences or FIXED_SEQUENCES)
        holds = proof.run(None if as_json else render.stdout(), whole=whole)
        if as_json:
            render.emit_json(proof.to_json())
    ctx.exit(0 if holds else 1)


class _Proof:
    """The verdicts on some pairs and, perhaps, on the reference and the controls."""

    def __init__(self, pairs: tuple[Pair, ...], seed: int, sequences: int) -> None:
        self.pairs = pairs
        self.verdicts: list[Verdict] = []
        self.wrong: list[Verdict] = []
        self.trials: list[Trial] = []
        self.violated: list[str] | None = None
        self._seed = seed
        self._sequences = sequences
        self._width = max(len(REFERENCE), *(len(pair.slug) for pair in pairs))

    @property
    def holds(self) -> bool:
        """Whether every claim holds."""
        proved: tuple[Verdict | Trial, ...] = (*self.verdicts, *self.wrong, *self.trials)
        return not self.violated and all(each.holds for each in proved)

    def run(self, console: Console | None, *, whole: bool) -> bool:
        """Prove, printing a line for each pair as it is done."""
        self._row(console, Text("    "), "pair", "breaks", "found after", "holds for", render.QUIET)
        work = sum(CLAIMS + len(pair.wrong) for pair in self.pairs)
        with render.progress(work + whole * (1 + len(CONTROLS))) as steps:
            for pair in self.pairs:
                self._prove(console, steps, pair)
            if whole:
                self._drive(console, steps)
                self._try(console, steps)
        if console is not None:
            console.print()
            console.print(render.facts(_LEGEND), style=render.QUIET)
            console.print()
            self._sum_up(console)
        return self.holds

    def to_json(self) -> dict[str, Any]:
        """Return plain data; without the reference and the controls if those were not driven."""
        data: dict[str, Any] = {
            "pairs": [verdict.to_json() for verdict in self.verdicts],
            "wrong_fixes": [verdict.to_json() for verdict in self.wrong],
        }
        if self.violated is not None:
            data["reference"] = {"holds": not self.violated, "violated": self.violated}
            data["controls"] = [trial.to_json() for trial in self.trials]
        return {**data, "holds": self.holds}

    def _prove(self, console: Console | None, steps: render.Steps, pair: Pair) -> None:
        def say(claim: str) -> None:
            steps.say(f"{pair.slug}: {claim}")
            steps.advance()

        verdict = verify(pair, seed=self._seed, fixed_sequences=self._sequences, progress=say)
        self.verdicts.append(verdict)
        with steps.aside():
            self._report(console, pair, pair.slug, verdict, f"{verdict.connections:,}")
        for wrong in pair.wrong:
            say(wrong.name)
            verdict = verify_wrong(pair, wrong, seed=self._seed)
            self.wrong.append(verdict)
            with steps.aside():
                self._report(console, pair, f"  /{wrong.name}", verdict, "", wrong)

    def _drive(self, console: Console | None, steps: render.Steps) -> None:
        steps.say("drives the reference")
        self.violated = reference_holds(seed=self._seed, sequences=self._sequences)
        steps.advance()
        held = "" if self.violated else render.plural(self._sequences, "sequence")
        with steps.aside():
            self._row(console, render.MARKS[not self.violated], REFERENCE, "", "", held)
            self._broken(console, self.violated)

    def _try(self, console: Console | None, steps: render.Steps) -> None:
        heads = "control", "flagged", "unbounded", "holds for"
        self._row(console, Text("    "), *heads, render.QUIET)
        for name in CONTROLS:
            steps.say(f"drives the control {name}")
            trial = try_control(name, seed=self._seed, sequences=self._sequences)
            self.trials.append(trial)
            steps.advance()
            flagged = ", ".join(trial.flagged) or "nothing"
            twins = dict.fromkeys(each for twin in trial.twins.values() for each in twin[:1])
            held = f"{trial.connections:,}"
            with steps.aside():
                mark = render.MARKS[trial.holds]
                self._row(console, mark, name, flagged, ", ".join(twins) or "nothing", held)
                self._broken(console, trial.broken)

    def _report(
        self,
        console: Console | None,
        pair: Pair,
        name: str,
        verdict: Verdict,
        held: str,
        wrong: WrongVariant | None = None,
    ) -> None:
        found = verdict.found
        at = "nothing found" if found is None else f"{found.connections:,}"
        mark = render.MARKS[verdict.holds]
        self._row(console, mark, name, ", ".join(verdict.buggy) or "nothing", at, held)
        lines = list(verdict.broken)
        if lines and not any("replay: " in line for line in lines):
            variant, minimal = (
                ("buggy", pair.minimal) if wrong is None else (wrong.name, wrong.minimal)
            )
            lines.append(f"replay: {SequenceReplay(pair.slug, variant, minimal)}")
        self._broken(console, lines)

    def _sum_up(self, console: Console) -> None:
        proved = [render.plural(len(self.verdicts), "pair")]
        if self.wrong:
            proved.append(f"{len(self.wrong)} wrong fix{'es' * (len(self.wrong) > 1)}")
        if self.violated is not None:
            proved += [REFERENCE, render.plural(len(self.trials), "control")]
        outcome = "every claim holds" if self.holds else "not every claim holds"
        text = f"  {', '.join(proved)}: {outcome}"
        console.print(Text.assemble(render.MARKS[self.holds], text))

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
