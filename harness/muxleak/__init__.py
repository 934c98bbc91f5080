"""Finds leaks of asyncio programs: tasks and other resources that outlive the code that made them.

The package knows no protocol. Start with `no_leaks` for a block or a function, `measure_growth` for
an operation that is repeated, `simulate` and `find_leaks` for a program on virtual time, and
`Monitor` for a service in operation.
"""

# Names are imported when they are first used (PEP 562). A distribution that installs this one gets
# its pytest plugin too, and pytest imports this package with it; a test run that does not use the
# plugin must not wait for the simulator. For the same reason a name loads only the rooms below its
# own: `no_leaks` imports `introspect`, `ledger` and `checks`, but neither `sim`, `search`,
# `server`, `monitor` nor `plugin`. Imports between the rooms run in this order only, also those for
# type checkers: introspect < ledger < checks < sim < search < server < (plugin, monitor).
#
# Type checkers and editors do not follow `__getattr__`, so they get the same names by imports that
# never run. A new name goes into three places: the block for type checkers, `__all__`, and the
# table at the end. Names that need Hypothesis stay out of `__all__`, so that `import *` works
# without it; type checkers know them by an `as`.

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
    from muxleak.introspect.sites import add_wrappers
    from muxleak.ledger.counters import Scope
    from muxleak.ledger.kinds import KINDS
    from muxleak.ledger.ledger import Ledger
    from muxleak.monitor import Monitor
    from muxleak.search.example_loops import CallTimeoutError
    from muxleak.search.machine import ServerMachine as ServerMachine
    from muxleak.search.machine import closes as closes
    from muxleak.search.program import find_leaks
    from muxleak.server.check import check_server
    from muxleak.sim.memory_transport import memory_pair
    from muxleak.sim.simulate import simulate
    from muxleak.sim.virtual_loop import VirtualLoop

__version__ = "0.1.0"

__all__ = [
    "KINDS",
    "CallTimeoutError",
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
    "add_wrappers",
    "check_scope",
    "check_server",
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
        "introspect.sites": "add_wrappers",
        "ledger.kinds": "KINDS",
        "ledger.ledger": "Ledger",
        "ledger.counters": "Scope",
        "monitor": "Monitor",
        "search.example_loops": "CallTimeoutError",
        "search.machine": "ServerMachine closes",
        "search.program": "find_leaks",
        "server.check": "check_server",
        "sim.memory_transport": "memory_pair",
        "sim.simulate": "simulate",
        "sim.virtual_loop": "VirtualLoop",
    },
)
