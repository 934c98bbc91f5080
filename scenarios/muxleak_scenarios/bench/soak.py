"""Runs random sequences one after the other, for very many connections, and measures the growth.

Every sequence is checked; memory, allocated blocks and garbage are measured after each tenth.
"""

# - The garbage collector is off, so that garbage in reference cycles is counted and not silently
#   freed. It is collected after each batch, since millions of connections would fill the memory.
# - Growth is counted from the second tenth on. The first fills caches: compiled code, interned
#   strings, the allocator's arenas.
# - Two counts, since each alone misleads. Resident memory also grows by fragmentation, and libc
#   returns it to the system or not; allocated blocks are exact, but leave out memory of C
#   libraries. The limits allow for bounded caches.

from __future__ import annotations

import ctypes
import gc
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from muxleak_scenarios.bench.measure import resident
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
"""Bytes by which the resident memory may vary."""
BLOCKS = 10_000
"""Allocated blocks that bounded caches may hold; uvloop's cache of addresses is the largest."""
_BATCH = 2000
"""Connections after which garbage in cycles is counted and freed."""


class Tenth(NamedTuple):
    """A tenth of the connections.

    Attributes:
        connections: number of connections up to its end.
        seconds: seconds of CPU for one connection.
        garbage: objects in reference cycles for each connection.
        blocks: blocks that Python had allocated at its end.
        resident: bytes of the process in memory at its end; None if the platform cannot tell.
    """

    connections: int
    seconds: float
    garbage: float
    blocks: int
    resident: int | None


@dataclass(slots=True)
class Soaked:
    """Result of a soak.

    Attributes:
        tenths: the measurements.
        connections: number of connections made.
        sequences: number of sequences run.
        violation: the first violated property; "" if every property held.
        sequence: the sequence that violated it.
    """

    tenths: list[Tenth] = field(default_factory=list)
    connections: int = 0
    sequences: int = 0
    violation: str = ""
    sequence: Sequence | None = None

    @property
    def grown(self) -> int:
        """Bytes by which the process has grown since the second tenth."""
        sizes = [tenth.resident for tenth in self.tenths[1:] if tenth.resident is not None]
        return sizes[-1] - sizes[0] if sizes else 0

    @property
    def blocks(self) -> int:
        """Allocated blocks by which Python has grown since the second tenth."""
        counts = [tenth.blocks for tenth in self.tenths[1:]]
        return counts[-1] - counts[0] if counts else 0

    @property
    def flat(self) -> bool:
        """True if every property held and the memory did not grow beyond the limits."""
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
    """Run random sequences until enough connections were made, or a property is violated.

    Args:
        lifecycle: makes the variant of the server for each sequence.
        connections: number of connections.
        seed: of the random sequences.
        target: makes the target for each sequence.
        virtual: True if the target runs on virtual time.
        progress: called with the number of connections so far; True ends the soak.
    """
    random = Random(seed)  # noqa: S311 - a reproducible search, no secret
    found = Soaked()
    stopped = False
    # Frozen objects, all that were imported so far, are left out of every later collection.
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
                ended = progress is not None and progress(found.connections)
                stopped = ended or bool(outcome.violations)
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
    # glibc keeps a varying number of freed megabytes; returned to the system, they do not count as
    # growth. Other C libraries have no such call, and without /proc the memory is not measured.
    if resident() is not None:
        with suppress(AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
