"""``muxleak verify``: prove every claim made of the pairs, the reference and the controls."""

# A proof has a row for each claim, printed as soon as it is decided, because the whole takes
# minutes and a reader who sees a FAIL need not wait for the rest. Several processes share the
# proofs; the rows stand in the same order, however many there are. Below a FAIL stand the claims
# that do not hold, and a line that replays the run: where the proof has no such line itself, that
# of the minimal sequence.
#
# The options --answers and --versions became `muxleak self mutants` and `muxleak self versions`:
# they prove something about this program and not about a pair. They go on working, with a note on
# stderr, so that a script that reads stdout or the exit code notices nothing.

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from muxleak_scenarios import load_pairs
from muxleak_scenarios.cli import params, render
from muxleak_scenarios.cli.controls import LEGEND, control_jobs, show_trials
from muxleak_scenarios.cli.go_comparison import print_versions
from muxleak_scenarios.cli.mutants import print_mutants
from muxleak_scenarios.pairs.mutants import SEQUENCES as MUTANT_SEQUENCES
from muxleak_scenarios.pairs.negative_controls import CONTROLS, Trial
from muxleak_scenarios.pairs.replay import SequenceReplay
from muxleak_scenarios.pairs.verify import (
    FIXED_SEQUENCES,
    Verdict,
    reference_holds,
    verify,
    verify_wrong,
)
from muxleak_scenarios.worker_processes import Job, cpus, in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console

    from muxleak_scenarios import Pair
    from muxleak_scenarios.pairs.registry import WrongVariant

REFERENCE = "the reference"
CLAIMS = 4
"""Calls of the progress function by `muxleak_scenarios.pairs.verify` for each pair."""
_LEGEND = {
    "breaks": "violated by the minimal sequence of the buggy variant or wrong fix, simulated and "
    "over TCP",
    "found after": "random connections until the search violates a property",
    "holds for": "random connections of the fixed variant or control, nothing violated",
    **LEGEND,
    "proved, too": "variants differ in one answer; the fixed one is the reference's own; a wrong "
    "fix repairs what its pair's buggy variant breaks",
}


