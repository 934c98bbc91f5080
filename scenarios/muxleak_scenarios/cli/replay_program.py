"""``muxleak replay`` of a program: run one schedule again, by its line or its file."""

# A replay repeats the choices of a recorded run. The program may have changed since, and then the
# same choices lead somewhere else: the file has a hash of the recorded trace, and a run with
# another trace says so, since "clean" would otherwise be taken for "repaired". Fresh processes then
# tell a program that has changed from one that depends on hash order. A line has no hash, and so no
# such check.
#
# A file names its program, but the user need not have written the file. So a program is imported
# only if the command line names it, or trusts the file.
#
# What the program prints goes to stderr, so that stdout has the result alone.

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING

import click
from rich.text import Text

from muxleak import files
from muxleak.sim import Replay, ReplayError, rerun
from muxleak.sim.fresh_process import why_it_differs
from muxleak.sim.replay import MARK, SUFFIX
from muxleak_scenarios.cli import programs, render, replay_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from muxleak.sim.fresh_process import Difference

_WORDS = 2  # the line or file, and a program
_SPACE = 4096  # bytes in which a file of JSON begins
_CHANGED = "the program or its settings have changed since"
_NAMED = ("hash", "identity", "state")  # causes of a difference that lie in the program


def is_of_program(words: Sequence[str]) -> bool:
    """Return True if words name a run of a program, and False if they name one of a server."""
    first = words[0]
    if first.startswith(MARK):
        return True
    # A file of a program is JSON, under whatever name it was saved; a file of lines never is.
    if not replay_files.is_file(first):
        return False
    if first.endswith(SUFFIX):
        return True
    try:
        return files.first_bytes(first, _SPACE).lstrip()[:1] == b"{"
    except OSError:
        return False


def replay_program(words: Sequence[str], *, trust: bool, as_json: bool) -> int:
    """Run a program again and print the outcome.

    Args:
        words: the line or file, and the name of the program.
        trust: import the program that a file names, if the words name none.
        as_json: print JSON.

    Returns:
        1 if the program failed, else 0.

    Raises:
        click.UsageError: the words name no run or no program.
    """
    found, name, words = parsed_run(words, trust=trust)
    program = programs.read(name)
    with programs.running(name), redirect_stdout(sys.stderr):
        result = rerun(found, program)
    differs = None
    if found.trace and found.trace != result.trace_hash:
        differs = why_it_differs(name, found, timeout=programs.FRESH_SECONDS)
    command = render.command("replay", *words)
    failed = None
    if result.error is not None:
        beyond = bool(result.choices.woken)
        failed = programs.failure(name, result.error, result.steps, command, beyond=beyond)
    if as_json:
        run = {
            "line": found.line,
            "program": name,
            "trace": result.trace_hash,
            "same_run": differs is None if found.trace else None,
            "differs_by": None if differs is None else differs.cause,
            "failed": failed is not None,
            **({} if failed is None else failed.to_json()),
        }
        render.emit_json({"clean": failed is None, "runs": [run]})
    else:
        show_outcome(name, failed, differs)
    return int(failed is not None)


def parsed_run(words: Sequence[str], *, trust: bool) -> tuple[Replay, str, list[str]]:
    """Return the recorded run, the name of its program, and the words one by one.

    Raises:
        click.UsageError: there is no such run, no program, one that only the file names, or a word
            too many.
    """
    # A line may be quoted as one word with the program, as it is copied from a report. A path may
    # hold spaces, and is taken as it is.
    line = " ".join(words)
    first = line.split()[0] if words[0].startswith(MARK) else words[0]
    words = [first, *line.removeprefix(first).split()]
    found = load(first)
    if len(words) > _WORDS:
        raise click.UsageError(f"expected a line or a file, and a program, got {words[_WORDS]!r}")
    if len(words) == _WORDS:
        return found, words[1], words
    if found.name and trust:
        return found, found.name, [*words, found.name]
    if found.name:
        again = render.command("replay", first, found.name)
        raise click.UsageError(
            f"expected a program after the file, since {first} names {files.shown(found.name)}, "
            f"which would be imported; if you trust that code: {again}, or --trust"
        )
    raise click.UsageError(
        f"expected a program after the {'file' if found.path else 'line'}, as in: muxleak replay "
        f"{first} module:callable"
    )


def show_outcome(
    name: str, failed: programs.ProgramFailure | None, differs: Difference | None
) -> None:
    """Print the outcome of a run that was repeated.

    Args:
        name: of the program.
        failed: the run, if it failed.
        differs: the reason why it is not the recorded one, if it is not.
    """
    console = render.stdout()
    if failed is None:
        console.print(Text.assemble(("clean", render.GOOD), f": {name} does not fail"))
    else:
        console.print(Text.assemble(("failed", render.BAD), f": {name}"))
        programs.show(console, failed)
    if differs is not None:
        why = f"{differs}" if differs.cause in _NAMED else _CHANGED
        console.print(f"another run than the file's: {why}", soft_wrap=True)


def load(word: str) -> Replay:
    """Return the run that a line or a file holds.

    Raises:
        click.UsageError: it holds none, or the file cannot be read.
    """
    try:
        return Replay.parse(word) if word.startswith(MARK) else Replay.load(word)
    except ReplayError as error:
        raise click.UsageError(str(error)) from None
    except OSError as error:
        raise click.UsageError(f"{word}: {error.strerror or error}") from None
