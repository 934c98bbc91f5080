"""Very many connections, one random sequence after the other: what is left, does it grow?

With the collector off, so that what only it could free shows. One tenth is compared with the next.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from muxleak_scenarios.bench.leaked import resident
from muxleak_scenarios.sequence.decoder import STEPS, WIDTH, decode
from muxleak_scenarios.targets.run import run_sequence
from muxleak_scenarios.targets.simulated import SimTarget

if TYPE_CHECKING:
    from collections.abc import Callable

    from muxleak_scenarios.sequence.steps import Sequence
    from muxleak_scenarios.targets.target import Target
    from muxleak_vless import Lifecycle

TENTHS = 10
SLACK = 4 * 1024 * 1024
"""Bytes by which the memory may move about."""
BLOCKS = 10_000
"""Allocated blocks that bounded caches may come to: uvloop's, of addresses, is the largest."""
_BATCH = 2000
"""Connections after which what only the collector can free is counted, and freed."""


class Tenth(NamedTuple):
    """A share of the connections: what one cost, in seconds of CPU, and what was alive.

    ``garbage`` counts the objects in reference cycles per connection; ``blocks`` those that Python
    has allocated, and ``resident`` the memory of the process in bytes, None where it cannot be
    asked, both at its end.
    """

    connections: int
    seconds: float
    garbage: float
    blocks: int
    resident: int | None


@dataclass(slots=True)
class Soaked:
    """What so many connections came to; ``violation`` names the first, ``sequence`` what did it."""

    tenths: list[Tenth] = field(default_factory=list)
    connections: int = 0
    sequences: int = 0
    violation: str = ""
    sequence: Sequence | None = None

    @property
    def grown(self) -> int:
        """By how many bytes the process has grown since its second tenth."""
        sizes = [tenth.resident for tenth in self.tenths[1:] if tenth.resident is not None]
        return sizes[-1] - sizes[0] if sizes else 0

    @property
    def blocks(self) -> int:
        """By how many allocated blocks Python has grown since the second tenth."""
        counts = [tenth.blocks for tenth in self.tenths[1:]]
        return counts[-1] - counts[0] if counts else 0

    @property
    def flat(self) -> bool:
        """Whether nothing was left, and the memory stayed as it was."""
        return not self.violation and self.grown <= SLACK and self.blocks <= BLOCKS

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "connections": self.connections,
            "sequences": self.sequences,
            "flat": self.flat,
            "grown": self.grown,
            "blocks": self.blocks,
            "tenths": [tenth._asdict() for tenth in self.tenths],
            "violation": self.violation or None,
            "sequence": None if self.sequence is None else str(self.sequence),
        }


def soak(
    lifecycle: Callable[[], Lifecycle],
    connections: int,
    *,
    seed: int = 0,
    target: Callable[[Lifecycle], Target] = SimTarget,
    virtual: bool = True,
    progress: Callable[[int], bool] | None = None,
) -> Soaked:
    """Run random sequences until there were so many connections, or a property is violated.

    ``progress`` hears of the connections so far; a true answer ends it.
    """
    random = Random(seed)  # noqa: S311 - a reproducible search, no secret
    found = Soaked()
    stopped = False
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        for tenth in range(1, TENTHS + 1):
            began, first, garbage, batch = time.process_time(), found.connections, 0, 0
            while found.connections < connections * tenth // TENTHS and not stopped:
                sequence = decode(random.randbytes(WIDTH * STEPS), virtual=virtual)
                outcome = run_sequence(sequence, lifecycle(), target)
                found.sequences += 1
                found.connections += outcome.connections
                batch += outcome.connections
                if outcome.violations:
                    found.violation, found.sequence = str(outcome.violations[0]), sequence
                if batch >= _BATCH:
                    garbage, batch = garbage + gc.collect(), 0
                told = progress is not None and progress(found.connections)
                stopped = told or bool(outcome.violations)
            done = max(found.connections - first, 1)
            spent = (time.process_time() - began) / done
            garbage += gc.collect()
            _trim()
            alive = sys.getallocatedblocks(), resident()
            found.tenths.append(Tenth(found.connections, spent, garbage / done, *alive))
            if stopped:
                break
    finally:
        gc.enable()
        gc.unfreeze()
    return found


def _trim() -> None:
    # glibc keeps megabytes of what was freed, now more and now less: given back, they do not count.
    # Other C libraries have no such call; where there is no /proc, nobody asks for the memory.
    if resident() is not None:
        with suppress(AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
