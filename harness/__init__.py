"""Counting, settling and reporting. Knows no protocol.

Names are imported when they are asked for: whoever installs this gets a pytest plugin with it, and
a test run that does not use it should not wait for it.
"""

from typing import TYPE_CHECKING

from harness.lazy import lazily

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

__getattr__, __dir__ = lazily(
    __name__,
    {
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
    },
)
