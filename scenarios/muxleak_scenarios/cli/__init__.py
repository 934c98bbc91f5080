"""The command line: joins muxleak, muxleak_vless and muxleak_scenarios into a program."""

# Results go to stdout, in text or with --json as JSON; progress and notes go to stderr. So a pipe
# or a file has the result alone, and a terminal shows both.
#
# The commands are imported when they are run (see `lazy_group`). The modules imported here are
# those that every command needs, and no others: a shell that completes a word starts the program at
# every press of the key, and waits for it.
#
# Exit codes: 0 and 1 are answers (no, there is a leak), 2 and above are not. A search that found
# nothing because it was interrupted, or whose output did not arrive, must not look like an answer:
# a script that reads 0 would take the code for clean, and one that reads 1 for leaking.

from __future__ import annotations

import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import click

from muxleak import __version__
from muxleak_scenarios.cli import interrupt, stdout
from muxleak_scenarios.cli.lazy_group import LazyCommand, LazyGroup

if TYPE_CHECKING:
    from collections.abc import Sequence

_SEE, _FIND, _PROVE = "See a known leak", "Find leaks", "Check muxleak itself"
COMMANDS = {
    "reproduce": LazyCommand(
        "reproduce", _SEE, "Show one bug end to end, from its symptom to its fix."
    ),
    "list": LazyCommand("pairs", _SEE, "List the pairs: bugs with a buggy and a fixed variant."),
    "show": LazyCommand(
        "pairs", _SEE, "Show one pair: facts, story, diff, and the steps that show it."
    ),
    "serve": LazyCommand(
        "serve", _SEE, "Serve a version or pair on a port, with its tasks counted live."
    ),
    "fuzz": LazyCommand(
        "fuzz", _FIND, "Search for a sequence that violates a property; shrink it."
    ),
    "replay": LazyCommand(
        "replay", _FIND, "Run a line of steps, or a program or server of yours, once more."
    ),
    "hunt": LazyCommand("hunt", _FIND, "Search a running VLESS server for sequences that leak."),
    "soak": LazyCommand("soak", _FIND, "Make very many connections; check that nothing grows."),
    "verify": LazyCommand("verify", _PROVE, "Prove every claim made of the pairs, one line each."),
    "bench": LazyCommand(
        "bench", _PROVE, "Measure the costs of muxleak beside those of its alternatives."
    ),
    "corpus": LazyCommand(
        "corpus_group",
        _PROVE,
        "See and prove the corpus of real leaks in asyncio programs.",
    ),
    "self": LazyCommand(
        "self_group",
        _PROVE,
        "Prove the properties, controls and figures of muxleak.",
    ),
}
"""The commands, in the order of the help."""


def _version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:  # noqa: FBT001 - click's signature
    if wanted and not ctx.resilient_parsing:
        click.echo(f"muxleak {__version__}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    lazy=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:
  muxleak reproduce                  see the bug, and its fix
  muxleak show 2421                  read about it; a beginning is enough
  muxleak serve --version V1         point a real client at the leak
  muxleak fuzz myserver.sim:main     find leaks of a program of yours
  muxleak reproduce --json | jq .growth

\b
Exit codes: 0 clean, 1 leak found or claim failed, 2 bad usage;
  74 its output cannot be written, 75 a hunt could not measure, 130 interrupted with nothing found,
  141 the reader of its output has gone.""",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """Reproduce, prove fixed and find task leaks of connection servers."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: words of the command line; None takes those of the process.

    Returns:
        The exit code: that of the command, or one that says that its output did not arrive.
    """
    return stdout.guarded(partial(_run, arguments))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        return int(cli.main(arguments, standalone_mode=False) or 0)
    except click.ClickException as error:
        # A message that cannot be written leaves the exit code as it is.
        with suppress(OSError):
            error.show()
        return error.exit_code


def main() -> None:
    """Run the console script ``muxleak``."""
    interrupt.install()
    sys.exit(run())
