"""Counting, settling and reporting. Knows no protocol.

Names are imported when they are asked for: whoever installs this gets a pytest plugin with it, and
a test run that does not use it should not wait for it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# The one name that a module has, too: were it not bound now, the module would stand in its place.
from harness.settle import settle

if TYPE_CHECKING:
    from harness.check import check_scope
    from harness.entry import LeakCheck, no_leaks
    from harness.growth import Growth, GrowthReport, measure_growth
    from harness.ignores import (
        Ignore,
        ignore_created_by,
        ignore_current,
        ignore_name,
        ignore_waiting_in,
    )
    from harness.kinds import KINDS
    from harness.ledger import Ledger
    from harness.loop import VirtualLoop
    from harness.memory import memory_pair
    from harness.monitor import Monitor
    from harness.report import LeakError, LeakReport
    from harness.scope import Scope
    from harness.sim.search import find_leaks
    from harness.sim.simulate import simulate

__all__ = [
    "KINDS",
    "Growth",
    "GrowthReport",
    "Ignore",
    "LeakCheck",
    "LeakError",
    "LeakReport",
    "Ledger",
    "Monitor",
    "Scope",
    "VirtualLoop",
    "check_scope",
    "find_leaks",
    "ignore_created_by",
    "ignore_current",
    "ignore_name",
    "ignore_waiting_in",
    "measure_growth",
    "memory_pair",
    "no_leaks",
    "settle",
    "simulate",
]

_HOMES = {
    "check": "check_scope",
    "entry": "LeakCheck no_leaks",
    "growth": "Growth GrowthReport measure_growth",
    "ignores": "Ignore ignore_created_by ignore_current ignore_name ignore_waiting_in",
    "kinds": "KINDS",
    "ledger": "Ledger",
    "loop": "VirtualLoop",
    "memory": "memory_pair",
    "monitor": "Monitor",
    "report": "LeakError LeakReport",
    "scope": "Scope",
    "sim": "find_leaks simulate",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"harness.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
