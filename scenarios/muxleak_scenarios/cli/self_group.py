"""``muxleak self``: proofs about muxleak itself, of no use for the server of a user."""

from __future__ import annotations

import click

from muxleak_scenarios.cli import params
from muxleak_scenarios.cli.lazy_group import LazyCommand, LazyGroup

COMMANDS = {
    "mutants": LazyCommand(
        "mutants", "Commands", "Show which property kills each mutant of the reference."
    ),
    "controls": LazyCommand(
        "controls", "Commands", "Show that servers which look as if they leaked are not flagged."
    ),
    "versions": LazyCommand(
        "go_comparison", "Commands", "Compare the historical versions with the Go originals."
    ),
}


@click.group(
    "self",
    cls=LazyGroup,
    lazy=COMMANDS,
    epilog=params.examples(
        "self mutants --sequences 20",
        "self versions --json | jq .holds",
    ),
)
def self_command() -> None:
    """Prove the properties, controls and figures of muxleak."""
