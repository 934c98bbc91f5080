"""`check_sequence`: runs a sequence in a test, and fails with the command that replays it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from muxleak_scenarios.pairs.registry import load_pairs
from muxleak_scenarios.sequence.properties import ViolationError
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

# The targets that an option of `muxleak replay` names. A partial or a class of a test's own has
# none.
_TARGETS: dict[object, tuple[str, ...]] = {SimTarget: (), TcpTarget: ("--target", "tcp")}


def check_sequence(
    sequence: Sequence,
    lifecycle: Callable[[], Lifecycle],
    target: Callable[[Lifecycle], Target] = SimTarget,
) -> SequenceOutcome:
    """Run a sequence against a server, and raise an error if it violates a property.

    Args:
        sequence: the steps, such as a draw from `sequences` in a ``@given`` test.
        lifecycle: makes the life cycle of the server: a version, a variant of a pair, or your own.
        target: makes the target that hosts the server.

    Returns:
        The outcome, which has no violation.

    Raises:
        ViolationError: a property was violated. A note has the command that replays the sequence;
            in a failing Hypothesis test, that is the shrunk sequence.
        ValueError: a step names a connection that no earlier step opened.
    """
    outcome = run_sequence(sequence, lifecycle(), target)
    if outcome.violations:
        error = ViolationError(outcome)
        error.add_note(f"replay with: {how_to_replay(sequence, lifecycle, target)}")
        raise error
    return outcome


def how_to_replay(sequence: Sequence, lifecycle: object, target: object = SimTarget) -> str:
    """Return the command that runs a sequence again, or a call if no command names that server."""
    subject, target = _subjects().get(lifecycle), _TARGETS.get(target)
    if subject is None or target is None:
        return f"muxleak_scenarios.check_sequence({sequence!r}, ...)"
    return shlex.join(["muxleak", "replay", *target, f"{subject} {sequence}"])


def _subjects() -> dict[object, str]:
    """Return the name in a replay line of each life cycle that has one."""
    variants: dict[object, str] = {
        pair.variant(variant): f"{slug}/{variant}"
        for slug, pair in load_pairs().items()
        for variant in pair.variants
    }
    return {**variants, **{each: name for name, each in VERSIONS.items()}}
