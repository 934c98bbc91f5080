"""``muxleak replay`` of a program or server: run it again, by its line or its file."""

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
from dataclasses import replace
from typing import TYPE_CHECKING

import click
from rich.text import Text

from muxleak import files
from muxleak.server.counts import CountError
from muxleak.server.given import NoServerError
from muxleak.sim import Replay, ReplayError, SimulationError
from muxleak.sim.fresh_process import Difference, why_it_differs
from muxleak.sim.replay import MARK, PROGRAM, SUFFIX
from muxleak_scenarios.cli import programs, render, replay_files
from muxleak_scenarios.cli.search_report import outcome_to_json, show_outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from muxleak.search import Outcome, Subject

_WORDS = 2  # the line or file, and a program
_SPACE = 4096  # bytes in which a file of JSON begins
_CHANGED = "the program or its settings have changed since"
_NAMED = ("hash", "identity", "state")  # causes of a difference that lie in the program


def recorded_run(words: Sequence[str]) -> tuple[Replay, list[str]] | None:
    """Return the run that words begin with, and the words one by one; None if they are steps.

    Raises:
        click.UsageError: the line or file is no replay, or cannot be read.
    """
    first = words[0]
    try:
        if first.startswith(MARK):
            # It may be quoted as one word with the program, as it is copied from a report.
            words = " ".join(words).split()
            return Replay.parse(words[0]), words
        # A path may hold spaces, and is taken as it is.
        return (
            (Replay.load(first), [first, *" ".join(words[1:]).split()]) if _is_json(first) else None
        )
    except ReplayError as error:
        raise click.UsageError(str(error)) from None
    except OSError as error:
        raise click.UsageError(f"{first}: {error.strerror or error}") from None


def _is_json(word: str) -> bool:
    # A replay file is JSON, under whatever name it was saved; a file of lines never is.
    if not replay_files.is_file(word):
        return False
    if word.endswith(SUFFIX):
        return True
    try:
        return files.first_bytes(word, _SPACE).lstrip()[:1] == b"{"
    except OSError:
        return False


def named_run(found: Replay, words: Sequence[str], *, trust: bool) -> Replay:
    """Return a run with the name of its program or server.

    Args:
        found: the run.
        words: its line or file, and the name.
        trust: take the name from the file, if the words have none.

    Raises:
        click.UsageError: there is no name, only the file's, or a word too many.
    """
    first, *names = words
    if len(words) > _WORDS:
        raise click.UsageError(f"expected a line or a file, and a program, got {words[_WORDS]!r}")
    if names:
        return replace(found, name=names[0])
    if found.name and trust:
        return found
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


def replay_program(found: Replay, subject: Subject[Outcome], line: str, *, as_json: bool) -> int:
    """Run a program or server again and print the outcome.

    Args:
        found: the recorded run, with the name of its subject.
        subject: the program or server.
        line: the command that repeats it.
        as_json: print JSON.

    Returns:
        1 if it failed, else 0.

    Raises:
        click.UsageError: it cannot be simulated, or a server that runs already not be counted.
    """
    name = found.name
    with programs.running(name), redirect_stdout(sys.stderr):
        try:
            outcome = subject.repeat(found)
        except (SimulationError, NoServerError, CountError) as error:
            text = str(error).replace('target="tcp"', "--target tcp")
            raise click.UsageError(f"{name}: {text}") from None
    differs = None
    if found.trace and found.trace != outcome.trace:
        differs = _why(found)
    programs.check_simulated(name, outcome.error, line)
    failed = outcome.error is not None
    if as_json:
        run = {
            "line": found.line,
            "program": name,
            "trace": outcome.trace,
            "same_run": differs is None if found.trace else None,
            "differs_by": None if differs is None else differs.cause,
            "failed": failed,
            **(outcome_to_json(outcome) if failed else {}),
        }
        render.emit_json({"clean": not failed, "runs": [run]})
    else:
        _show(name, outcome, differs)
    return int(failed)


def _why(found: Replay) -> Difference:
    """Return the likely cause why a run is another one than the recorded run."""
    if found.kind == PROGRAM:
        return why_it_differs(found.name, found, timeout=programs.FRESH_SECONDS)
    # A fresh process knows how to start a program, and no server.
    return Difference("unknown", _CHANGED, ())


def _show(name: str, outcome: Outcome, differs: Difference | None) -> None:
    console = render.stdout()
    if outcome.error is None:
        console.print(Text.assemble(("clean", render.GOOD), f": {name} does not fail"))
    else:
        console.print(Text.assemble(("failed", render.BAD), f": {name}"))
        show_outcome(console, outcome)
    if differs is not None:
        why = f"{differs}" if differs.cause in _NAMED else _CHANGED
        console.print(f"another run than the file's: {why}", soft_wrap=True)