@click.command(
    "verify",
    epilog=params.examples(
        "verify                      pairs, reference and controls",
        "verify live_id_reused --sequences 5000",
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
@click.option("--versions", is_flag=True, hidden=True)
@click.option("--answers", is_flag=True, hidden=True)
@click.option(
    "--sequences",
    type=params.COUNT,
    help="Random sequences, of about 15 connections each, in which each fixed variant and control"
    f" must hold.  [default: {FIXED_SEQUENCES}]",
)
@click.option(
    "--processes",
    type=params.COUNT,
    help="Processes that share the work.  [default: one for each CPU]",
)
@params.seed_option
@params.json_option
@click.pass_context
def verify_command(
    ctx: click.Context,
    pairs: tuple[Pair, ...],
    sequences: int | None,
    processes: int | None,
    seed: int,
    *,
    versions: bool,
    answers: bool,
    as_json: bool,
) -> None:
    """Prove every claim made of the pairs, one line each.

    Without PAIR, all are proved with their wrong fixes, and so are the reference and the controls,
    which look like leaks and are none. Exits with 1 if a claim does not hold, and prints the claim
    with the line that replays it.
    """
    if versions or answers:
        ctx.exit(
            _moved(pairs, sequences, seed, versions=versions, answers=answers, as_json=as_json)
        )
    params.need_hypothesis("muxleak verify")
    chosen = pairs or tuple(load_pairs().values())
    proof = _Proof(chosen, seed, sequences or FIXED_SEQUENCES, processes or cpus())
    holds = proof.run(None if as_json else render.stdout(), whole=not pairs)
    if as_json:
        render.emit_json(proof.to_json())
    ctx.exit(0 if holds else 1)


def _moved(
    pairs: tuple[Pair, ...],
    sequences: int | None,
    seed: int,
    *,
    versions: bool,
    answers: bool,
    as_json: bool,
) -> int:
    """Run the command that replaces an option.

    Returns:
        The exit code of the command.

    Raises:
        click.UsageError: both options were given, or a pair.
    """
    if versions and answers:
        raise click.UsageError("expected --versions or --answers, got both")
    option, command = ("--versions", "versions") if versions else ("--answers", "mutants")
    if pairs:
        raise click.UsageError(f"{option} takes no PAIR; leave it out")
    note = f"verify {option} is deprecated and will be removed: use muxleak self {command}"
    click.echo(note, err=True)
    if versions:
        return 0 if print_versions(as_json=as_json) else 1
    return 0 if print_mutants(sequences or MUTANT_SEQUENCES, seed, as_json=as_json) else 1


class _Proof:
    """A proof of some pairs, and of the reference and the controls if the proof is of all."""

    def __init__(self, pairs: tuple[Pair, ...], seed: int, sequences: int, processes: int) -> None:
        self.pairs = pairs
        self._processes = processes
        self.verdicts: list[Verdict] = []
        self.wrong: list[Verdict] = []
        self.trials: list[Trial] = []
        self.violated: list[str] | None = None
        self._seed = seed
        self._sequences = sequences
        # Known before the first row is printed, and so the same for every row.
        names = [REFERENCE, *CONTROLS, *(pair.slug for pair in pairs)]
        names += [f"  /{wrong.name}" for pair in pairs for wrong in pair.wrong]
        # The controls are counted in, though a proof of some pairs has none: their rows then stand
        # in the same columns of either proof.
        self._width = max(map(len, names))
        self._rows: render.Rows | None = None

    @property
    def holds(self) -> bool:
        """True if every claim holds."""
        proved: tuple[Verdict | Trial, ...] = (*self.verdicts, *self.wrong, *self.trials)
        return not self.violated and all(each.holds for each in proved)

    def run(self, console: Console | None, *, whole: bool) -> bool:
        """Prove the pairs, and print a row for each as it is done.

        Args:
            console: for the rows; None prints nothing.
            whole: prove the reference and the controls, too.

        Returns:
            True if every claim holds.
        """
        if console is not None:
            self._rows = render.proof_rows(console, self._width)
            self._rows.head("      pair", "breaks", "found after", "holds for")
        # One step for each claim of a pair, each wrong fix, the reference and each control.
        work = sum(CLAIMS + len(pair.wrong) for pair in self.pairs)
        with (
            render.progress(work + whole * (1 + len(CONTROLS))) as steps,
            closing(in_order(self._jobs(whole=whole), self._processes, steps.begin)) as results,
        ):
            for pair in self.pairs:
                verdict = next(results)
                self.verdicts.append(verdict)
                with steps.aside():
                    self._report(console, pair, pair.slug, verdict, f"{verdict.connections:,}")
                for wrong in pair.wrong:
                    verdict = next(results)
                    self.wrong.append(verdict)
                    with steps.aside():
                        self._report(console, pair, f"  /{wrong.name}", verdict, "", wrong)
            if whole:
                self.violated = next(results)
                held = "" if self.violated else render.plural(self._sequences, "sequence")
                with steps.aside():
                    self._row(console, self.violated, REFERENCE, "", "", held)
                self.trials = show_trials(console, steps, results, self._width)
        if console is not None:
            console.print()
            console.print(render.facts(_LEGEND), style=render.QUIET)
            console.print()
            self._sum_up(console)
        return self.holds

    def to_json(self) -> dict[str, Any]:
        """Return plain data, with the reference and the controls only if they were driven."""
        data: dict[str, Any] = {
            "pairs": [verdict.to_json() for verdict in self.verdicts],
            "wrong_fixes": [verdict.to_json() for verdict in self.wrong],
        }
        if self.violated is not None:
            data["reference"] = {"holds": not self.violated, "violated": self.violated}
            data["controls"] = [trial.to_json() for trial in self.trials]
        return {**data, "holds": self.holds}

    def _jobs(self, *, whole: bool) -> Iterator[Job]:
        """Yield the proofs in the order of their rows."""
        seed, sequences = self._seed, self._sequences
        for pair in self.pairs:
            yield Job(partial(_verify, pair, seed, sequences))
            for wrong in pair.wrong:
                yield Job(partial(verify_wrong, pair, wrong, seed=seed), wrong.name)
        if whole:
            reference = partial(reference_holds, seed=seed, sequences=sequences)
            yield Job(reference, "drives the reference")
            yield from control_jobs(seed, sequences)

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
        lines = list(verdict.broken)
        # Most broken claims name the run that breaks them; a claim about the source does not.
        if lines and not any("replay: " in line for line in lines):
            variant, minimal = (
                ("buggy", pair.minimal) if wrong is None else (wrong.name, wrong.minimal)
            )
            lines.append(f"replay: {SequenceReplay(pair.slug, variant, minimal)}")
        self._row(console, lines, name, ", ".join(verdict.buggy) or "nothing", at, held)

    def _sum_up(self, console: Console) -> None:
        proved = [render.plural(len(self.verdicts), "pair")]
        if self.wrong:
            proved.append(f"{len(self.wrong)} wrong fix{'es' * (len(self.wrong) > 1)}")
        if self.violated is not None:
            proved += [REFERENCE, render.plural(len(self.trials), "control")]
        text = f"  {', '.join(proved)}: {render.OUTCOMES[self.holds]}"
        console.print(Text.assemble(render.MARKS[self.holds], text))

    def _row(self, console: Console | None, broken: list[str], name: str, *cells: str) -> None:
        if console is not None and self._rows is not None:
            self._rows.print(render.marked(not broken, name), *cells)
            for line in broken:
                render.copyable(console, line, render.MARK_WIDTH)


def _verify(pair: Pair, seed: int, sequences: int, progress: Callable[[str], object]) -> Verdict:
    def say(claim: str) -> None:
        progress(f"{pair.slug}: {claim}")

    return verify(pair, seed=seed, fixed_sequences=sequences, progress=say)
