"""Holding a sequence against the properties as a test does: an error says how to run it again."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from muxleak_scenarios.pairs.registry import load_pairs
from muxleak_scenarios.sequence.properties import PROPERTIES
from muxleak_scenarios.targets.run import run_sequence
from muxleak_scenarios.targets.simulated import SimTarget
from muxleak_scenarios.targets.tcp import TcpTarget
from muxleak_vless.versions import VERSIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    from muxleak_scenarios.sequence.properties import SequenceOutcome
    from muxleak_scenarios.sequence.steps import Sequence
    from muxleak_scenarios.targets.target import Target
    from muxleak_vless import Lifecycle

_TARGETS: dict[object, tuple[str, ...]] = {SimTarget: (), TcpTarget: ("--target", "tcp")}


class ViolationError(AssertionError):
    """A sequence violates a property; `outcome` has all that it did."""

    def __init__(self, outcome: SequenceOutcome) -> None:
        self.outcome = outcome
        lines = [f"violated: {name}: {PROPERTIES[name]}" for name in outcome.violated]
        lines += [f"  connection {each.connection}: {each.detail}" for each in outcome.violations]
        if outcome.report is not None:
            lines.append(str(outcome.report))
        super().__init__("\n".join(lines))


def check_sequence(
    sequence: Sequence,
    lifecycle: Callable[[], Lifecycle],
    target: Callable[[Lifecycle], Target] = SimTarget,
) -> SequenceOutcome:
    """Run a sequence against a server, and return what it did if every property held.

    Args:
        sequence: what to do, such as one of `sequences` in a ``@given`` test.
        lifecycle: the answers of the server, made afresh: a version or half of a pair, or others.
        target: where to run.

    Raises:
        ViolationError: a property did not hold. A note has the command that runs this again; in a
            failing Hypothesis test, that is the one for the shrunk sequence.
        ValueError: a step names a connection that no earlier step opened.
    """
    outcome = run_sequence(sequence, lifecycle(), target)
    if outcome.violations:
        error = ViolationError(outcome)
        error.add_note(f"replay with: {how_to_replay(sequence, lifecycle, target)}")
        raise error
    return outcome


def how_to_replay(sequence: Sequence, lifecycle: object, target: object = SimTarget) -> str:
    """The command that runs a sequence again; the call where no command knows server or world."""
    subject, target = _subjects().get(lifecycle), _TARGETS.get(target)
    if subject is None or target is None:
        return f"muxleak_scenarios.check_sequence({sequence!r}, ...)"
    return shlex.join(["muxleak", "replay", *target, f"{subject} {sequence}"])


def _subjects() -> dict[object, str]:
    """What the lines of `muxleak_scenarios.pairs.replay` call each server that they know."""
    variants: dict[object, str] = {
        pair.variant(variant): f"{slug}/{variant}"
        for slug, pair in load_pairs().items()
        for variant in pair.variants
    }
    return {**variants, **{each: name for name, each in VERSIONS.items()}}
