"""Joins vless and harness: connection sequences, properties, worlds, the registry of pairs."""

from scenarios.check import ViolationError, check_sequence
from scenarios.registry import Pair, find_pair, load_pairs
from scenarios.runner import PROPERTIES, Outcome, Violation, run_sequence
from scenarios.search import Found, find_violation
from scenarios.steps import Sequence, Step
from scenarios.strategies import sequences
from scenarios.tcp import TcpWorld
from scenarios.worlds import MemoryWorld, World

__all__ = [
    "PROPERTIES",
    "Found",
    "MemoryWorld",
    "Outcome",
    "Pair",
    "Sequence",
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
