"""``muxleak replay``: run a line again, a file of lines, or a replay file."""

# The argument is a line, spread over several words or quoted as one, or a file. A word is looked up
# as a file first; the shell completes both. A word that looks like a path (it has a slash and is no
# PAIR/VARIANT, or ends as replay files do) and is none gets the message that the file is missing,
# instead of the list of all pairs. See `_check_no_path`.
#
# All lines of a file are parsed before the first one runs, so a mistake in the last line is found
# at once, with the file and the number of the line before the message, as compilers write it.

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from muxleak import files
from muxleak.server.messages import unescaped
from muxleak.sim.replay import SEQUENCE, SERVER
from muxleak_scenarios.cli import params, programs, render, replay_files
from muxleak_scenarios.cli.fuzz_server import (
    MessageFile,
    ServerWords,
    count_options,
    is_given_as_server,
    message_options,
)
from muxleak_scenarios.cli.replay_program import named_run, recorded_run, replay_program
from muxleak_scenarios.cli.search_report import show_violations
from muxleak_scenarios.pairs.registry import VARIANTS, AmbiguousPairError, load_pairs
from muxleak_scenarios.pairs.replay import SequenceReplay, find_subject, find_version, read_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from muxleak.search import Outcome, Subject
    from muxleak.sim import Replay
    from muxleak_scenarios import SequenceOutcome
    from muxleak_scenarios.cli.params import TargetChoice

_MAX_BYTES = 1 << 22  # of a file of lines
_OF_SERVERS = ("messages", "message_file", "pid", "endpoints")  # options
_SUFFIXES = {".seq", ".json", ".txt"}


class NumberedLine(NamedTuple):
    """A line to replay, and its place for messages: "" or "file:line: "."""

    place: str
    text: str


@click.command(
    "replay",
    epilog=params.examples(
        "replay watcher_outlives_connection a:open a:close",
        "replay --variant fixed 'watcher_outlives_connection a:open a:close'",
        "replay V2 a:open cancel a:new:1:echo a:close",
        "replay --target tcp fixed a:open a:new:1:echo+5 a:abort",
        "replay V2 a:open a:udp:1:@echo a:new:1:@echo   found by a hunt",
        "replay muxleak-V1.sim.json  a file of muxleak fuzz V1",
        "replay found.txt            a file of lines; # starts a comment",
        "replay sim1:AAAAAA myserver.sim:main",
        r"replay sim1:AAAAAQY chat:start --message 'hello\n'",
        "replay muxleak-myserver.sim-main.sim.json myserver.sim:main",
    ),
)
@click.argument(
    "line",
    nargs=-1,
    required=True,
    metavar="LINE|FILE",
    shell_complete=params.complete_line,
)
@click.option(
    "--variant",
    "--half",
    "variant",
    type=click.Choice(VARIANTS),
    help="Variant to run instead of the one that the line names.",
)
@click.option(
    "--trust", is_flag=True, help="Import and run the program that a file names by itself."
)
@message_options
@count_options
@params.target_option
@params.json_option
@click.pass_context
def replay_command(
    ctx: click.Context,
    line: tuple[str, ...],
    variant: str | None,
    target: TargetChoice,
    *,
    messages: tuple[bytes, ...],
    message_file: MessageFile | None,
    pid: int | None,
    endpoints: tuple[str, ...],
    trust: bool,
    as_json: bool,
) -> None:
    """Run a line of steps, or a program or server of yours, once more.

    A line is PAIR[/VARIANT] STEPS or VERSION STEPS. A variant is buggy, fixed or one of the pair's
    wrong fixes (`muxleak show PAIR`); versions are V0, V1, P-A, P-B, P-C, V2 and REF (fixed). A
    step is CONNECTION:VERB[:STREAM][:WHAT][+BYTES][~GAP][^HEX].

    A run of a program or server is the line or file that `muxleak fuzz` wrote, and the program as
    module:callable. A file names its program, too, but that is imported only with --trust: it may
    be any code. The file of a pair or version needs no more. Exits with 1 if a property is
    violated, or the program fails.
    """
    recorded, words = recorded_run(line) or (None, [])
    if recorded is not None and recorded.kind != SEQUENCE:
        params.refuse(ctx, "a program", "variant")
        found = named_run(recorded, words, trust=trust)
        has_messages = bool(messages or message_file)
        if found.kind == SERVER or (
            not found.path and is_given_as_server(found.name, messages=has_messages)
        ):
            given = ServerWords(found.name, messages, target.name, message_file, pid, endpoints)
            server = _server(ctx, found, given)
            subject: Subject[Outcome] = server.subject()
            words += server.options
        else:
            params.refuse(ctx, "a program", "target", *_OF_SERVERS)
            subject = programs.subject_of(found)
        ctx.exit(replay_program(found, subject, render.command("replay", *words), as_json=as_json))
    params.refuse(ctx, "lines of steps", "trust", *_OF_SERVERS)
    if recorded is not None and recorded.target and not params.is_given(ctx, "target"):
        target = params.target(ctx, None, recorded.target)
    runs = parsed(line, variant)
    console = render.stdout()
    results: list[dict[str, Any]] = []
    clean = True
    with render.progress(len(runs)) as steps:
        for each, replay in runs:
            steps.say(f"replays over {target.name}")
            outcome = _run(each, replay, target)
            steps.advance()
            clean &= not outcome.violations
            if as_json:
                results.append({"line": str(replay), "target": target.name, **outcome.to_json()})
            else:
                with steps.aside():
                    show_violations(console, outcome, str(replay) if len(runs) > 1 else "")
    if as_json:
        render.emit_json({"clean": clean, "runs": results})
    ctx.exit(0 if clean else 1)


