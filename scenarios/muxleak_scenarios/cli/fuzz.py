"""``muxleak fuzz``: search a server or a program within a budget, and shrink the finding."""

# One command for two kinds of subject, told apart by the colon of "module:callable". A pair or
# version is searched here, by a campaign over connection sequences; a program of the user's own is
# searched by `fuzz_program`, over schedules. Both have a budget, a seed, and a file for the
# finding, and both end on Ctrl-C with what they have found until then.
#
# A finding in a pair or version is remembered in Hypothesis's example database, if that is
# installed, and tried first the next time. The key of the database has the name of the target: a
# sequence that leaks over TCP need not leak on the simulated network, and a campaign forgets one
# that no longer leaks.
#
# Exit codes: 1 for a finding, also if the search was interrupted after it; 0 for nothing within the
# budget; 130 for nothing so far, since less than the budget proves less.

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from muxleak.server.given import is_address
from muxleak_scenarios.cli import interrupt, params, render, replay_files
from muxleak_scenarios.cli.fuzz_program import fuzz_program
from muxleak_scenarios.cli.fuzz_server import (
    MessageFile,
    ServerWords,
    check_test,
    count_options,
    fuzz_server,
    is_given_as_server,
    message_options,
)
from muxleak_scenarios.cli.search_report import SearchReport
from muxleak_scenarios.pairs.campaign import (
    EXAMPLES,
    Budget,
    Campaign,
    CampaignProgress,
    CampaignResult,
)
from muxleak_scenarios.pairs.registry import VARIANTS
from muxleak_scenarios.pairs.replay import SequenceReplay, find_subject
from muxleak_scenarios.sequence.steps import Sequence

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis.database import ExampleDatabase

    from muxleak_scenarios.cli.params import TargetChoice

_PROGRAM = ":"


def subject(word: str) -> str:
    """Return the subject that a word means, with the name of a pair written out.

    Raises:
        click.BadParameter: it is no pair or version, and has no colon.
    """
    if _PROGRAM in word:
        return word
    try:
        name, variant = find_subject(word, None)
    except ValueError as error:
        text = f"{error}; a program of yours is named as module:callable"
        raise click.BadParameter(text) from None
    _, slash, named = word.partition("/")
    return f"{name}{slash}{named}" if variant else word


@click.command(
    "fuzz",
    epilog=params.examples(
        "fuzz watcher_outlives_connection    found, shrunk, written to a file",
        "fuzz live_id_reused --variant fixed --time 60",
        "fuzz V2 --target tcp --time 30 --seed 7",
        "fuzz REF --examples 100000          the reference: nothing is found",
        "fuzz V1 --out tests/replays --json | jq -r .replay",
        "fuzz myserver.sim:main --time 60    an async function of yours",
        r"fuzz chat:start --message 'hello\n'    a server of yours",
        r"fuzz 127.0.0.1:8000 --message 'hello\n' --pid 42    one that runs",
    ),
)
@click.argument(
    "subject",
    type=subject,
    metavar="PAIR|VERSION|MODULE:CALLABLE|HOST:PORT",
    shell_complete=params.complete_subject,
)
@click.option(
    "--examples",
    type=params.COUNT,
    help=f"Number of sequences or runs, at most.  [default: {EXAMPLES}; with --time: no limit]",
)
@click.option(
    "--time",
    "seconds",
    type=params.POSITIVE,
    help="Seconds at most, shrinking included.",
)
@click.option(
    "--variant",
    "--half",
    "variant",
    type=click.Choice(VARIANTS),
    help="Variant of a PAIR.  [default: buggy]",
)
@params.target_option
@message_options
@count_options
@click.option(
    "--test",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    metavar="FILE",
    help="Write a regression test for the finding in a server.",
)
@click.option(
    "--out",
    type=replay_files.OUT,
    default=".",
    metavar="DIR|FILE",
    help="Where the replay file of a finding is written.  [default: here]",
)
@click.option(
    "--fresh",
    is_flag=True,
    help="Neither try the remembered findings of a pair or version nor remember any.",
)
@click.option(
    "--wakeups",
    is_flag=True,
    help="Permute the wake-ups of the tasks of a program, too, which stock asyncio never does.",
)
@params.seed_option
@params.json_option
@click.pass_context
def fuzz_command(
    ctx: click.Context,
    subject: str,
    examples: int | None,
    seconds: float | None,
    variant: str | None,
    target: TargetChoice,
    out: Path,
    seed: int,
    *,
    messages: tuple[bytes, ...],
    message_file: MessageFile | None,
    pid: int | None,
    endpoints: tuple[str, ...],
    test: Path | None,
    fresh: bool,
    wakeups: bool,
    as_json: bool,
) -> None:
    """Search for a sequence that violates a property; shrink it.

    A finding in a pair or version is remembered under .hypothesis and tried first the next time, if
    Hypothesis is installed.
    Ctrl-C ends the search and shows its finding, if any. Exits with 1 if there is one, with 0 if
    nothing was found within the budget.

    MODULE:CALLABLE is an async function without arguments. It runs on virtual time and a network in
    memory, in many orders of arrival, until a run leaks a task, cannot end, or raises. If a run has
    not ended 10 s after --time, the program exits with 1 and a line that says where the run is.

    It may also be a server: an async function (reader, writer), a class of protocols, an async
    function that starts and returns an asyncio.Server, or an async context manager that yields an
    address. Then generated clients connect, send each message whole, cut and joined, and leave.
    If such a function is not annotated as returning a server, but returns something, it is run once
    to see what that is.

    HOST:PORT is a server that runs already, on this machine. It is counted by --pid or --endpoint,
    and what grows with each repetition of a sequence is a leak.
    """
    # A time alone is the whole budget; with neither, a number of examples that takes seconds.
    budget = Budget(EXAMPLES if examples is None and seconds is None else examples, seconds)
    if _PROGRAM in subject:
        params.refuse(ctx, "a program", "variant", "fresh")
        if is_given_as_server(subject, messages=bool(messages or message_file)):
            params.refuse(ctx, "a server", "wakeups")
            if is_address(subject):
                params.refuse(ctx, "a server that runs already", "target", "test")
            else:
                params.refuse(ctx, "a server that is started here", "pid", "endpoints")
            replay_files.check_out(out)
            check_test(test)
            name = target.name
            words = ServerWords(subject, messages, name, message_file, pid, endpoints)
            ctx.exit(fuzz_server(words, budget, seed, test, out, as_json=as_json))
        params.refuse(ctx, "a program", "target", "test", "pid", "endpoints")
        replay_files.check_out(out)
        ctx.exit(fuzz_program(subject, budget, seed, out, wakeups=wakeups, as_json=as_json))
    of_servers = "messages", "message_file", "test", "pid", "endpoints"
    params.refuse(ctx, "a pair or version", "wakeups", *of_servers)
    try:
        empty = SequenceReplay(*find_subject(subject, variant), Sequence())
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    replay_files.check_out(out)
    result = _search(empty, budget, seed, target, fresh=fresh)
    found, status = result.found, result.status
    report = SearchReport(empty.subject, "sequence", budget, seed, result.ended, found)
    replay, path, where = _keep(empty, result, target, out)
    if as_json:
        render.emit_json(_data(report, replay, result, target, path))
    elif found is None:
        ran = render.plural(status.sequences, "sequence")
        report.show_nothing(f"{ran}, {status.connections:,} connections")
    else:
        at = f"after {render.plural(found.connections, 'connection')}"
        again = [render.command("replay", str(each)) for each in (replay, path) if each]
        report.show("remembered from an earlier run" if found.remembered else at, again, where)
    ctx.exit(report.code)


