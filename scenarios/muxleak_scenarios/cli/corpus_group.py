"""``muxleak corpus``: real leaks of asyncio programs, for every leak detector."""

from __future__ import annotations

import click

from muxleak_scenarios.cli import params
from muxleak_scenarios.cli.lazy_group import LazyCommand, LazyGroup

COMMANDS = {
    "list": LazyCommand("corpus", "Commands", "List the cases: real bugs, each with its fix."),
    "show": LazyCommand(
        "corpus", "Commands", "Show one case: facts, story, and the diff of its variants."
    ),
    "run": LazyCommand("corpus", "Commands", "Perform steps at a variant, and check it."),
    "verify": LazyCommand("corpus", "Commands", "Prove every claim made of the cases."),
}


@click.group(
    "corpus",
    cls=LazyGroup,
    lazy=COMMANDS,
    epilog=params.examples(
        "corpus list",
        "corpus show slot_pass_on",
        "corpus run accept_backlog buggy 'open new:1 new:2'",
    ),
)
def corpus_command() -> None:
    """See and prove the corpus of real leaks in asyncio programs."""