def _server(ctx: click.Context, found: Replay, given: ServerWords) -> ServerWords:
    """Return the server of a run; the options that are given replace those of its file."""
    if not found.path:
        return given
    if not params.is_given(ctx, "target"):
        given = given._replace(target=found.target or "simulated")
    try:
        recorded = () if given.messages else tuple(map(unescaped, found.messages))
        return given._replace(single=given.single + recorded)
    except ValueError as error:
        raise click.UsageError(f"{found.path}: {error}") from None


def parsed(
    words: tuple[str, ...], variant: str | None
) -> list[tuple[NumberedLine, SequenceReplay]]:
    """Return the lines that words or a file hold, parsed; `variant` overrides those they name.

    Raises:
        click.UsageError: the file is missing or cannot be read, or a line is wrong.
    """
    # All lines before any run: a mistake in the last line must not cost the time of the others.
    return [(each, _parse(each, variant)) for each in _lines(words)]


def _lines(words: tuple[str, ...]) -> Iterator[NumberedLine]:
    """Yield the lines of the file that is named, or the one line that the words make.

    Raises:
        click.UsageError: the file is missing, or holds no lines.
    """
    if len(words) > 1 or not replay_files.is_file(words[0]):
        _check_no_path(words)
        yield NumberedLine("", " ".join(words))
        return
    path, found = Path(words[0]), False
    if recorded := recorded_run(words):
        yield NumberedLine(f"{path}: ", recorded[0].line)
        return
    # A file without lines proves nothing, and must not exit with 0.
    try:
        content = files.read_text(path, _MAX_BYTES)
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror or error}") from None
    except files.FileError as error:
        raise click.UsageError(
            f"{path}: {error}; expected a text file with one line of steps each, or a run of a "
            "program"
        ) from None
    for number, text, _ in read_lines(content):
        found = True
        yield NumberedLine(f"{path}:{number}: ", text)
    if not found:
        raise click.UsageError(f"{path}: expected lines to replay, got none")


def _check_no_path(words: tuple[str, ...]) -> None:
    """Check that words which name no file are not meant to.

    Raises:
        click.UsageError: they look like the path of a file or folder.
    """
    word = words[0]
    name = word.partition("/")[0]
    if name in load_pairs() or find_version(name):
        return
    # Of a pair by its beginning, the variant must be right, too: "no/such" is meant to be a path.
    try:
        find_subject(word, None)
    except AmbiguousPairError:
        return
    except ValueError:
        single = len(words) == 1 and not any(map(str.isspace, word))
        folder = replay_files.is_folder(word)
        if Path(word).suffix in _SUFFIXES or (single and (folder or "/" in word)):
            found = "which is a folder" if folder else "and there is none"
            raise click.UsageError(f"expected a file, got {word!r}, {found}") from None


def _parse(line: NumberedLine, variant: str | None) -> SequenceReplay:
    try:
        return SequenceReplay.parse(line.text, variant)
    except ValueError as error:
        raise click.UsageError(f"{line.place}{error}") from None


def _run(line: NumberedLine, replay: SequenceReplay, target: TargetChoice) -> SequenceOutcome:
    try:
        return replay.run(target.make)
    except ValueError as error:
        raise click.UsageError(f"{line.place}{error}") from None