def _keep(
    empty: SequenceReplay, result: CampaignResult, target: TargetChoice, out: Path
) -> tuple[SequenceReplay, Path | None, str]:
    """Return the line of the finding, and the path and place of its file, if there are any."""
    if result.found is None:
        return empty, None, ""
    line = empty._replace(sequence=result.found.outcome.sequence)
    # A sequence of a real target is run there again.
    target_name = "" if target.virtual else target.name
    replay = replace(result.found.replay, name=line.subject, target=target_name)
    return line, *replay_files.keep_replay(out, replay)


def _search(
    replay: SequenceReplay, budget: Budget, seed: int, target: TargetChoice, *, fresh: bool
) -> CampaignResult:
    key = f"{replay.subject} {target.name}"
    with interrupt.caught() as stopped, render.progress(budget.examples or budget.seconds) as steps:
        return Campaign(
            replay.lifecycle,
            budget=budget,
            seed=seed,
            target=target.make,
            virtual=target.virtual,
            database=None if fresh else _memory(),
            key=key,
            progress=_teller(steps, replay.subject, budget),
            stopped=stopped,
        ).run()


def _memory() -> ExampleDatabase | None:
    """Return the database of findings; None without Hypothesis, whose database it is."""
    try:
        from hypothesis.database import DirectoryBasedExampleDatabase
    except ImportError:
        return None
    folder = os.environ.get("HYPOTHESIS_STORAGE_DIRECTORY", ".hypothesis")
    return DirectoryBasedExampleDatabase(Path(folder, "muxleak"))


def _teller(steps: render.Steps, name: str, budget: Budget) -> Callable[[CampaignProgress], None]:
    # The bar follows the budget that is given: examples, or else seconds.
    def tell(status: CampaignProgress) -> None:
        steps.follow(status.seconds if budget.examples is None else status.searched)
        steps.say(progress_in_words(name, status))

    return tell


def progress_in_words(name: str, status: CampaignProgress) -> str:
    """Return the progress of a search in words."""
    best = "" if status.shortest is None else f", shortest {status.shortest} steps"
    return (
        f"{status.rate:,.0f} connections/s, {status.sequences:,} run{best}: {status.doing} {name}"
    )


def _data(
    report: SearchReport,
    replay: SequenceReplay,
    result: CampaignResult,
    target: TargetChoice,
    path: Path | None,
) -> dict[str, Any]:
    found, status = result.found, result.status
    more: dict[str, Any] = {
        "subject": replay.name,
        "half": replay.variant or None,
        "target": target.name,
        "sequences": status.sequences,
        "connections": status.connections,
        "remembered": result.remembered,
    }
    if found is None:
        nothing = dict.fromkeys(("found_at", "minimal", "replay", "file"))
        return {**report.to_json(**more), "shrunk": False, **nothing}
    more["found_at"] = {"sequences": found.examples, "connections": found.connections}
    more["minimal"] = str(found.outcome.sequence)
    return report.to_json(str(replay), path, **more)
