"""A group of commands whose modules are imported when one of them is run."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# To list the commands with their own help texts, `--help` would have to import every one of them,
# with rich, asyncio and the registry of pairs: about ten times as long as the list itself takes.
# So the first sentence of each help stands in a table beside its name, and a test compares both. A
# shell that completes a command runs the program at every press of the key, and uses the same
# table.
#
# click's group is kept for all else. Only the methods that would import a command, or answer an
# unknown one without the nearest name, are replaced.


_NARROWEST, _WIDEST = 30, 80
_FIRST_COLUMN = 12


class NarrowFormatter(click.HelpFormatter):
    """Writes help that fits a narrow terminal: names on a line of their own, meanings below."""

    def write_dl(
        self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2
    ) -> None:
        """Write names and their meanings in two columns."""
        narrow = self.width < 2 * col_max
        super().write_dl(list(rows), _FIRST_COLUMN if narrow else col_max, col_spacing)


class NarrowContext(click.Context):
    """A context whose help is as wide as the terminal, up to 78 columns."""

    def make_formatter(self) -> click.HelpFormatter:
        """Return the formatter of the help."""
        # Not above, for the time that it takes: `--version` writes no help.
        from shutil import get_terminal_size  # noqa: PLC0415

        # Left to itself, click writes 50 columns on every terminal that is narrower.
        columns = get_terminal_size().columns
        return NarrowFormatter(width=max(_NARROWEST, min(columns, _WIDEST) - 2))


class LazyCommand(NamedTuple):
    """A command before it is imported.

    Attributes:
        module: the module of `muxleak_scenarios.cli` that holds it, under its name and "_command".
        section: the heading that it stands under in the help of its group.
        summary: the first sentence of its help.
    """

    module: str
    section: str
    summary: str


class LazyGroup(click.Group):
    """Commands by name, listed under headings.

    Args:
        lazy: the commands by name, in the order in which they are listed.
        settings: the other arguments of `click.Group`.
    """

    def __init__(self, *, lazy: Mapping[str, LazyCommand], **settings: Any) -> None:
        super().__init__(**settings)
        self.lazy = lazy

    context_class = NarrowContext

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        del ctx
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command and return it, or return None if there is none of that name."""
        del ctx
        if (entry := self.lazy.get(cmd_name)) is None:
            return None
        _prepare()
        module = import_module(f"muxleak_scenarios.cli.{entry.module}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        command.context_class = NarrowContext
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the first argument names.

        Raises:
            click.UsageError: there is none; the message names the nearest.
        """
        name = args[0]
        if name in self.lazy or name.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        # The registry of pairs takes longer to import than all of this program until here.
        from muxleak_scenarios.pairs.registry import did_you_mean  # noqa: PLC0415

        hint = did_you_mean(name, self.lazy)
        raise click.UsageError(f"expected one of {', '.join(self.lazy)}; got {name!r}{hint}", ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands with their summaries, section by section."""
        del ctx
        # One width for all sections, so that the summaries stand below each other.
        width = max(map(len, self.lazy))
        for section in dict.fromkeys(entry.section for entry in self.lazy.values()):
            with formatter.section(section):
                formatter.write_dl(
                    [
                        (f"{name:<{width}}", entry.summary)
                        for name, entry in self.lazy.items()
                        if entry.section == section
                    ]
                )

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the commands and options that begin so, for a shell."""
        names = [name for name in self.lazy if name.startswith(incomplete)]
        found = [CompletionItem(name, help=self.lazy[name].summary) for name in names]
        # Not `click.Group.shell_complete`, which would import the commands for their summaries.
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]


@cache
def _prepare() -> None:
    """Import and set what every command needs, and the help does not."""
    import logging  # noqa: PLC0415
    from pathlib import Path  # noqa: PLC0415

    from muxleak.introspect import sites  # noqa: PLC0415

    # Creation sites are about the program under test, so the command line is left out of them.
    sites.hide(str(Path(__file__).parent))
    # Clients here send malformed frames on purpose, and a server logs each as a warning, which
    # Python prints if nothing handles it. `serve --verbose` asks for the log.
    for name in ("muxleak_vless", "muxleak"):
        logging.getLogger(name).addHandler(logging.NullHandler())
