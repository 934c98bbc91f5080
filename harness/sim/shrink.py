"""The one shrinker: makes the bytes of a failing run shorter and smaller while it fails alike.

The plain course is 0 and the end of the bytes, so smaller bytes are a simpler run: fewer steps,
earlier options, no fault, first in, first out.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

_BLOCKS = (64, 32, 16, 8, 6, 5, 4, 3, 2, 1)


class Bytes(NamedTuple):
    """What decides a run: the program's draws and the world's decisions."""

    program: bytes
    world: bytes

    def order(self) -> tuple[object, ...]:
        """Smaller is simpler; the program counts first."""
        return (
            len(self.program),
            len(self.world) - self.world.count(0),
            len(self.world),
            self.program,
            self.world,
        )


Attempt = Callable[[Bytes], Bytes | None]


def shrink(start: Bytes, attempt: Attempt, *, attempts: int = 2_000) -> tuple[Bytes, int]:
    """The simplest failing bytes that could be reached.

    Args:
        start: bytes that fail.
        attempt: runs with the bytes and gives those it really used, in normal form, if it failed in
            the same way; else None.
        attempts: how many runs to spend.

    Returns:
        The bytes, and the runs spent.
    """
    best, spent = start, 0
    seen = {start}
    candidates = _candidates(best)
    while spent < attempts:
        candidate = next(candidates, None)
        if candidate is None:
            break
        if candidate in seen or candidate.order() >= best.order():
            continue
        seen.add(candidate)
        spent += 1
        used = attempt(candidate)
        if used is not None and used.order() < best.order():
            best = used
            seen.add(best)
            candidates = _candidates(best)
    return best, spent


def _candidates(best: Bytes) -> Iterator[Bytes]:
    """Simpler bytes, boldest first."""
    program, world = best
    yield Bytes(b"", b"")
    yield Bytes(program, b"")
    for size in _BLOCKS:
        for at in range(len(program) - size, -1, -1):
            yield Bytes(program[:at] + program[at + size :], world)
    for size in _BLOCKS:
        for at in range(0, len(world), size):
            if any(world[at : at + size]):
                yield Bytes(program, world[:at] + bytes(min(size, len(world) - at)) + world[at + size :])
    for at, value in enumerate(program):
        for less in _less(value):
            yield Bytes(program[:at] + bytes([less]) + program[at + 1 :], world)
    for at, value in enumerate(world):
        for less in _less(value):
            yield Bytes(program, world[:at] + bytes([less]) + world[at + 1 :])
    for size in (4, 2, 1):
        for at in range(len(world) - size, -1, -1):
            yield Bytes(program, world[:at] + world[at + size :])


def _less(value: int) -> list[int]:
    """Smaller values to try, smallest first."""
    if value <= 8:  # noqa: PLR2004 - few enough to try all
        return list(range(value))
    return sorted({0, 1, 2, 3, value // 2, value - 1})
