"""Counting, settling and reporting. Knows no protocol."""

from harness.check import find_leaks
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
from harness.report import LeakError, LeakReport
from harness.scope import Scope
from harness.settle import settle

__all__ = [
    "KINDS",
    "Growth",
    "GrowthReport",
    "Ignore",
    "LeakCheck",
    "LeakError",
    "LeakReport",
    "Ledger",
    "Scope",
    "VirtualLoop",
    "find_leaks",
    "ignore_created_by",
    "ignore_current",
    "ignore_name",
    "ignore_waiting_in",
    "measure_growth",
    "memory_pair",
    "no_leaks",
    "settle",
]
