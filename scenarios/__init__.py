"""Joins vless and harness: connection sequences, properties, worlds, the registry of pairs.

Names are imported when they are asked for: what runs a sequence need not wait for what draws one.
"""

from typing import TYPE_CHECKING

from harness.lazy import lazily

if TYPE_CHECKING:
    from scenarios.check import ViolationError, check_sequence
    from scenarios.outcome import PROPERTIES, Outcome, Violation
    from scenarios.registry import Pair, find_pair, load_pairs
    from scenarios.runner import run_sequence
    from scenarios.search import Found, find_violation
    from scenarios.simulated import SimWorld
    from scenarios.steps import Sequence, Step
    from scenarios.strategies import sequences
    from scenarios.tcp import TcpWorld
    from scenarios.worlds import World

__all__ = [
    "PROPERTIES",
    "Found",
    "Outcome",
    "Pair",
    "Sequence",
    "SimWorld",
    "Step",
    "TcpWorld",
    "Violation",
    "ViolationError",
    "World",
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
        "check": "ViolationError check_sequence",
        "outcome": "PROPERTIES Outcome Violation",
        "registry": "Pair find_pair load_pairs",
        "runner": "run_sequence",
        "search": "Found find_violation",
        "simulated": "SimWorld",
        "steps": "Sequence Step",
        "strategies": "sequences",
        "tcp": "TcpWorld",
        "worlds": "World",
    },
)
