"""Replay lines of pairs and versions: the text that identifies a run, by server and steps."""

#   PAIR[/VARIANT] STEPS     or     VERSION STEPS     and, in files,     # COMMENT
#
# Examples are `live_id_reused/fixed a:open a:close` and `V1 a:open a:close`. Without VARIANT it is
# the buggy one; a wrong fix is `PAIR/wrong_NAME`. The words `fixed` and `reference` are other names
# of the version REF. In a file, the comment of a line may state an expectation, which a replay
# checks: `# expect: clean` or `# expect: violated tasks`. Without it, nothing is expected.
#
# The line is complete: with the gaps and the network's decisions in the steps it needs no seed, and
# it gives the same run in another process, under another hash seed and on another Python.

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from muxleak.files import shown
from muxleak_scenarios.pairs.registry import (
    AmbiguousPairError,
    UnknownPairError,
    did_you_mean,
    find_pair,
    load_pairs,
)
from muxleak_scenarios.pairs.subject import SequenceSubject
from muxleak_scenarios.sequence.shrinking import is_connected
from muxleak_scenarios.sequence.steps import Sequence
from muxleak_scenarios.targets.run import run_sequence
from muxleak_scenarios.targets.simulated import SimTarget
from muxleak_vless.versions import VERSIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from muxleak.sim.replay import Replay
    from muxleak_scenarios.sequence.properties import SequenceOutcome
    from muxleak_scenarios.targets.target import Target
    from muxleak_vless import Lifecycle

EXPECT = "expect"
_REFERENCE = {"FIXED", "REFERENCE"}


class SequenceReplay(NamedTuple):
    """A server and a sequence to run against it. `str` gives its line.

    Attributes:
        name: of a pair or a version.
        variant: one of `Pair.variants`; empty for a version.
        sequence: the steps.
    """

    name: str
    variant: str
    sequence: Sequence

    def __str__(self) -> str:
        return f"{self.subject} {self.sequence}"

    @classmethod
    def parse(cls, line: str, variant: str | None = None) -> SequenceReplay:
        """Read a line; ``variant`` overrides the one it names.

        Raises:
            ValueError: the line is wrong; the message names the word and the expected form.
        """
        name, *steps = line.split() or [""]
        replay = cls(*find_subject(name, variant), Sequence.parse(" ".join(steps)))
        if not steps:
            hint = f", such as {find_pair(replay.name).facts.minimal}" if replay.variant else ""
            raise ValueError(f"expected steps after {name!r}{hint}; got none")
        return replay

    @property
    def subject(self) -> str:
        """The server as a line names it: ``PAIR/VARIANT``, or a version."""
        return f"{self.name}/{self.variant}" if self.variant else self.name

    @property
    def lifecycle(self) -> type[Lifecycle]:
        """The life cycle of the server."""
        return find_pair(self.name).variant(self.variant) if self.variant else VERSIONS[self.name]

    def run(self, target: Callable[[Lifecycle], Target] = SimTarget) -> SequenceOutcome:
        """Run the sequence against a new server.

        Raises:
            ValueError: a step names a connection that no earlier step opened.
        """
        return run_sequence(self.sequence, self.lifecycle(), target)


def recorded_subject(found: Replay) -> SequenceSubject:
    """Return the server of a replay as a subject that can repeat it.

    Raises:
        ValueError: the replay's line is wrong.
    """
    server = SequenceReplay.parse(found.line)
    if not is_connected(server.sequence):
        raise ValueError(f"expected each connection to be opened first, got {shown(found.line)}")
    return SequenceSubject(server.lifecycle, name=server.subject)


class ReplayLine(NamedTuple):
    """A line of a replay file.

    Attributes:
        number: of the line, from 1.
        text: the replay, without its comment.
        expected: "clean", "violated" with properties, or empty if the file states nothing.
    """

    number: int
    text: str
    expected: str


def read_lines(text: str) -> Iterator[ReplayLine]:
    """Yield the replays of a file; skip empty lines and comments."""
    for number, whole in enumerate(text.splitlines(), 1):
        line, _, comment = whole.partition("#")
        if line := line.strip():
            label, _, expected = comment.strip().partition(": ")
            yield ReplayLine(number, line, expected.strip() if label == EXPECT else "")


def expectation(outcome: SequenceOutcome) -> str:
    """Return the expectation that describes an outcome, as a file states it."""
    return " ".join(("violated", *outcome.violated)) if outcome.violations else "clean"


def find_version(name: str) -> str | None:
    """Return the key of `VERSIONS` for a name in any case; None if there is none."""
    name = "REF" if name.upper() in _REFERENCE else name.upper()
    return name if name in VERSIONS else None


def find_subject(word: str, variant: str | None) -> tuple[str, str]:
    """Return the name and the variant that a line's first word means; no variant for a version.

    Raises:
        ValueError: the word means none; the message lists the expected words.
    """
    name, slash, named = word.partition("/")
    if version := find_version(name):
        if slash or variant:
            raise ValueError(
                f"{shown(word)}: expected no variant, since a version has none; leave it out"
            )
        return version, ""
    try:
        pair = find_pair(name)
    except AmbiguousPairError:
        raise
    except UnknownPairError:
        pairs = load_pairs()
        hint = did_you_mean(name, (*pairs, *VERSIONS))
        raise ValueError(
            f"expected a pair ({', '.join(pairs)}) or a version ({', '.join(VERSIONS)}); "
            f"got {shown(name)}{hint}"
        ) from None
    variant = variant or (named if slash else "buggy")
    if variant not in pair.variants:
        *others, last = (f"/{each}" for each in pair.variants)
        hint = did_you_mean(variant, pair.variants)
        raise ValueError(
            f"{shown(word)}: expected {', '.join(others)} or {last} after the pair; "
            f"got {shown(variant)}{hint}"
        )
    return pair.slug, variant
