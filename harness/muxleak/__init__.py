"""Counting, settling and reporting. Knows no protocol.

Names are imported when they are asked for: whoever installs this gets a pytest plugin with it, and
a test run that does not use it should not wait for it.
"""

from typing import TYPE_CHECKING

from muxleak.lazy import lazily

if TYPE_CHECKING:
    from muxleak.checks.growth import Growth, GrowthReport, measure_growth
    from muxleak.checks.ignores import (
        Ignore,
        ignore_created_by,
        ignore_current,
        ignore_name,
        ignore_waiting_in,
    )
    from muxleak.checks.no_leaks import LeakCheck, no_leaks
    from muxleak.checks.report import LeakError, LeakReport
    from muxleak.checks.scope_check import check_scope
    from muxleak.checks.settle import settle
    from muxleak.ledger.counters import Scope
    from muxleak.ledger.kinds import KINDS
    from muxleak.ledger.ledger import Ledger
    from muxleak.monitor import Monitor
    from muxleak.search.search import find_leaks
    from muxleak.sim.memory_transport import memory_pair
    from muxleak.sim.simulate import simulate
    from muxleak.sim.virtual_loop import VirtualLoop

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
        "checks.growth": "Growth GrowthReport measure_growth",
        "checks.ignores": "Ignore ignore_created_by ignore_current ignore_name ignore_waiting_in",
        "checks.no_leaks": "LeakCheck no_leaks",
        "checks.report": "LeakError LeakReport",
        "checks.scope_check": "check_scope",
        "checks.settle": "settle",
        "ledger.kinds": "KINDS",
        "ledger.ledger": "Ledger",
        "ledger.counters": "Scope",
        "monitor": "Monitor",
        "search.search": "find_leaks",
        "sim.memory_transport": "memory_pair",
        "sim.simulate": "simulate",
        "sim.virtual_loop": "VirtualLoop",
    },
)
