"""Connection sequences against the server of `muxleak_vless`, checked with `muxleak`.

The rooms, each of which imports only those before it: `sequence` (steps, notation, decoder, client
model, properties), `targets` (simulated network, loopback TCP), `pairs` (registry, search, proof),
`hunt` (remote servers), `real` (sing-box beside ours), `bench`, and `cli` (the command).
"""

# Names are imported on first use, so that running a sequence does not import Hypothesis.

from typing import TYPE_CHECKING

from muxleak.lazy import lazily

if TYPE_CHECKING:
    from muxleak_scenarios.pairs.check import check_sequence
    from muxleak_scenarios.pairs.registry import Pair, find_pair, load_pairs
    from muxleak_scenarios.pairs.search import find_violation
    from muxleak_scenarios.sequence.properties import (
        PROPERTIES,
        SequenceOutcome,
        Violation,
        ViolationError,
    )
    from muxleak_scenarios.sequence.steps import Sequence, Step
    from muxleak_scenarios.sequence.strategies import sequences
    from muxleak_scenarios.targets.run import run_sequence
    from muxleak_scenarios.targets.simulated import SimTarget
    from muxleak_scenarios.targets.target import Target
    from muxleak_scenarios.targets.tcp import TcpTarget

__all__ = [
    "PROPERTIES",
    "Pair",
    "Sequence",
    "SequenceOutcome",
    "SimTarget",
    "Step",
    "Target",
    "TcpTarget",
    "Violation",
    "ViolationError",
    "check_sequence",
    "find_pair",
    "find_violation",
    "load_pairs",
    "run_sequence",
    "sequences",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "pairs.check": "check_sequence",
        "pairs.registry": "Pair find_pair load_pairs",
        "pairs.search": "find_violation",
        "sequence.properties": "PROPERTIES SequenceOutcome Violation ViolationError",
        "sequence.steps": "Sequence Step",
        "sequence.strategies": "sequences",
        "targets.run": "run_sequence",
        "targets.simulated": "SimTarget",
        "targets.target": "Target",
        "targets.tcp": "TcpTarget",
    },
)
