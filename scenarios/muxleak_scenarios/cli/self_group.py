"""``muxleak self``: proofs about muxleak itself, of no use for the server of a user."""

# `muxleak verify` proves that the pairs are as described. These commands prove that the means of
# that proof can be trusted: that the properties notice wrong answers (mutants), that they flag
# nothing else (controls), and that the versions leak as the originals did (versions).

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
