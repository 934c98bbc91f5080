"""Joins vless and harness: connection sequences, properties, worlds, the registry of pairs.

Names are imported when they are asked for: what runs a sequence need not wait for what draws one.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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

_HOMES = {
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
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"scenarios.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
