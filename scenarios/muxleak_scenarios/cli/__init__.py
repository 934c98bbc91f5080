"""The command line: the one place that joins harness, scenarios and vless into a program.

A command's module is imported when the command is asked for, so that the program starts at once.
Results go to stdout; progress and notes go to stderr.
"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import click

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
        "replay", _FIND, "Run a line of steps, or a program of yours, once more."
    ),
    "hunt": LazyCommand("hunt", _FIND, "Search a running VLESS server for sequences that leak."),
    "soak": LazyCommand("soak", _FIND, "Make very many connections; see whether anything grows."),
    "verify": LazyCommand("verify", _PROVE, "Prove every claim made of the pairs, one line each."),
    "bench": LazyCommand(
        "bench", _PROVE, "Measure what it costs, beside what it is an alternative to."
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
        from importlib import metadata  # noqa: PLC0415 - a sixth of the time of this import

        try:
            version = metadata.version("muxleak")
        except metadata.PackageNotFoundError:
            version = "(run from its source, not installed)"
        click.echo(f"muxleak {version}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    lazy=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:
  muxleak reproduce                  see the bug, and its fix
  muxleak verify                     prove every claim made here
  muxleak serve --version V1         point a real client at the leak
  muxleak fuzz myserver.sim:main     find what leaks in a program of yours
  muxleak reproduce --json | jq .growth

\b
Exit codes: 0 clean, 1 leak found or claim failed, 2 bad usage;
  74 its output cannot be written, 130 interrupted with nothing found,
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
    """Run the program and return its exit code, which tells of output that cannot be written."""
    # Its servers are hostile on purpose; what is logged of them is asked for where it helps.
    for name in ("muxleak_vless", "muxleak"):
        logging.getLogger(name).addHandler(logging.NullHandler())
    return stdout.guarded(partial(_run, arguments))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        return int(cli.main(arguments, standalone_mode=False) or 0)
    except click.ClickException as error:
        with suppress(OSError):
            error.show()
        return error.exit_code


def main() -> None:
    """Run the program: the console script."""
    interrupt.install()
    sys.exit(run())
