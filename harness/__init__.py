"""Counting, settling and reporting. Knows no protocol."""

from harness.ledger import Ledger
from harness.loop import VirtualLoop
from harness.memory import memory_pair
from harness.report import LeakError, LeakReport
from harness.scope import Scope
from harness.settle import settle

__all__ = [
    "LeakError",
    "LeakReport",
    "Ledger",
    "Scope",
    "VirtualLoop",
    "memory_pair",
    "settle",
]
