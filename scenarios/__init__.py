"""Joins vless and harness: connection sequences, properties, worlds, the registry of pairs."""

from scenarios.registry import Pair, find_pair, load_pairs
from scenarios.runner import PROPERTIES, Outcome, Violation, run_sequence
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
    "World",
    "find_pair",
    "find_violation",
    "load_pairs",
    "run_sequence",
    "sequences",
]
