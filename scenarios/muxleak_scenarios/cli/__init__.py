"""The command line: the one place that joins harness, scenarios and vless into a program.

A command's module is imported when the command is asked for, so that the program starts at once.
Results go to stdout; progress and notes go to stderr.
"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import click

from muxleak.introspect import sites
from muxleak_scenarios.cli import interrupt, stdout

if TYPE_CHECKING:
    from collections.abc import Sequence

# Creation sites show the frames of the program under test, not those of its driver.
sites.hide(str(Path(__file__).parent))

MODULES = {
    "reproduce": "reproduce",
    "list": "pairs",
    "show": "pairs",
    "verify": "verify",
    "fuzz": "fuzz",
    "replay": "replay",
    "soak": "soak",
    "bench": "bench",
    "serve": "serve",
    "hunt": "hunt",
}
"""Where each command is: in its module, under its name and ``_command``."""


class Commands(click.Group):
    """The commands by name, in the order of the story."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return their names."""
        del ctx
        return list(MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one, or return None if there is none of that name."""
        del ctx
        if cmd_name not in MODULES:
            return None
        module = import_module(f"muxleak_scenarios.cli.{MODULES[cmd_name]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command


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
    cls=Commands,
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
